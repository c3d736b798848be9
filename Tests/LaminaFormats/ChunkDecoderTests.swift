import LaminaSystem
import Testing

@testable import LaminaFormats

@Suite("inflating chunks")
struct ChunkDecoderTests {
    private func inflate(_ member: [UInt8], needing needed: Int) throws -> [UInt8] {
        let decoder = try ChunkDecoder()
        return try member.withUnsafeBytes { try decoder.inflate($0, needing: needed) { Array($0) } }
    }

    static let payload = noise(70_000) + [UInt8](repeating: 0, count: 30_000)

    @Test("a member gives all of its payload, however little of it is needed", arguments: [0, 1, 99_999, 100_000])
    func whole(_ needed: Int) throws {
        #expect(try inflate(gzip(Self.payload), needing: needed) == Self.payload)
    }

    @Test(
        "a member that is followed by others, or by anything, gives at least what is needed",
        arguments: [
            gzip(noise(10)), gzip([UInt8](repeating: 0, count: 3_000_000)), [1, 2, 3],
            [UInt8](repeating: 0xff, count: 40),
            [0, 0, 0, 0],
        ])
    func followed(_ tail: [UInt8]) throws {
        let found = try inflate(gzip(Self.payload) + tail, needing: Self.payload.count)
        #expect(found.count >= Self.payload.count && found.starts(with: Self.payload))
    }

    @Test("what is needed may lie in several members")
    func spread() throws {
        let member = gzip(Self.payload) + gzip(Self.payload)
        #expect(try inflate(member, needing: 150_000).prefix(150_000) == (Self.payload + Self.payload).prefix(150_000))
    }

    @Test("of a bomb, only what is needed is inflated")
    func bomb() throws {
        let member = gzip([UInt8](repeating: 0, count: 50_000_000), level: 9)
        #expect(member.count < 60_000)
        #expect(try inflate(member, needing: 1000).count == 1000)
    }

    @Test(
        "a trailer that lies about the size changes nothing", arguments: [0, 99_999, 100_001, 1_000_000, 0xffff_ffff])
    func lyingTrailer(_ size: UInt32) throws {
        var member = gzip(Self.payload)
        for byte in 0..<4 { member[member.count - 4 + byte] = UInt8(truncatingIfNeeded: size >> (8 * UInt32(byte))) }
        #expect(try inflate(member, needing: 90_000).prefix(90_000) == Self.payload.prefix(90_000))
    }

    @Test("short, damaged and empty members are errors")
    func damage() throws {
        let member = gzip(Self.payload)
        #expect(formatError { _ = try inflate(member, needing: 100_001) }?.code == .corruptMember)
        #expect(formatError { _ = try inflate(member, needing: -1) }?.code == .tooLarge)
        #expect(formatError { _ = try inflate(member, needing: Int.max) }?.code == .tooLarge)
        #expect(formatError { _ = try inflate([], needing: 1) }?.code == .corruptMember)
        #expect(formatError { _ = try inflate(Array("no gzip at all, but long enough".utf8), needing: 1) } != nil)
        for count in [1, 17, 18, 1000, 60_000] {
            let cut = Array(member.prefix(count))
            #expect(formatError { _ = try inflate(cut, needing: 100_000) }?.code == .corruptMember, "\(count)")
        }
    }

    @Test("a decoder uses the memory that it is lent, and keeps none when that is taken away")
    func lentMemory() throws {
        let decoder = try ChunkDecoder(keeping: 1000)
        let member = gzip(Self.payload)
        for size in [1 << 20, 200_000, 100_000, 0] {
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)
            decoder.lend(memory)
            try member.withUnsafeBytes { member in
                try decoder.inflate(member, needing: Self.payload.count) { payload in
                    #expect(payload.elementsEqual(Self.payload))
                    #expect((payload.baseAddress == UnsafeRawPointer(memory.baseAddress)) == (size >= 100_000))
                }
            }
            let taken = decoder.takeMemory()
            #expect(taken.count >= Self.payload.count)
            taken.deallocate()
            #expect(decoder.takeMemory().isEmpty)
        }
    }

    @Test("frames with large windows are decompressed one at a time, and their windows are not kept")
    func largeWindows() throws {
        let payload = [UInt8](repeating: 7, count: 30_000_000)
        let frames = [zstdStream(payload, windowLog: 27), zstdStream(payload, windowLog: 21)]
        frames[0].withUnsafeBytes { #expect(ZstdWindow.size(of: $0, room: 1 << 20) == 128 << 20) }
        frames[1].withUnsafeBytes { #expect(ZstdWindow.size(of: $0, room: 1 << 20) == 2 << 20) }
        let gate = DecoderGate()
        let state = Monitor((inside: 0, peak: 0))
        let problems = Monitor(0)
        for (frame, peak) in zip(frames, [1, 3]) {
            state.withLock { $0 = (0, 0) }
            let threads = try (0..<3).map { _ in
                try Thread("decode") {
                    do {
                        let decoder = try ChunkDecoder(keeping: 1 << 20, gate: gate)
                        try frame.withUnsafeBytes { frame in
                            try decoder.decode(frame, as: .zstd, needing: payload.count) { bytes in
                                state.withLock(notify: true) {
                                    $0.inside += 1
                                    $0.peak = max($0.peak, $0.inside)
                                }
                                // As many as may be inside at once.
                                _ = state.wait(seconds: peak == 1 ? 0.2 : 30) { $0.peak >= 3 ? () : nil }
                                if bytes.count != payload.count { problems.withLock { $0 += 1 } }
                                state.withLock { $0.inside -= 1 }
                            }
                        }
                        if decoder.zstd.map({ $0.memory > 1 << 20 }) ?? false { problems.withLock { $0 += 1 } }
                    } catch {
                        problems.withLock { $0 += 1 }
                    }
                }
            }
            for thread in threads { thread.join() }
            #expect(problems.withLock { $0 } == 0)
            #expect(state.withLock { $0.peak } == peak)
        }
    }

    @Test("one decoder goes on after an error, and with sizes up and down")
    func reuse() throws {
        let decoder = try ChunkDecoder()
        for size in [10, 5_000_000, 1, 0, 40_000_000, 64_000] {
            let payload = [UInt8](repeating: 3, count: size)
            _ = formatError { try [1, 2, 3].withUnsafeBytes { try decoder.inflate($0, needing: 9) { _ in } } }
            try gzip(payload).withUnsafeBytes { member in
                try decoder.inflate(member, needing: size) { #expect($0.elementsEqual(payload)) }
            }
        }
    }

    @Test("into a buffer of the caller's, with room for the padding or without")
    func intoBuffer() throws {
        let decoder = try ChunkDecoder()
        let member = gzip(Self.payload)
        for room in [90_000, 100_000, 120_000] {
            var buffer = [UInt8](repeating: 0xaa, count: room + 1)
            let count = try buffer.withUnsafeMutableBytes { output in
                try member.withUnsafeBytes {
                    try decoder.inflate($0, into: .init(rebasing: output[..<room]), needing: 90_000)
                }
            }
            #expect(count == (room < 100_000 ? 90_000 : 100_000))
            #expect(buffer.prefix(90_000) == Self.payload.prefix(90_000) && buffer.last == 0xaa)
        }
        var small = [UInt8](repeating: 0, count: 10)
        let error = formatError {
            _ = try small.withUnsafeMutableBytes { output in
                try member.withUnsafeBytes { try decoder.inflate($0, into: output, needing: 11) }
            }
        }
        #expect(error?.code == .tooLarge)
    }
}
