import CDeflate

/// Why a compressed stream cannot be read, as the end of a sentence.
struct StreamDamage: Error {
    var reason: String
    /// Whether the stream may be whole but needs more than lamina allows; then the reason is a whole sentence.
    var isLimit = false
}

/// Reads gzip members, one after the other, and can stop between two deflate blocks and go on from there in another process. It
/// handles the members' framing itself, because no library gives its CRC away.
final class GzipMemberInflater {
    private enum Phase { case header, blocks, trailer, foreign }

    private let inflate: any RawInflate
    private var phase = Phase.header
    /// An incomplete header or trailer.
    private var pending: [UInt8] = []
    /// Whether a member has ended: only then may other bytes follow.
    private var hasMember: Bool
    private var crc: UInt32 = 0
    private var length: UInt32 = 0

    /// Begins at the start of a member, or where `state` was taken.
    ///
    /// - Parameter isFirst: whether no member was before.
    init(_ state: GzipMemberState?, isFirst: Bool, by inflater: GzipInflater) throws(FormatError) {
        hasMember = !isFirst
        inflate = try inflater.makeInflate()
        guard let state else { return }
        phase = .blocks
        (crc, length) = (state.crc, state.length)
        try inflate.resume(state)
    }

    /// Whether the stream may end here.
    var mayEnd: Bool { hasMember && (phase == .foreign || (phase == .header && pending.count < 2)) }

    /// Decompresses until the input is used up, the output is full, or, if asked to, until a place to go on from.
    ///
    /// - Returns: whether it stopped at such a place; ``place`` is then what has to be known to go on.
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
                // It may still hold some bits or bytes after the end of the input: it is asked until it gives nothing more.
                if phase == .blocks, (input.count, output.count) == before { return false }
            }
        }
        return false
    }

    /// What has to be known to go on where `step` has stopped, and how many bytes of the input belong to what comes after that; no
    /// state at the start of a member.
    var place: (state: GzipMemberState?, unreadBytes: Int) {
        guard phase == .blocks else { return (nil, 0) }
        let place = inflate.place
        return (
            GzipMemberState(
                bits: place.bits, lastByte: place.lastByte, crc: crc, length: length, window: place.window),
            place.unreadBytes
        )
    }
}

extension GzipMemberInflater {
    /// - Returns: whether a place to go on from was reached, if asked for one.
    private func inflateBlocks(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
    ) throws(StreamDamage) -> Bool {
        let before = output
        let step = try inflate.step(&input, &output, stopsAtBoundary: stopsAtBoundary)
        let written = before.count - output.count
        crc = libdeflate_crc32(crc, before.baseAddress, written)
        length &+= UInt32(truncatingIfNeeded: written)
        switch step {
        case .more: return false
        case .boundary: return true
        case .end(let rest):
            phase = .trailer
            pending = rest
            return false
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
            inflate.reset()
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
