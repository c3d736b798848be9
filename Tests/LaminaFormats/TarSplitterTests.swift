import LaminaDigest
import LaminaFormats
import Testing

@Suite("A tar-split that is made as the tar comes by")
struct TarSplitterTests {
    /// - Returns: the compressed tar-split.
    private func split(_ tar: [UInt8], pieceSize: Int = 1 << 20) throws -> [UInt8] {
        var bytes: [UInt8] = []
        let splitter = try TarSplitter { bytes += $0 }
        try tar.withUnsafeBytes { all in
            for start in stride(from: 0, to: all.count, by: pieceSize) {
                try splitter.take(UnsafeRawBufferPointer(rebasing: all[start..<min(all.count, start + pieceSize)]))
            }
        }
        try splitter.finish()
        #expect(splitter.tarSize == Int64(tar.count))
        return bytes
    }

    /// Puts the tar together as containers/storage does, from the files that a directory would have.
    private func join(_ split: [UInt8], _ files: [String: [UInt8]]) throws -> (tar: [UInt8], asked: [String]) {
        var (tar, asked): ([UInt8], [String]) = ([], [])
        try split.withUnsafeBytes {
            try TarSplit.read($0) { item in
                switch item {
                case .bytes(let bytes): tar += bytes
                case .file(let name, let size):
                    let name = String(decoding: name, as: UTF8.self)
                    guard size > 0 else { return }
                    asked.append(name)
                    let bytes = try #require(files[name])
                    #expect(Int64(bytes.count) == size)
                    tar += bytes
                }
            }
        }
        return (tar, asked)
    }

    @Test("the tar comes together again byte by byte, however it came", arguments: [1, 7, 512, 1000, 1 << 20])
    func roundTrip(pieceSize: Int) throws {
        let (large, odd) = (noise(3_000_000), noise(777, seed: 3))
        let tar =
            try makeTar([
                .directory("bin/"), .file("bin/large", large), .file("./bin/odd", odd), .file("bin/empty", []),
                .link("bin/hard", to: "bin/odd"), .link("bin/soft", to: "odd", kind: .symbolicLink),
                .file("bin/" + String(repeating: "n", count: 200), odd), .file("bin/.wh.gone", []),
            ]) + [UInt8](repeating: 0, count: 5000)
        let joined = try join(
            try split(tar, pieceSize: pieceSize),
            ["bin/large": large, "./bin/odd": odd, "bin/" + String(repeating: "n", count: 200): odd])
        #expect(joined.tar == tar)
        #expect(joined.asked.count == 3)
    }

    @Test("it has a bound, as what is embedded can be of any size", arguments: ["bin/.wh.x", "a/../b"])
    func bounded(_ name: String) throws {
        let small = try makeTar([.file(name, noise(3 << 20))])
        #expect(try join(try split(small), [:]).tar == small)
        let large = try makeTar([.file(name, noise(8 << 20))])
        var passed = 0
        #expect {
            let splitter = try TarSplitter { passed += $0.count }
            try large.withUnsafeBytes { all in
                for start in stride(from: 0, to: all.count, by: 1 << 16) {
                    try splitter.take(UnsafeRawBufferPointer(rebasing: all[start..<min(all.count, start + 1 << 16)]))
                }
            }
        } throws: {
            ($0 as? FormatError)?.code == .tooLarge
        }
        #expect(passed < 6 << 20)
    }

    @Test("files that the layer's directory does not have are in it themselves")
    func embedded() throws {
        let odd = noise(777)
        let tar = try makeTar([
            .file(".no.prefetch.landmark", [15]), .file("a", odd), .file("d/.wh.b", odd), .file("../up", odd),
            .file("d/stargz.index.json", odd), .file("stargz.index.json", Array("{}".utf8)),
        ])
        let joined = try join(try split(tar), ["a": odd, "d/stargz.index.json": odd])
        #expect(joined.tar == tar && joined.asked == ["a", "d/stargz.index.json"])
    }

    @Test("a tar in which a file with bytes has another entry's name cannot be split; twice the same directory can")
    func twice() throws {
        let odd = noise(777)
        _ = try split(try makeTar([.directory("d/"), .file("d/a", odd), .directory("d/")]))
        for second in [TarFile.file("d/a", odd), .file("./d/a", []), .link("d/a", to: "b")] {
            #expect(throws: FormatError.self) { _ = try split(try makeTar([.file("d/a", odd), second])) }
        }
    }

    @Test("what is no tar is an error, and so is one that is cut short")
    func damaged() throws {
        let tar = try makeTar([.file("a", noise(5000))])
        #expect(throws: FormatError.self) { _ = try split(Array(tar[..<3000])) }
        #expect(throws: FormatError.self) { _ = try split(noise(4096)) }
    }

    @Test("an error of whoever writes it is passed on")
    func full() throws {
        struct Full: Error {}
        let splitter = try TarSplitter { _ in throw Full() }
        let tar = try makeTar((0..<200).map { .file("f\($0)", noise(300, seed: UInt64($0 + 1))) })
        #expect(throws: Full.self) {
            try tar.withUnsafeBytes { try splitter.take($0) }
            try splitter.finish()
        }
    }
}
