import Foundation
import LaminaFormats
import LaminaTestSupport
import Testing

@Suite("a sparse file of GNU tar")
struct TarSparseTests {
    /// A file with holes in it, at its start and at its end; more parts than a header of the old format holds.
    private static func makeFile(in scratch: Scratch) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 6_000_000)
        var numbers = SeededNumbers(state: 3)
        let path = scratch.path + "/sparse"
        _ = try scratch.write([], to: "sparse")
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        for part in 0..<40 {
            let start = 65_536 + part * 131_072
            let data = numbers.bytes(part == 7 ? 5_000 : 20_480)
            bytes.replaceSubrange(start..<start + data.count, with: data)
            try file.seek(toOffset: UInt64(start))
            try file.write(contentsOf: Data(data))
        }
        try file.truncate(atOffset: UInt64(bytes.count))
        try file.close()
        return bytes
    }

    @Test(
        "comes as the bytes that it stands for, in every format and with any pieces",
        arguments: [["--format=gnu"], ["--sparse-version=0.0"], ["--sparse-version=0.1"], ["--sparse-version=1.0"]],
        [1 << 20, 4099, 1])
    func formats(options: [String], pieceSize: Int) throws {
        let scratch = Scratch()
        let bytes = try Self.makeFile(in: scratch)
        _ = try scratch.write(Array("behind".utf8), to: "z")
        let empty = try scratch.write([], to: "hole")
        try FileHandle(forWritingTo: URL(fileURLWithPath: empty)).truncate(atOffset: 1_500_000)
        let format = options[0].hasPrefix("--sparse") ? ["--format=posix"] + options : options
        try run(
            "tar", "-cSf", scratch.path + "/t.tar", format[0], format.last ?? "", "-C", scratch.path, "sparse", "hole",
            "z")
        let tar = [UInt8](try Data(contentsOf: URL(fileURLWithPath: scratch.path + "/t.tar")))
        // Otherwise nothing is tested: the file system keeps no holes.
        try #require(tar.count < 2_000_000)
        let files = try readTar(tar, pieceSize: pieceSize)
        #expect(files.map { String(decoding: $0.header.name, as: UTF8.self) } == ["sparse", "hole", "z"])
        #expect(files.map(\.header.size) == [6_000_000, 1_500_000, 6])
        #expect(files[0].payload == bytes)
        #expect(files[1].payload == [UInt8](repeating: 0, count: 1_500_000))
        #expect(files[2].payload == Array("behind".utf8))
    }

    @Test("can be left and taken up again anywhere in its holes and parts")
    func resumes() throws {
        let scratch = Scratch()
        let bytes = try Self.makeFile(in: scratch)
        try run("tar", "-cSf", scratch.path + "/t.tar", "--format=gnu", "-C", scratch.path, "sparse")
        let tar = [UInt8](try Data(contentsOf: URL(fileURLWithPath: scratch.path + "/t.tar")))
        var payload: [UInt8] = []
        var reader = TarReader()
        try tar.withUnsafeBytes { tar in
            for start in stride(from: 0, to: tar.count, by: 30_011) {
                reader = try JSONDecoder().decode(TarReader.self, from: JSONEncoder().encode(reader))
                var piece = UnsafeRawBufferPointer(rebasing: tar[start..<min(tar.count, start + 30_011)])
                feeding: while true {
                    switch try reader.next(&piece) {
                    case .more: break feeding
                    case .entry(let entry): #expect(entry.isSparse && entry.holeSize > 5_000_000)
                    case .payload(let bytes): payload += bytes
                    case .zeros(let count): payload += [UInt8](repeating: 0, count: count)
                    }
                }
            }
        }
        try reader.finish()
        #expect(payload == bytes)
    }
}
