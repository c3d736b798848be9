import CZlib
import CZstd
import Foundation
import Testing

@testable import LaminaFormats

/// Compresses to one gzip member; level 0 stores.
func gzipMember(_ bytes: [UInt8], level: Int32 = 6, header: gz_header? = nil) -> [UInt8] {
    var stream = z_stream()
    deflateInit2_(
        &stream, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
    defer { deflateEnd(&stream) }
    var header = header ?? gz_header()
    return withUnsafeMutablePointer(to: &header) { header in
        deflateSetHeader(&stream, header)
        var input = bytes
        let bound = Int(deflateBound(&stream, UInt(bytes.count))) + 200_000
        return input.withUnsafeMutableBytes { input in
            [UInt8](unsafeUninitializedCapacity: bound) { output, count in
                stream.next_in = input.baseAddress?.assumingMemoryBound(to: UInt8.self)
                stream.avail_in = UInt32(input.count)
                stream.next_out = output.baseAddress
                stream.avail_out = UInt32(bound)
                let status = deflate(&stream, Z_FINISH)
                precondition(status == Z_STREAM_END)
                count = bound - Int(stream.avail_out)
            }
        }
    }
}

func zstdFrame(_ bytes: [UInt8]) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
        count = ZSTD_compress(buffer.baseAddress, buffer.count, bytes, bytes.count, 3)
    }
}

/// What came out of a blob, and where one could go on from.
struct Decompressed: Equatable {
    var output: [UInt8] = []
    var positions: [StreamPosition] = []
    /// The kind of the error that it ended with, where a test wants that.
    var failure: String?
}

extension LayerDecompressor {
    /// Decompresses the rest of a blob to its end, in pieces, and notes a position about every `spacing` bytes.
    func take(
        _ blob: [UInt8], from start: StreamPosition, _ spacing: Int64, _ inputSize: Int, _ outputSize: Int,
        into outcome: inout Decompressed
    ) throws {
        var last = start.outputOffset
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: outputSize, alignment: 16)
        defer { buffer.deallocate() }
        try blob.withUnsafeBytes { blob in
            var start = Int(start.blobOffset)
            while start < blob.count {
                let end = min(blob.count, start + inputSize)
                var input = UnsafeRawBufferPointer(rebasing: blob[start..<end])
                start = end
                var wasFull = false
                while !input.isEmpty || wasFull {
                    var room = buffer
                    let isDue = outputOffset - last >= spacing
                    let isBoundary = try step(&input, &room, stopsAtBoundary: isDue)
                    outcome.output += buffer[..<(outputSize - room.count)]
                    wasFull = room.isEmpty
                    if isDue, isBoundary {
                        outcome.positions.append(position)
                        last = outputOffset
                    }
                }
            }
        }
        try finish()
    }
}

@Suite("a blob that is decompressed from a position on")
struct LayerDecompressorTests {
    /// Decompresses the rest of a blob in pieces of odd sizes, and notes a position about every `spacing` bytes.
    private static func run(
        _ blob: [UInt8], _ compression: StreamDecompressor.Compression, from position: StreamPosition = .start,
        spacing: Int64 = 15_000, inputSize: Int = 4099, outputSize: Int = 7001
    ) throws -> Decompressed {
        var outcome = Decompressed()
        try LayerDecompressor(compression, from: position)
            .take(blob, from: position, spacing, inputSize, outputSize, into: &outcome)
        return outcome
    }

    private static func payload(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
        var numbers = SeededNumbers(state: seed)
        return numbers.bytes(count)
    }

    /// Blobs of many kinds, and what they are.
    private static func blobs() throws -> [(
        name: String, StreamDecompressor.Compression, blob: [UInt8], output: [UInt8]
    )] {
        let text = payload(300_000)
        let parts = stride(from: 0, to: text.count, by: 65_280).map { Array(text[$0..<min(text.count, $0 + 65_280)]) }
        var long = Array(repeating: UInt8(ascii: "n"), count: 3000) + [0]
        var withNames = [UInt8]()
        long.withUnsafeMutableBufferPointer { name in
            var header = gz_header()
            header.extra = name.baseAddress
            header.extra_len = 1999
            header.name = name.baseAddress
            header.comment = name.baseAddress
            header.hcrc = 1
            withNames = gzipMember(text, header: header)
        }
        return [
            ("one gzip member", .gzip, gzipMember(text), text),
            ("stored blocks", .gzip, gzipMember(text, level: 0), text),
            ("many members, as bgzip makes them", .gzip, parts.flatMap { gzipMember($0) } + gzipMember([]), text),
            ("extra field, name, comment and header CRC", .gzip, withNames, text),
            ("bytes behind the last member", .gzip, gzipMember(text) + [0, 0, 0, 7, 31, 139, 8], text),
            ("half a magic number behind it", .gzip, gzipMember(text) + [31], text),
            ("one zstd frame", .zstd, zstdFrame(text), text),
            ("many frames", .zstd, parts.flatMap { zstdFrame($0) }, text),
            ("not compressed", .identity, text, text),
        ]
    }

    @Test("gives the same bytes from every position on, whatever the pieces")
    func resumes() throws {
        for (name, compression, blob, output) in try Self.blobs() {
            for pieces in [(4099, 7001), (1, 300_001), (700_000, 100_000)] {
                let whole = try Self.run(blob, compression, inputSize: pieces.0, outputSize: pieces.1)
                #expect(whole.output == output, "\(name)")
                if name != "one zstd frame" { #expect(!whole.positions.isEmpty, "\(name)") }
                for position in whole.positions {
                    let rest = try Self.run(blob, compression, from: position, inputSize: 5003)
                    #expect(
                        rest.output == Array(output[Int(position.outputOffset)...]),
                        "\(name) from \(position.blobOffset)")
                    if compression == .gzip { #expect(position.decoder.count < 34 << 10) }
                }
            }
        }
    }

    @Test("needs nothing of the blob before its position, and of what is behind the next one")
    func standsAlone() throws {
        let text = Self.payload(400_000)
        let blob = gzipMember(text)
        let positions = try Self.run(blob, .gzip).positions
        for (first, next) in zip(positions, positions.dropFirst()) {
            var alone = [UInt8](repeating: 0xee, count: blob.count)
            let range = Int(first.blobOffset)..<Int(next.blobOffset)
            alone.replaceSubrange(range, with: blob[range])
            let decompressor = try LayerDecompressor(.gzip, from: first)
            var output = [UInt8](repeating: 0, count: Int(next.outputOffset - first.outputOffset))
            try alone.withUnsafeBytes { alone in
                var input = UnsafeRawBufferPointer(rebasing: alone[range])
                try output.withUnsafeMutableBytes { output in
                    var room = output
                    _ = try decompressor.step(&input, &room, stopsAtBoundary: false)
                    #expect(room.isEmpty)
                }
            }
            #expect(output == Array(text[Int(first.outputOffset)..<Int(next.outputOffset)]))
        }
    }

    @Test("refuses damage: a wrong CRC, a wrong length, cut ends, what is no member, a position of another version")
    func damage() throws {
        let text = Self.payload(100_000)
        let good = gzipMember(text)
        func code(_ blob: [UInt8], _ compression: StreamDecompressor.Compression = .gzip) -> FormatError.Code? {
            do {
                _ = try Self.run(blob, compression)
                return nil
            } catch let error as FormatError { return error.code } catch { return nil }
        }
        for index in [good.count - 8, good.count - 1, good.count / 2] {
            var bad = good
            bad[index] ^= 0x55
            #expect(code(bad) == .corruptMember, "byte \(index)")
        }
        for count in [0, 5, 20, good.count / 2, good.count - 1] {
            #expect(code(Array(good[..<count])) == .truncated, "\(count) bytes")
        }
        #expect(code(Array("no gzip at all".utf8)) == .corruptMember)
        #expect(code(good + Array(good[..<15])) == .truncated)
        let frame = zstdFrame(text)
        #expect(code(Array(frame[..<(frame.count / 2)]), .zstd) == .truncated)
        #expect(code([], .zstd) == .truncated)
        let position = StreamPosition(blobOffset: 5, outputOffset: 5, decoder: [2, 0, 0])
        #expect(throws: FormatError.self) { try LayerDecompressor(.gzip, from: position) }
    }
}
