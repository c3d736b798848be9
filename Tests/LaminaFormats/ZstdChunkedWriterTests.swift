import Glibc
import LaminaDigest
import Testing

@testable import LaminaFormats

@Suite("a layer written as zstd:chunked")
struct ZstdChunkedWriterTests {
    private static func file(_ name: String, _ bytes: [UInt8]) -> (TarHeader, [UInt8]) {
        var header = TarHeader(kind: .regular, name: Array(name.utf8), size: Int64(bytes.count))
        header.mode = 0o644
        header.modificationTime = .init(seconds: 1_700_000_000, nanoseconds: 123_456_789)
        return (header, bytes)
    }

    private static let entries: [(TarHeader, [UInt8])] = [
        (TarHeader(kind: .directory, name: Array("d".utf8), size: 0), []),
        file("d/empty", []), file("d/small", Array("hello\n".utf8)),
        file("d/large", (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }),
        file("d/exact", [UInt8](repeating: 7, count: 8192)),
    ]

    private static func write(
        _ entries: [(TarHeader, [UInt8])], threads: Int = 2
    ) throws -> (blob: [UInt8], result: LayerWriter.Result) {
        var options = LayerWriter.Options()
        options.format = .zstdChunked
        options.chunkSize = 4096
        options.threads = threads
        options.level = 3
        var blob: [UInt8] = []
        let writer = try LayerWriter(options: options) { blob += $0 }
        try writer.append(LayerWriter.Landmark.noPrefetch)
        for (header, bytes) in entries {
            try writer.append(header)
            try bytes.withUnsafeBytes { try writer.write($0) }
        }
        let result = try writer.finish()
        return (blob, result)
    }

    private func place(_ blob: [UInt8]) throws -> (toc: ZstdChunked.Place, tarSplit: ZstdChunked.Place) {
        let footer = try blob.withUnsafeBytes { (bytes) throws in
            try LayerFooter.find(in: bytes, blobSize: Int64(blob.count))
        }
        guard case .zstdChunked(let toc, let tarSplit?) = footer else {
            throw FormatError(.badFooter, "the footer is not that of the containers dialect")
        }
        return (toc, tarSplit)
    }

    private func tar(_ blob: [UInt8]) throws -> [UInt8] {
        let stream = try StreamDecompressor(.zstd)
        var tar: [UInt8] = []
        try blob.withUnsafeBytes { try stream.push($0) { tar += $0 } }
        try stream.finish()
        return tar
    }

    @Test("is read again: tree, chunks, times to the nanosecond, and an ordinary tar.zst")
    func readAgain() throws {
        let (blob, result) = try Self.write(Self.entries)
        #expect(SHA256.hash(blob) == result.blobDigest)
        #expect(try SHA256.hash(tar(blob)) == result.diffID)
        let (toc, tarSplit) = try place(blob)
        #expect(result.chunked?.toc == toc && result.chunked?.tarSplit == tarSplit)
        let frame = Array(blob[Int(toc.offset)..<Int(toc.range.upperBound)])
        #expect(SHA256.hash(frame) == result.chunked?.tocChecksum)
        let json = try frame.withUnsafeBytes { try ZstdChunked.extractTOC($0, place: toc) }
        let tree = try json.withUnsafeBytes {
            try LayerTree.parse(toc: $0, tocOffset: toc.offset - 8, format: .zstdChunked)
        }
        #expect(tree.brokenPromise(tocOffset: toc.offset - 8) == nil)
        let large = tree.nodes[Int(try #require(tree.node(at: "d/large")))]
        #expect(large.mtimeNanoseconds == 123_456_789 && large.size == 100_000)
        let decoder = try ChunkDecoder()
        for content in tree.contents {
            for chunk in tree.chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)] {
                let range = Int(chunk.blobOffset)..<Int(chunk.blobOffset + chunk.blobSize)
                try Array(blob[range]).withUnsafeBytes { member in
                    try decoder.decode(member, as: .zstd, needing: Int(chunk.size)) { payload in
                        let bytes = UnsafeRawBufferPointer(rebasing: payload[..<Int(chunk.size)])
                        #expect(SHA256.hash(bytes) == chunk.digest)
                    }
                }
            }
        }
    }

    @Test("chunks of nothing but zeros are holes to who reads the table of contents, and bytes in the tar")
    func holes() throws {
        let zeros = [UInt8](repeating: 0, count: 4096)
        let entries = [
            Self.file("hole", zeros), Self.file("small", [0, 0, 0]),
            Self.file("mixed", zeros + [1] + zeros + zeros + [0]),
            Self.file("end", [5] + zeros.dropLast() + zeros), Self.file("data", [1]),
        ]
        let (blob, result) = try Self.write(entries)
        #expect(try SHA256.hash(tar(blob)) == result.diffID)
        let (toc, _) = try place(blob)
        let json = try Array(blob[Int(toc.offset)..<Int(toc.range.upperBound)]).withUnsafeBytes {
            try ZstdChunked.extractTOC($0, place: toc)
        }
        let tree = try json.withUnsafeBytes {
            try LayerTree.parse(toc: $0, tocOffset: toc.offset - 8, format: .zstdChunked)
        }
        #expect(tree.brokenPromise(tocOffset: toc.offset - 8) == nil)
        func holes(_ name: String) throws -> [Bool] {
            let content = tree.contents[Int(tree.nodes[Int(try #require(tree.node(at: name)))].content)]
            return content.chunks.map { tree.chunks[Int($0)].blobSize == 0 }
        }
        #expect(try holes("hole") == [true] && holes("small") == [false])
        #expect(try holes("mixed") == [true, false, true, false] && holes("end") == [false, true])
    }

    @Test("does not depend on the number of threads")
    func threads() throws {
        let (one, three) = try (Self.write(Self.entries, threads: 1), Self.write(Self.entries, threads: 3))
        #expect(one.blob == three.blob)
    }

    @Test("has a tar-split from which the tar is put together again, with Go's checksums")
    func tarSplit() throws {
        let (blob, result) = try Self.write(Self.entries)
        let (_, place) = try place(blob)
        let bytes = Array(blob[Int(place.offset)..<Int(place.range.upperBound)])
        let files = Dictionary(uniqueKeysWithValues: Self.entries.map { ($0.0.name, $0.1) })
        var hash = SHA256()
        try bytes.withUnsafeBytes { bytes in
            try TarSplit.read(bytes) { item in
                switch item {
                case .bytes(let bytes): hash.update(bytes)
                case .file(let name, _): (files[name] ?? []).withUnsafeBytes { hash.update($0) }
                }
            }
        }
        #expect(hash.digest() == result.diffID)
        // podman 5 compares this with the hash of the compressed tar-split before it decompresses it, and pulls nothing if they
        // differ.
        let (toc, _) = try self.place(blob)
        let json = try Array(blob[Int(toc.offset)..<Int(toc.range.upperBound)]).withUnsafeBytes {
            try ZstdChunked.extractTOC($0, place: toc)
        }
        #expect(String(decoding: json, as: UTF8.self).hasSuffix(",\"tarSplitDigest\":\"\(SHA256.hash(bytes))\"}"))
        // hash/crc64's own test value for ISO.
        var crc = CRC64()
        Array("This is a test of the emergency broadcast system.".utf8).withUnsafeBytes { crc.update($0) }
        #expect(crc.value == 0xe7fc_f100_6b50_3b61)
    }

    @Test("a kept part of a tar is the payload without its files, and says so when it is damaged")
    func tarPart() throws {
        let payload = [UInt8](0..<200)
        let cuts = [TarPart.Cut(offset: 100, size: 20), .init(offset: 10, size: 30), .init(offset: 100, size: 20)]
        let bytes = payload.withUnsafeBytes { TarPart.encode($0, cutting: cuts) }
        let part = try bytes.withUnsafeBytes { try TarPart($0) }
        #expect(part.cuts == [.init(offset: 10, size: 30), .init(offset: 100, size: 20)])
        #expect(part.rest == Array(payload[..<10] + payload[40..<100] + payload[120...]))
        #expect(throws: FormatError.self) { try Array(bytes.dropLast(3)).withUnsafeBytes { _ = try TarPart($0) } }
    }
}
