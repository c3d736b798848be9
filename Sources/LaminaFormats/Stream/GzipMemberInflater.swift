import CDeflate
import CZlib

/// Why a compressed stream cannot be read, as the end of a sentence.
struct StreamDamage: Error {
    var reason: String
    /// Whether the stream may be whole but needs more than lamina allows; then the reason is a whole sentence.
    var isLimit = false
}

/// zlib's inflate for the deflate data of gzip members, which can stop between two blocks and go on from there in another
/// process. It handles the members' framing itself, because zlib does not give its CRC away.
final class GzipMemberInflater {
    private enum Phase { case header, blocks, trailer, foreign }

    // On the heap, because zlib keeps the address of the structure that it was initialized with.
    private let stream: UnsafeMutablePointer<z_stream>
    private var phase = Phase.header
    /// An incomplete header or trailer.
    private var pending: [UInt8] = []
    /// Whether a member has ended: only then may other bytes follow.
    private var hasMember: Bool
    private var crc: UInt32 = 0
    private var length: UInt32 = 0
    private var lastByte: UInt8 = 0

    /// Begins at the start of a member, or where `state` was taken.
    ///
    /// - Parameter isFirst: whether no member was before.
    init(_ state: GzipMemberState?, isFirst: Bool) throws(FormatError) {
        hasMember = !isFirst
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // -15: deflate data alone, with the largest window.
        guard inflateInit2_(stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            throw FormatError(.tooLarge, "zlib cannot be set up: out of memory")
        }
        guard let state else { return }
        phase = .blocks
        (crc, length, lastByte) = (state.crc, state.length, state.lastByte)
        let primed =
            state.bits == 0
            || inflatePrime(stream, Int32(state.bits), Int32(state.lastByte >> (8 - state.bits))) == Z_OK
        let hasWindow =
            state.window.isEmpty || inflateSetDictionary(stream, state.window, UInt32(state.window.count)) == Z_OK
        guard primed, hasWindow else {
            throw FormatError(.unsupported, "zlib does not go on from the checkpoint of a gzip stream")
        }
    }

    deinit {
        inflateEnd(stream)
        stream.deallocate()
    }

    /// Whether the stream may end here.
    var mayEnd: Bool { hasMember && (phase == .foreign || (phase == .header && pending.count < 2)) }

    /// Decompresses until the input is used up, the output is full, or, if asked to, until a place to go on from.
    ///
    /// - Returns: whether it stopped at such a place; ``state`` is then what has to be known to go on.
    func step(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
    ) throws(StreamDamage) -> Bool {
        while !input.isEmpty || phase == .blocks {
            switch phase {
            case .foreign: input = UnsafeRawBufferPointer(rebasing: input[input.count...])
            case .header: try takeHeader(&input)
            case .trailer:
                guard try takeTrailer(&input) else { break }
                if stopsAtBoundary { return true }
            case .blocks:
                if output.isEmpty { return false }
                let before = (input.count, output.count)
                if try inflateBlocks(&input, &output, stopsAtBoundary: stopsAtBoundary) { return true }
                // zlib may still hold some bits after the end of the input: it is asked until it gives nothing more.
                if phase == .blocks, (input.count, output.count) == before { return false }
            }
        }
        return false
    }

    /// What has to be known to go on where `step` has stopped; nil at the start of a member.
    var state: GzipMemberState? {
        guard phase == .blocks else { return nil }
        var count = UInt32(GzipMemberState.windowSize)
        let window = [UInt8](unsafeUninitializedCapacity: GzipMemberState.windowSize) { buffer, filled in
            inflateGetDictionary(stream, buffer.baseAddress, &count)
            filled = Int(count)
        }
        return GzipMemberState(
            bits: UInt8(truncatingIfNeeded: stream.pointee.data_type & 7), lastByte: lastByte, crc: crc,
            length: length, window: window)
    }
}

extension GzipMemberInflater {
    /// - Returns: whether a place to go on from was reached, if asked for one.
    private func inflateBlocks(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
    ) throws(StreamDamage) -> Bool {
        // zlib counts in 32 bits.
        let available = UInt32(clamping: input.count)
        let room = UInt32(clamping: output.count)
        stream.pointee.next_in = UnsafeMutablePointer(
            mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
        stream.pointee.avail_in = available
        stream.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        stream.pointee.avail_out = room
        let status = inflate(stream, stopsAtBoundary ? Z_BLOCK : Z_NO_FLUSH)
        let used = Int(available - stream.pointee.avail_in)
        let written = Int(room - stream.pointee.avail_out)
        if used > 0 { lastByte = input[used - 1] }
        crc = libdeflate_crc32(crc, output.baseAddress, written)
        length &+= UInt32(truncatingIfNeeded: written)
        input = UnsafeRawBufferPointer(rebasing: input[used...])
        output = UnsafeMutableRawBufferPointer(rebasing: output[written...])
        switch status {
        case Z_OK, Z_BUF_ERROR:
            // Bit 7: directly behind a block; bit 6: the block was the member's last (zlib.h, inflate).
            return stopsAtBoundary && stream.pointee.data_type & 0xc0 == 0x80
        case Z_STREAM_END:
            phase = .trailer
            return false
        case Z_MEM_ERROR: throw StreamDamage(reason: "out of memory")
        default: throw StreamDamage(reason: stream.pointee.msg.map { String(cString: $0) } ?? "zlib error \(status)")
        }
    }

    private func takeHeader(_ input: inout UnsafeRawBufferPointer) throws(StreamDamage) {
        let held = pending.count
        let parsed: GzipHeader.Parsed
        if held == 0 {
            parsed = GzipHeader.parse(input)
        } else {
            pending += input.prefix(GzipHeader.limit)
            parsed = pending.withUnsafeBytes { GzipHeader.parse($0) }
        }
        switch parsed {
        case .complete(let count):
            input = UnsafeRawBufferPointer(rebasing: input[(count - held)...])
            pending.removeAll(keepingCapacity: true)
            inflateReset(stream)
            (phase, crc, length) = (.blocks, 0, 0)
        case .incomplete:
            if held == 0 { pending += input }
            input = UnsafeRawBufferPointer(rebasing: input[input.count...])
        case .foreign:
            // gzip(1) ignores what follows the last member, and so do programs that unpack layers with it. The diff ID shows
            // whether the output is right.
            guard hasMember else { throw StreamDamage(reason: "it does not begin with a gzip member") }
            pending = []
            phase = .foreign
        case .corrupt(let reason): throw StreamDamage(reason: "a member cannot be read: \(reason)")
        }
    }

    /// - Returns: whether the trailer is complete, and the next member may begin.
    private func takeTrailer(_ input: inout UnsafeRawBufferPointer) throws(StreamDamage) -> Bool {
        let count = min(8 - pending.count, input.count)
        pending += input[..<count]
        input = UnsafeRawBufferPointer(rebasing: input[count...])
        guard pending.count == 8 else { return false }
        func number(at index: Int) -> UInt32 {
            (0..<4).reduce(0) { $0 | UInt32(pending[index + $1]) << (8 * UInt32($1)) }
        }
        guard number(at: 0) == crc else { throw StreamDamage(reason: "a member's CRC-32 is wrong") }
        guard number(at: 4) == length else { throw StreamDamage(reason: "a member's length is wrong") }
        pending.removeAll(keepingCapacity: true)
        phase = .header
        hasMember = true
        return true
    }
}
