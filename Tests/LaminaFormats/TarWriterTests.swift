import Foundation
import LaminaFormats
import LaminaTestSupport
import Testing

@Suite("tar writer")
struct TarWriterTests {
    @Test("GNU tar unpacks what is written, and Python reads every name, time and attribute")
    func foreignReaders() throws {
        let scratch = Scratch()
        let tar = try scratch.write(makeTar(TarReaderTests.rich), to: "a.tar")
        let script = """
            import sys, tarfile
            for m in tarfile.open(sys.argv[1], encoding='utf-8', errors='surrogateescape'):
                x = {k: v for k, v in m.pax_headers.items() if k.startswith('SCHILY.xattr.')}
                print(m.name.encode('utf-8', 'surrogateescape').hex(), m.type.decode(), oct(m.mode), m.uid, m.gid, m.size,
                      '%.1f' % float(m.mtime), m.linkname, m.devmajor, m.devminor, len(x), sep='|')
            """
        let lines = try run("python3", "-c", script, tar).split(separator: "\n")
        #expect(lines.count == TarReaderTests.rich.count)
        for (line, file) in zip(lines, TarReaderTests.rich) {
            let fields = line.split(separator: "|", omittingEmptySubsequences: false).map(String.init)
            var name = file.header.name
            if file.header.kind == .directory { name.removeLast() }
            #expect(fields[0] == name.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined())
            #expect(fields[2] == "0o" + String(file.header.mode, radix: 8))
            #expect(fields[3...5] == ["\(file.header.userID)", "\(file.header.groupID)", "\(file.header.size)"])
            let time =
                Double(file.header.modificationTime.seconds) + Double(file.header.modificationTime.nanoseconds) / 1e9
            #expect(fields[6] == String(format: "%.1f", time))
            #expect(fields[7] == String(decoding: file.header.linkName, as: UTF8.self))
            #expect(fields[10] == "\(file.header.attributes.count)")
        }
        try run("tar", "-tf", tar)
    }

    @Test(
        "the same entry gives the same bytes, in ustar where that can say it",
        arguments: [
            (100, false), (101, true), (255, true),
        ])
    func smallest(length: Int, needsRecords: Bool) throws {
        let file = TarFile.file(String(repeating: "n", count: length), [])
        let bytes = try makeTar([file], isEnded: false)
        #expect(try bytes == makeTar([file], isEnded: false))
        #expect(bytes.count == (needsRecords ? 1536 : 512))
        let split = TarFile.file(String(repeating: "d", count: 150) + "/" + String(repeating: "n", count: 100), [])
        #expect(try makeTar([split], isEnded: false).count == 512)
    }

    @Test("a pax record whose length grows by a digit when it counts itself is right", arguments: 85...110)
    func lengths(count: Int) throws {
        var file = TarFile.file("f", [])
        file.header.attributes = [.init(name: Array("user.a".utf8), value: [UInt8](repeating: 10, count: count - 20))]
        #expect(try readTar(makeTar([file])) == [file])
    }

    @Test("what tar cannot say is an error that names the entry")
    func refuses() {
        var nul = TarFile.file("a", [])
        nul.header.name = [65, 0]
        #expect(throws: FormatError.self) { try makeTar([nul]) }
        var attribute = TarFile.file("victim", [])
        attribute.header.attributes = [.init(name: Array("user.a=b".utf8), value: [])]
        let error = #expect(throws: FormatError.self) { try makeTar([attribute]) }
        #expect(error?.entry == "victim")
        attribute.header.attributes = [.init(name: Array("user.a".utf8), value: [UInt8](repeating: 0, count: 2 << 20))]
        #expect(throws: FormatError.self) { try makeTar([attribute]) }
    }
}
