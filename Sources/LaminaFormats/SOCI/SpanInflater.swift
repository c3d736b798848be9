import CZlib

/// A place within gzip data to begin at, as a zTOC has it.
public struct SpanStart: Sendable, Equatable {
    /// How many high bits of the span's first byte belong to it; 0: all.
    public var bits: UInt8
    /// The output before it: at most 32 KiB.
    public var window: [UInt8]

    public init(bits: UInt8, window: [UInt8]) {
        self.bits = bits
        self.window = window
    }

    /// As bytes for the index: the bits, and the window compressed by zstd.
    public var bytes: [UInt8] { [bits] + (window.isEmpty ? [] : Zstd.compress(window)) }

    /// Reads what ``bytes`` wrote; nil for anything else.
    public init?(_ bytes: [UInt8]) {
        guard let bits = bytes.first, bits < 8 else { return nil }
        guard bytes.count > 1 else {
            self.init(bits: bits, window: [])
            return
        }
        guard let window = Zstd.decompress(bytes[1...], limit: ZTOC.windowSize) else { return nil }
        self.init(bits: bits, window: window)
    }
}

/// Inflates spans of gzip members, whichever way members and spans cut each other: a span may begin within a byte, within a member, and may
/// hold the ends and the beginnings of several.
///
/// The members' CRCs are not looked at: a span proves nothing of what comes out of it, the layer's digest and its diff ID do.
public enum SpanInflater {
    /// Inflates into all of `output`, and no more, however much the span would give. Memory: zlib's 40 KiB, and 64 KiB with `total`.
    ///
    /// - Parameters:
    ///   - span: its compressed bytes.
    ///   - total: what the span is said to give in all, if the end of that is wanted; at least as much as `output` takes.
    /// - Returns: with `total`: the last of all that came before that place, at most 32 KiB: what the window of the next span has to be.
    /// Throws ``FormatError`` `corruptMember` with the offset in the span, if it gives less or is damaged.
    @discardableResult
    public static func inflate(
        _ span: UnsafeRawBufferPointer, from start: SpanStart, into output: UnsafeMutableRawBufferPointer,
        total: Int? = nil
    ) throws(FormatError) -> [UInt8] {
        let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
        stream.initialize(to: z_stream())
        guard inflateInit2_(stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            stream.deallocate()
            throw FormatError(.tooLarge, "zlib cannot be set up: out of memory")
        }
        defer {
            inflateEnd(stream)
            stream.deallocate()
        }
        var (input, room) = (span, output)
        if start.bits > 0, let first = input.first {
            inflatePrime(stream, Int32(start.bits), Int32(first >> (8 - start.bits)))
            input = UnsafeRawBufferPointer(rebasing: input.dropFirst())
        }
        if !start.window.isEmpty {
            guard inflateSetDictionary(stream, start.window, UInt32(start.window.count)) == Z_OK else {
                throw FormatError(.corruptMember, "zlib does not begin with the span's window")
            }
        }
        try fill(&room, stream, &input, span.count)
        guard let total else { return [] }
        let known = start.window + output.suffix(ZTOC.windowSize)
        var tail = Array(known.suffix(ZTOC.windowSize))
        var rest = max(0, total - output.count)
        let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * ZTOC.windowSize, alignment: 16)
        defer { scratch.deallocate() }
        while rest > 0 {
            let count = min(rest, scratch.count)
            var piece = UnsafeMutableRawBufferPointer(rebasing: scratch[..<count])
            try fill(&piece, stream, &input, span.count)
            tail = Array((tail + scratch[..<count].suffix(ZTOC.windowSize)).suffix(ZTOC.windowSize))
            rest -= count
        }
        return tail
    }

    /// Inflates until there is no room.
    private static func fill(
        _ room: inout UnsafeMutableRawBufferPointer, _ stream: UnsafeMutablePointer<z_stream>,
        _ input: inout UnsafeRawBufferPointer, _ size: Int
    ) throws(FormatError) {
        let wanted = room.count
        while !room.isEmpty {
            let before = (input.count, room.count)
            let status = step(stream, &input, &room)
            let place = Int64(size - input.count)
            switch status {
            case Z_STREAM_END where room.isEmpty: return
            case Z_STREAM_END: try beginMember(stream, &input, size, missing: room.count)
            case Z_OK, Z_BUF_ERROR:
                guard (input.count, room.count) != before else { throw short(wanted, room.count, place) }
            default:
                let reason = stream.pointee.msg.map { String(cString: $0) } ?? "zlib error \(status)"
                throw FormatError(
                    .corruptMember, "the span is damaged, or its window is false: \(reason)", offset: place)
            }
        }
    }

    private static func step(
        _ stream: UnsafeMutablePointer<z_stream>, _ input: inout UnsafeRawBufferPointer,
        _ room: inout UnsafeMutableRawBufferPointer
    ) -> Int32 {
        // zlib counts in 32 bits.
        let (available, space) = (UInt32(clamping: input.count), UInt32(clamping: room.count))
        stream.pointee.next_in = UnsafeMutablePointer(
            mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
        stream.pointee.avail_in = available
        stream.pointee.next_out = room.baseAddress?.assumingMemoryBound(to: UInt8.self)
        stream.pointee.avail_out = space
        let status = CZlib.inflate(stream, Z_NO_FLUSH)
        input = UnsafeRawBufferPointer(rebasing: input.dropFirst(Int(available - stream.pointee.avail_in)))
        room = UnsafeMutableRawBufferPointer(rebasing: room.dropFirst(Int(space - stream.pointee.avail_out)))
        return status
    }

    /// Goes over a member's trailer and the next one's header.
    private static func beginMember(
        _ stream: UnsafeMutablePointer<z_stream>, _ input: inout UnsafeRawBufferPointer, _ size: Int, missing: Int
    ) throws(FormatError) {
        let place = Int64(size - input.count)
        guard input.count > 8 else { throw short(missing, missing, place) }
        input = UnsafeRawBufferPointer(rebasing: input.dropFirst(8))
        switch GzipHeader.parse(input) {
        case .complete(let count):
            input = UnsafeRawBufferPointer(rebasing: input.dropFirst(count))
            inflateReset(stream)
        case .incomplete, .foreign: throw short(missing, missing, place)
        case .corrupt(let reason):
            throw FormatError(.corruptMember, "a member in the span cannot be read: \(reason)", offset: place)
        }
    }

    private static func short(_ wanted: Int, _ missing: Int, _ place: Int64) -> FormatError {
        FormatError(
            .corruptMember, "the span gives fewer bytes than its zTOC says", offset: place, expected: "\(wanted) bytes",
            actual: "\(missing) are missing")
    }
}
