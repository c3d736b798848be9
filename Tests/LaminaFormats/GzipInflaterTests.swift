import CZlib
import Testing

@testable import LaminaFormats

@Suite("gzip by either library", .enabled(if: GzipInflater.available.count > 1))
struct GzipInflaterTests {
    /// Decompresses the rest of a blob in pieces, and notes a position about every `spacing` bytes.
    private static func run(
        _ blob: [UInt8], by inflater: GzipInflater, from position: StreamPosition = .start, spacing: Int64 = .max,
        inputSize: Int = 4099, outputSize: Int = 70_001
    ) -> Decompressed {
        var outcome = Decompressed()
        do {
            try LayerDecompressor(.gzip, from: position, by: inflater)
                .take(blob, from: position, spacing, inputSize, outputSize, into: &outcome)
        } catch let error as FormatError {
            outcome.failure = "\(error.code)"
        } catch {
            outcome.failure = "\(error)"
        }
        return outcome
    }

    /// A gzip member with a strategy of zlib's: 4 (Z_FIXED) makes blocks without a code of their own.
    private static func member(_ bytes: [UInt8], level: Int32, strategy: Int32, flush: Int = 0) -> [UInt8] {
        var stream = z_stream()
        deflateInit2_(
            &stream, level, Z_DEFLATED, 31, 8, strategy, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        defer { deflateEnd(&stream) }
        var bytes = bytes
        let bound =
            Int(deflateBound(&stream, UInt(bytes.count))) + bytes.count / max(flush, 1) * 16 * min(flush, 1) + 64
        return bytes.withUnsafeMutableBytes { input in
            [UInt8](unsafeUninitializedCapacity: bound) { output, count in
                stream.next_in = input.baseAddress?.assumingMemoryBound(to: UInt8.self)
                stream.next_out = output.baseAddress
                stream.avail_out = UInt32(bound)
                var left = input.count
                while flush > 0, left > flush {
                    stream.avail_in = UInt32(flush)
                    deflate(&stream, Z_PARTIAL_FLUSH)
                    left -= flush
                }
                stream.avail_in = UInt32(left)
                deflate(&stream, Z_FINISH)
                count = bound - Int(stream.avail_out)
            }
        }
    }

    /// Bytes with parts that compress well, some, and not at all.
    private static func mixture(_ count: Int, _ numbers: inout SeededNumbers) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let size = Int(numbers.next() % 60_000) + 1
            switch numbers.next() % 4 {
            case 0: bytes += [UInt8](repeating: UInt8(truncatingIfNeeded: numbers.next()), count: size)
            case 1: bytes += numbers.bytes(size)
            case 2: bytes += (0..<size).map { _ in UInt8(truncatingIfNeeded: numbers.next()) }
            default: bytes += bytes.suffix(size)
            }
        }
        return Array(bytes.prefix(count))
    }

    private static func blobs(_ seed: UInt64) -> [(name: String, blob: [UInt8], output: [UInt8])] {
        var numbers = SeededNumbers(state: seed)
        let bytes = mixture(900_000, &numbers)
        let random = (0..<400_000).map { _ in UInt8(truncatingIfNeeded: numbers.next()) }
        var members: [UInt8] = []
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, start + Int(numbers.next() % 90_000))
            members += member(Array(bytes[start..<end]), level: Int32(numbers.next() % 10), strategy: 0)
            start = end
        }
        return [
            ("level 1", member(bytes, level: 1, strategy: 0), bytes),
            ("level 6", member(bytes, level: 6, strategy: 0), bytes),
            ("level 9", member(bytes, level: 9, strategy: 0), bytes),
            ("stored", member(bytes, level: 0, strategy: 0), bytes),
            ("what does not compress", member(random, level: 6, strategy: 0), random),
            ("fixed codes", member(bytes, level: 6, strategy: Z_FIXED), bytes),
            ("Huffman alone", member(bytes, level: 6, strategy: Z_HUFFMAN_ONLY), bytes),
            ("runs", member(bytes, level: 6, strategy: Z_RLE), bytes),
            ("flushed every 700 bytes", member(bytes, level: 6, strategy: 0, flush: 700), bytes),
            ("members", members, bytes),
            (
                "zeros", member([UInt8](repeating: 0, count: 3_000_000), level: 6, strategy: 0),
                .init(repeating: 0, count: 3_000_000)
            ),
        ]
    }

    @Test("gives the same bytes, and each goes on from the other's positions", arguments: [1, 2] as [UInt64])
    func swapped(seed: UInt64) {
        for (name, blob, output) in Self.blobs(seed) {
            for maker in GzipInflater.allCases {
                let whole = Self.run(blob, by: maker, spacing: 40_000)
                #expect(whole.failure == nil && whole.output == output, "\(name) by \(maker)")
                // What is stored with few codes has few places; but never none for long.
                let places = [0] + whole.positions.map(\.outputOffset) + [Int64(output.count)]
                let longest = zip(places, places.dropFirst()).map { $1 - $0 }.max() ?? 0
                #expect(longest < 700_000 || name == "zeros", "\(name) by \(maker): \(longest)")
                // Each is a decoding to the end: some of them, spread over the blob, and others with another seed.
                let step = max(1, whole.positions.count / 6)
                for number in stride(from: Int(seed) % step, to: whole.positions.count, by: step) {
                    let position = whole.positions[number]
                    for reader in GzipInflater.allCases {
                        let rest = Self.run(blob, by: reader, from: position, inputSize: 5003)
                        #expect(
                            rest.failure == nil && rest.output[...] == output[Int(position.outputOffset)...],
                            "\(name): \(reader) from \(position.blobOffset), made by \(maker)")
                    }
                }
            }
        }
    }

    @Test("makes the same position of the same place, byte for byte")
    func equal() {
        for (name, blob, _) in Self.blobs(3) {
            let positions = GzipInflater.allCases.map { inflater in
                Dictionary(
                    Self.run(blob, by: inflater, spacing: 1).positions.map { ($0.outputOffset, $0) },
                    uniquingKeysWith: { first, _ in first })
            }
            let both = Set(positions[0].keys).intersection(positions[1].keys)
            #expect(!both.isEmpty, "\(name)")
            // At one place of the output there may be several blocks without any.
            for place in both where name != "flushed every 700 bytes" {
                // And a member may end there: then that may be the place.
                guard positions[0][place]?.decoder.isEmpty == positions[1][place]?.decoder.isEmpty else { continue }
                #expect(positions[0][place]?.decoder == positions[1][place]?.decoder, "\(name) at \(place)")
                #expect(positions[0][place]?.blobOffset == positions[1][place]?.blobOffset, "\(name) at \(place)")
            }
        }
    }

    /// Changes a blob as a broken disk, a broken connection or an attacker would.
    ///
    /// - Returns: also whether it can be said at one place only what is wrong.
    private static func damaged(_ blob: [UInt8], _ numbers: inout SeededNumbers) -> (blob: [UInt8], isPlain: Bool) {
        var blob = blob
        func place() -> Int { Int(numbers.next() % UInt64(blob.count)) }
        switch numbers.next() % 7 {
        case 0: return (Array(blob.prefix(place())), true)
        case 1: blob[place()] ^= UInt8(1 << (numbers.next() % 8))
        // The trailer: CRC and length.
        case 2:
            blob[blob.count - 1 - Int(numbers.next() % 8)] ^= UInt8(1 << (numbers.next() % 8))
            return (blob, true)
        case 3:
            return (blob + (0..<(numbers.next() % 40)).map { _ in UInt8(truncatingIfNeeded: numbers.next()) }, true)
        case 4: return (blob + blob.prefix(Int(numbers.next() % 300)), true)
        case 5:
            let start = place()
            blob.removeSubrange(start..<min(blob.count, start + 1 + Int(numbers.next() % 100)))
        default:
            // In the header of the first block.
            let offset = min(blob.count - 1, 10 + Int(numbers.next() % 80))
            blob[offset] = UInt8(truncatingIfNeeded: numbers.next())
        }
        return (blob, false)
    }

    @Test("answers damage alike: truncated members, wrong bits, wrong CRCs, trailing bytes")
    func damage() {
        var numbers = SeededNumbers(state: 99)
        var (failed, passed) = (0, 0)
        for round in 0..<600 {
            let bytes = Self.mixture(Int(numbers.next() % 40_000) + 1, &numbers)
            var blob = Self.member(
                bytes, level: Int32(numbers.next() % 10), strategy: Int32(numbers.next() % 5),
                flush: numbers.next() % 3 == 0 ? 500 : 0)
            if numbers.next() % 3 == 0 { blob += Self.member(bytes, level: 6, strategy: 0) }
            let (changed, isPlain) = Self.damaged(blob, &numbers)
            if changed.isEmpty { continue }
            let sizes = (Int(numbers.next() % 5000) + 1, Int(numbers.next() % 90_000) + 1)
            let spacing: Int64 = numbers.next() % 2 == 0 ? .max : 9000
            let outcomes = GzipInflater.allCases.map {
                Self.run(changed, by: $0, spacing: spacing, inputSize: sizes.0, outputSize: sizes.1)
            }
            // Within damaged blocks one may see what is wrong where the other asks for more.
            #expect((outcomes[0].failure == nil) == (outcomes[1].failure == nil), "round \(round)")
            if isPlain { #expect(outcomes[0].failure == outcomes[1].failure, "round \(round)") }
            if outcomes[0].failure == nil {
                #expect(outcomes[0].output == outcomes[1].output, "round \(round)")
                passed += 1
            } else {
                // What came before the damage is the same as far as both have it.
                let common = min(outcomes[0].output.count, outcomes[1].output.count)
                #expect(outcomes[0].output.prefix(common) == outcomes[1].output.prefix(common), "round \(round)")
                failed += 1
            }
        }
        #expect(failed > 100 && passed > 50)
    }
}
