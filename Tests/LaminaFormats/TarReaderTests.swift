import Foundation
import LaminaFormats
import LaminaTestSupport
import Testing

@Suite("tar reader")
struct TarReaderTests {
    static let rich: [TarFile] = {
        var numbers = SeededNumbers(state: 1)
        var owned = TarFile.file("owned", [1])
        owned.header.userID = 4_000_000_000
        owned.header.groupID = 3_000_000
        owned.header.userName = Array("user".utf8)
        owned.header.groupName = Array("group".utf8)
        owned.header.attributes = [
            .init(name: Array("security.capability".utf8), value: [1, 0, 0, 2, 0xff, 10, 0]),
            .init(name: Array("user.empty".utf8), value: []),
        ]
        var device = TarFile(
            TarHeader(
                kind: .blockDevice, name: Array("dev/sda".utf8), mode: 0o660, deviceMajor: 8, deviceMinor: 1_000_000))
        device.header.modificationTime = .init(seconds: -2, nanoseconds: 500_000_000)
        var bytes = TarFile.file("raw", [2])
        bytes.header.name = [0xff, 0xfe, 10, 0x80]
        var old = TarFile.file("old", [])
        old.header.modificationTime = .init(seconds: -1_000_000_000, nanoseconds: 1)
        return [
            .directory("./"), .directory("dev/"), .file("a", Array("hello".utf8)), owned, device, bytes, old,
            .file(String(repeating: "n", count: 255), numbers.bytes(513)),
            .file(String(repeating: "d/", count: 40) + "deep", numbers.bytes(512)),
            .file(String(repeating: "long/", count: 300) + "deep", numbers.bytes(1)),
            .link("link", to: "a"), .link("symbolic", to: String(repeating: "t", count: 300), kind: .symbolicLink),
            TarFile(TarHeader(kind: .fifo, name: Array("fifo".utf8), mode: 0o6777)),
            TarFile(TarHeader(kind: .characterDevice, name: Array("null".utf8), deviceMajor: 1, deviceMinor: 3)),
            .file("empty", []), .file("last", numbers.bytes(70_000)),
        ]
    }()

    @Test(
        "what the writer says is what the reader reads, in pieces of any size",
        arguments: [1, 7, 511, 512, 513, 1 << 20])
    func roundTrip(pieceSize: Int) throws {
        #expect(try readTar(makeTar(Self.rich), pieceSize: pieceSize) == Self.rich)
        #expect(try readTar(makeTar(Self.rich, isEnded: false), pieceSize: pieceSize) == Self.rich)
    }

    @Test("a reader that is saved in the midst goes on from there, and says where entries are")
    func goesOn() throws {
        let bytes = try makeTar(Self.rich)
        try bytes.withUnsafeBytes { all in
            var reader = TarReader()
            var first = UnsafeRawBufferPointer(rebasing: all[..<5000])
            var names: [[UInt8]] = []
            func take(_ reader: inout TarReader, _ piece: inout UnsafeRawBufferPointer) throws {
                while true {
                    switch try reader.next(&piece) {
                    case .more: return
                    case .entry(let entry):
                        names.append(entry.header.name)
                        #expect(entry.offset % 512 == 0 && entry.payloadOffset >= entry.offset + 512)
                        if entry.header.name == Array("a".utf8) {
                            #expect(
                                all[Int(entry.payloadOffset)..<Int(entry.payloadOffset) + 5].elementsEqual("hello".utf8)
                            )
                        }
                    case .payload, .zeros: continue
                    }
                }
            }
            try take(&reader, &first)
            // Saved and read again, like a checkpoint.
            var copy = try JSONDecoder().decode(TarReader.self, from: JSONEncoder().encode(reader))
            #expect(copy.offset == 5000)
            var rest = UnsafeRawBufferPointer(rebasing: all[5000...])
            try take(&copy, &rest)
            try copy.finish()
            #expect(copy.hasEnded && copy.isBetweenEntries)
            #expect(names == Self.rich.map(\.header.name))
        }
    }

    @Test(
        "archives of GNU tar and Python in every format are read", arguments: ["v7", "ustar", "oldgnu", "gnu", "pax"])
    func foreign(format: String) throws {
        let scratch = Scratch()
        let long = String(repeating: "x", count: 90)
        let isShort = format == "v7" || format == "ustar"
        let name = isShort ? "d/" + long : "d/" + long + "/" + long + "/" + long
        try run(
            "sh", "-c",
            "cd '\(scratch.path)' && mkdir -p 'd/\(long)-' \"$(dirname '\(name)')\" && printf hello > '\(name)' "
                + "&& ln '\(name)' d/hard && ln -s '\(name)' d/soft && touch -d @1700000000.123456789 '\(name)' "
                + "&& tar --format=\(format) --owner=me:70000 --group=us:5 -cf out.tar d")
        let tar = try [UInt8](Data(contentsOf: URL(fileURLWithPath: scratch.path + "/out.tar")))
        let files = try readTar(tar, pieceSize: 1000)
        let file = try #require(files.first { $0.header.kind == .regular })
        #expect(file.payload == Array("hello".utf8))
        #expect(file.header.userID == 70000 && file.header.groupID == 5)
        #expect(file.header.modificationTime.seconds == 1_700_000_000)
        #expect(file.header.modificationTime.nanoseconds == (format == "pax" ? 123_456_789 : 0))
        #expect(file.header.userName == (format == "v7" ? [] : Array("me".utf8)))
        let paths = Set(files.map { String(decoding: Tar.clean($0.header.name), as: UTF8.self) })
        #expect(paths.isSuperset(of: [name, "d/hard", "d/soft", "d/\(long)-"]))
        let linked = files.filter { $0.header.kind == .hardLink || $0.header.kind == .symbolicLink }
        #expect(linked.count == 2 && linked.contains { $0.header.linkName == Array(name.utf8) })
        #expect(files.filter { $0.header.kind == .directory }.count >= 2)
    }

    @Test("base-256 sizes and owners, signed checksums and global pax headers are understood")
    func variants() throws {
        var block = try makeTar([.file("é", Array("abc".utf8))], isEnded: false)
        block.replaceSubrange(124..<136, with: [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3])
        block.replaceSubrange(108..<116, with: [0x80, 0, 0, 0, 0x80, 0, 0, 1])
        block.replaceSubrange(136..<148, with: [UInt8](repeating: 0xff, count: 11) + [0xfe])
        seal(&block, signed: true)
        let file = try #require(readTar(block).first)
        #expect(file.payload == Array("abc".utf8))
        #expect(file.header.userID == 0x8000_0001)
        #expect(file.header.modificationTime.seconds == -2)

        let global = extended("g", Array("11 uid=123\n21 path=to-be-hidden\n".utf8))
        let local = extended("x", Array("16 path=visible\n".utf8))
        let read = try readTar(global + local + makeTar([.file("a", [])], isEnded: false) + makeTar([.file("b", [])]))
        #expect(read.map { String(decoding: $0.header.name, as: UTF8.self) } == ["visible", "to-be-hidden"])
        #expect(read.allSatisfy { $0.header.userID == 123 })
    }

    struct Hostile: Sendable, CustomTestStringConvertible {
        var name: String
        var bytes: [UInt8]
        var message: String
        var testDescription: String { name }
    }

    static var hostile: [Hostile] {
        guard let plain = try? makeTar([.file("victim", Array("hello".utf8)), .file("second", [1])]) else { return [] }
        func with(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
            var bytes = plain
            change(&bytes)
            seal(&bytes)
            return bytes
        }
        var wrongSum = plain
        wrongSum[0] ^= 1
        let lone = Array(plain[..<1024]) + [UInt8](repeating: 0, count: 512) + plain[1024...]
        let bomb = extended("x", [UInt8](repeating: UInt8(ascii: "a"), count: 100), size: 2 << 20)
        let piled = (0..<12).flatMap { index in
            extended("x", Array("100009 comment=".utf8) + [UInt8](repeating: 65, count: 99_993) + [10])
        }
        return [
            Hostile(name: "cut in a payload", bytes: Array(plain[..<514]), message: "cut short"),
            Hostile(name: "cut in a header", bytes: Array(plain[..<1300]), message: "cut short in a header"),
            Hostile(
                name: "cut behind an extended header", bytes: extended("x", Array("12 path=abc\n".utf8)),
                message: "cut short"),
            Hostile(name: "wrong checksum", bytes: wrongSum, message: "checksum"),
            Hostile(
                name: "negative size",
                bytes: with { $0.replaceSubrange(124..<136, with: repeatElement(0xff, count: 12)) }, message: "size -1"),
            Hostile(
                name: "huge size",
                bytes: with {
                    $0.replaceSubrange(124..<136, with: [0x80, 0, 0, 0, 0x7f] + [UInt8](repeating: 0xff, count: 7))
                },
                message: "out of range"),
            Hostile(
                name: "size beyond 64 bits",
                bytes: with { $0.replaceSubrange(124..<136, with: [0x80] + [UInt8](repeating: 0x7f, count: 11)) },
                message: "size is not a number"),
            Hostile(
                name: "letters for a size", bytes: with { $0.replaceSubrange(124..<130, with: Array("12x456".utf8)) },
                message: "size is not a number"),
            Hostile(
                name: "pax size negative", bytes: extended("x", Array("11 size=-5\n".utf8)) + plain, message: "'size'"),
            Hostile(
                name: "pax size overflow", bytes: extended("x", Array("28 size=9223372036854775807\n".utf8)) + plain,
                message: "out of range"),
            Hostile(
                name: "pax record too long", bytes: extended("x", Array("99 path=abc\n".utf8)) + plain,
                message: "pax record"),
            Hostile(
                name: "pax record without length", bytes: extended("x", Array("path=abc\n".utf8)) + plain,
                message: "pax record"),
            Hostile(
                name: "pax record without keyword", bytes: extended("x", Array("7 =abc\n".utf8)) + plain,
                message: "keyword"),
            Hostile(
                name: "NUL in a pax path", bytes: extended("x", Array("12 path=a\0c\n".utf8)) + plain, message: "NUL"),
            Hostile(name: "pax bomb", bytes: bomb, message: "larger than the limit"),
            Hostile(name: "many pax headers", bytes: piled + plain, message: "larger than the limit"),
            Hostile(
                name: "long name bomb", bytes: extended("L", [65], size: 1 << 40), message: "larger than the limit"),
            Hostile(
                name: "GNU sparse without a map", bytes: with { $0[156] = UInt8(ascii: "S") }, message: "map of holes"),
            Hostile(
                name: "a hole in the wrong place",
                bytes: extended("x", Array("23 GNU.sparse.offset=1\n26 GNU.sparse.offset=1234\n".utf8)) + plain,
                message: "makes no sense"),
            Hostile(
                name: "a map of holes that does not fit",
                bytes: extended("x", Array("21 GNU.sparse.size=9\n23 GNU.sparse.map=0,90\n".utf8)) + plain,
                message: "does not fit"),
            Hostile(name: "unknown type", bytes: with { $0[156] = UInt8(ascii: "M") }, message: "unknown type 'M'"),
            Hostile(name: "lone block of zeros", bytes: lone, message: "lone block"),
            Hostile(name: "no tar at all", bytes: [UInt8](repeating: 65, count: 4096), message: "checksum"),
        ]
    }

    @Test("hostile archives are refused with an error that says what is wrong and where", arguments: hostile)
    func refuses(_ hostile: Hostile) throws {
        let error = try #require(throws: FormatError.self) { try readTar(hostile.bytes) }
        #expect(error.description.contains(hostile.message), "\(error)")
        #expect(error.offset != nil)
    }

    @Test("thousands of damaged archives give entries or an error, and never a crash")
    func fuzz() throws {
        let valid = try makeTar(Self.rich) + extended("g", Array("11 uid=123\n".utf8))
        let heads = (0..<(valid.count / 512)).map { $0 * 512 }
        var numbers = SeededNumbers(state: 42)
        var errors = 0
        for _ in 0..<3000 {
            var bytes = valid
            let head = heads.randomElement(using: &numbers) ?? 0
            for _ in 0..<Int.random(in: 1...8, using: &numbers) {
                bytes[head + Int.random(in: 0..<512, using: &numbers)] = UInt8.random(in: 0...255, using: &numbers)
            }
            // With a right checksum the damage gets further.
            if Bool.random(using: &numbers) { seal(&bytes, at: head) }
            if Int.random(in: 0..<4, using: &numbers) == 0 {
                bytes.removeLast(Int.random(in: 0..<bytes.count, using: &numbers))
            }
            do {
                _ = try readTar(bytes, pieceSize: Int.random(in: 100...5000, using: &numbers))
            } catch is FormatError {
                errors += 1
            }
        }
        #expect(errors > 500 && errors < 3000)
    }

    @Test(
        "names are cleaned as paths from the root",
        arguments: [
            ("./a//b/", "a/b"), ("/", ""), ("", ""), ("../../a", "a"), ("a/../../b/./c/..", "b"), ("a/b/../c", "a/c"),
            ("..", ""), ("...", "..."),
        ])
    func cleans(name: String, path: String) {
        #expect(Tar.clean(Array(name.utf8)) == Array(path.utf8))
    }
}

/// Writes the checksum again.
private func seal(_ bytes: inout [UInt8], signed: Bool = false, at start: Int = 0) {
    var sum = 8 * 32
    for index in 0..<512 where !(148..<156).contains(index) {
        sum += signed ? Int(Int8(bitPattern: bytes[start + index])) : Int(bytes[start + index])
    }
    let digits = Array(String(max(0, sum), radix: 8).utf8)
    bytes.replaceSubrange(
        start + 148..<start + 156, with: [UInt8](repeating: 48, count: 6 - digits.count) + digits + [0, 32])
}

/// An extended header of any type, with a size that may lie.
private func extended(_ type: Character, _ data: [UInt8], size: Int? = nil) -> [UInt8] {
    var block = [UInt8](repeating: 0, count: 512)
    block.replaceSubrange(0..<4, with: Array("head".utf8))
    let digits = Array(String(size ?? data.count, radix: 8).utf8)
    if digits.count <= 11 {
        block.replaceSubrange(124..<136, with: [UInt8](repeating: 48, count: 11 - digits.count) + digits + [0])
    } else {
        block[124] = 0x80
        for index in 0..<8 { block[135 - index] = UInt8(truncatingIfNeeded: (size ?? 0) >> (8 * index)) }
    }
    block[156] = type.asciiValue ?? 0
    seal(&block)
    return block + data + [UInt8](repeating: 0, count: Tar.padding(Int64(data.count)))
}
