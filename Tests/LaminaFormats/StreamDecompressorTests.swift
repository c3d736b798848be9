import Testing

@testable import LaminaFormats

@Suite("decompressing a whole blob")
struct StreamDecompressorTests {
    /// Pushes `input` in pieces; returns what comes out.
    private func run(
        _ compression: StreamDecompressor.Compression, _ input: [UInt8], piece: Int, finish: Bool = true
    ) throws -> [UInt8] {
        let decompressor = try StreamDecompressor(compression)
        var output: [UInt8] = []
        for start in stride(from: 0, to: input.count, by: piece) {
            try input[start..<min(start + piece, input.count)].withUnsafeBytes {
                try decompressor.push($0) {
                    #expect(!$0.isEmpty && $0.count <= StreamDecompressor.pieceSize)
                    output.append(contentsOf: $0)
                }
            }
        }
        if finish { try decompressor.finish() }
        return output
    }

    static let payload = noise(300_000) + [UInt8](repeating: 7, count: 2_000_000) + Array("the end".utf8)

    @Test(
        "the magic bytes tell",
        arguments: [
            ([0x1f, 0x8b, 8, 0], StreamDecompressor.Compression.gzip), ([0x28, 0xb5, 0x2f, 0xfd], .zstd),
            ([0x5e, 0x2a, 0x4d, 0x18], .zstd), ([0x60, 0x2a, 0x4d, 0x18], .identity), ([], .identity),
            ([0x1f], .identity), ([0x75, 0x73, 0x74, 0x61, 0x72], .identity),
        ] as [([UInt8], StreamDecompressor.Compression)])
    func detect(_ head: [UInt8], _ expected: StreamDecompressor.Compression) {
        #expect(head.withUnsafeBytes { StreamDecompressor.detect($0) } == expected)
    }

    @Test("members and frames follow each other, in pieces of any size", arguments: [1021, 65536, 10_000_000])
    func pieces(_ piece: Int) throws {
        let (one, two) = (Self.payload, Array("two".utf8))
        #expect(try run(.gzip, gzip(one) + gzip([]) + gzip(two), piece: piece) == one + two)
        let skippable: [UInt8] = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]
        #expect(try run(.zstd, zstd(one) + skippable + zstd(two) + skippable, piece: piece) == one + two)
        #expect(try run(.identity, one, piece: piece) == one)
    }

    @Test("byte by byte")
    func bytes() throws {
        let payload = Array("lamina".utf8)
        #expect(try run(.gzip, gzip(payload) + gzip(payload), piece: 1) == payload + payload)
        #expect(try run(.zstd, zstd(payload) + zstd(payload), piece: 1) == payload + payload)
    }

    @Test("output of exactly one piece, and of two, is complete", arguments: [256 << 10, 512 << 10, (256 << 10) + 1])
    func fullPieces(_ count: Int) throws {
        let payload = [UInt8](repeating: 1, count: count)
        #expect(try run(.gzip, gzip(payload), piece: 1 << 20) == payload)
        #expect(try run(.zstd, zstd(payload), piece: 1 << 20) == payload)
    }

    @Test("an eStargz blob is its tar")
    func fixture() throws {
        let layer = try LayerFixture.layers("estargz")[1]
        #expect(try run(.gzip, layer.blob, piece: 4096).count == 12288)
    }

    @Test("what is cut off is an error at the end", arguments: [StreamDecompressor.Compression.gzip, .zstd])
    func truncated(_ compression: StreamDecompressor.Compression) throws {
        let whole = compression == .gzip ? gzip(Self.payload) : zstd(Self.payload)
        for count in [0, 1, 5, 100, whole.count - 1] {
            let error = formatError { _ = try run(compression, Array(whole.prefix(count)), piece: 4096) }
            #expect(error?.code == .truncated, "\(count) bytes")
        }
    }

    @Test("damage is an error that says where", arguments: [StreamDecompressor.Compression.gzip, .zstd])
    func damaged(_ compression: StreamDecompressor.Compression) throws {
        let whole = compression == .gzip ? gzip(Self.payload) : zstd(Self.payload)
        // zstd defines what may follow a frame; for gzip only the members count, as for gzip(1) and the pull of a plain layer.
        let behind =
            compression == .gzip ? [0x1f, 0x8b, 9, 0] + [UInt8](repeating: 0, count: 20) : Array("garbage".utf8)
        let error = formatError { _ = try run(compression, whole + behind, piece: 4096) }
        #expect(error?.code == .corruptMember)
        #expect((error?.offset ?? 0) >= Int64(whole.count))
        var broken = whole
        broken[0] ^= 0xff
        #expect(formatError { _ = try run(compression, broken, piece: 4096) }?.code == .corruptMember)
    }

    @Test("what stands behind the last gzip member is passed over, as by gzip", arguments: [1, 4096, 1 << 20])
    func foreign(piece: Int) throws {
        for behind in [[0], [UInt8](repeating: 0, count: 9000), Array("garbage behind".utf8), [0x1f]] {
            #expect(try run(.gzip, gzip(Self.payload) + behind, piece: piece) == Self.payload)
        }
    }

    @Test("a zstd window of 256 MiB is read, and one that is larger is refused by its name")
    func windows() throws {
        // A frame's head (RFC 8878 §3.1.1): magic, a descriptor without anything, the window's exponent less 10; then a raw last block.
        func frame(windowLog: UInt8) -> [UInt8] {
            [0x28, 0xb5, 0x2f, 0xfd, 0, (windowLog - 10) << 3, 3 << 3 | 1, 0, 0] + Array("abc".utf8)
        }
        #expect(try run(.zstd, frame(windowLog: 28), piece: 4096) == Array("abc".utf8))
        let error = formatError { _ = try run(.zstd, frame(windowLog: 29), piece: 4096) }
        #expect(error?.code == .tooLarge && error?.description.contains("window is over the limit of 256 MiB") == true)
    }

    @Test("a wrong CRC is damage")
    func checksum() throws {
        var member = gzip(Self.payload)
        member[member.count - 6] ^= 1
        #expect(formatError { _ = try run(.gzip, member, piece: 4096) }?.code == .corruptMember)
    }
}
