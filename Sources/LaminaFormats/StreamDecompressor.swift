import CZlib

/// Decompresses a whole layer blob as it comes in: gzip with any number of members (an eStargz blob has one per file),
/// zstd with any number of frames (skippable ones are passed over), or nothing.
///
/// Memory: one output buffer of 256 KiB, and the window (32 KiB for gzip, at most 128 MiB for zstd). One user at a
/// time; not `Sendable`.
public final class StreamDecompressor {
    /// How a blob is compressed.
    public enum Compression: Sendable { case identity, gzip, zstd }

    /// The largest piece of output given to a sink, in bytes.
    public static let pieceSize = 256 << 10

    /// The compression that the first bytes of a blob (at least 4 for a certain answer) say; identity for anything
    /// but gzip (RFC 1952 §2.3.1) and zstd (RFC 8878 §3.1), skippable frames included.
    public static func detect(_ head: UnsafeRawBufferPointer) -> Compression {
        if head.count >= 2, head[0] == 0x1f, head[1] == 0x8b { return .gzip }
        guard head.count >= 4 else { return .identity }
        switch UInt32(littleEndian: head.loadUnaligned(as: UInt32.self)) {
        case 0xfd2f_b528, 0x184d_2a50...0x184d_2a5f: return .zstd
        default: return .identity
        }
    }

    private enum Engine: ~Copyable {
        case identity
        case gzip(Inflater)
        case zstd(ZstdStream)
    }

    private let engine: Engine
    private let isIdentity: Bool
    private let output: UnsafeMutableRawBufferPointer
    // Where the compressed stream stands: only between two members or frames may it end.
    private var betweenMembers = false
    private var consumed: Int64 = 0

    /// A decompressor at the start of a stream. Throws ``FormatError`` `tooLarge` when memory is short.
    public init(_ compression: Compression) throws(FormatError) {
        switch compression {
        case .identity: engine = .identity
        case .gzip: engine = .gzip(try Inflater())
        case .zstd: engine = .zstd(try ZstdStream())
        }
        isIdentity = compression == .identity
        output =
            isIdentity
            ? UnsafeMutableRawBufferPointer(start: nil, count: 0)
            : .allocate(byteCount: Self.pieceSize, alignment: 64)
    }

    deinit { output.deallocate() }

    /// Decompresses `input` and gives each piece of output (1 byte … 256 KiB, valid during the call) to `sink`.
    ///
    /// Throws ``FormatError`` `corruptMember` with the offset in the compressed stream, and what `sink` throws.
    /// After an error the decompressor is of no more use.
    public func push(_ input: UnsafeRawBufferPointer, _ sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        switch engine {
        case .identity: try passThrough(input, sink)
        case .gzip(let inflater): try inflate(input, inflater, sink)
        case .zstd(let stream): try decompress(input, stream, sink)
        }
    }

    /// Says that the input has ended. Throws ``FormatError`` `truncated` for an unfinished member or frame, and for
    /// a compressed stream that never began.
    public func finish() throws(FormatError) {
        guard betweenMembers || isIdentity else {
            throw FormatError(
                .truncated, consumed == 0 ? "the compressed stream is empty" : "the compressed stream is cut off",
                offset: consumed)
        }
    }

    private func passThrough(
        _ input: UnsafeRawBufferPointer, _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var rest = input
        while !rest.isEmpty {
            try sink(UnsafeRawBufferPointer(rebasing: rest.prefix(Self.pieceSize)))
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(Self.pieceSize))
        }
        consumed += Int64(input.count)
    }

    private func inflate(
        _ input: UnsafeRawBufferPointer, _ inflater: borrowing Inflater,
        _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var rest = input
        var room = output
        var outputWasFull = false
        while !rest.isEmpty || outputWasFull {
            if betweenMembers {
                if rest.isEmpty { break }
                inflater.reset()
                betweenMembers = false
            }
            let before = rest.count
            let step = inflater.step(&rest, &room)
            consumed += Int64(before - rest.count)
            outputWasFull = room.isEmpty
            switch step {
            case .more: break
            case .memberEnd: betweenMembers = true
            case .corrupt(let reason):
                throw FormatError(.corruptMember, "the gzip stream is damaged: \(reason)", offset: consumed)
            }
            // Small members (an eStargz blob has thousands) share a piece.
            if outputWasFull || rest.isEmpty, room.count < output.count {
                try sink(UnsafeRawBufferPointer(rebasing: output.prefix(output.count - room.count)))
                room = output
            }
        }
    }

    private func decompress(
        _ input: UnsafeRawBufferPointer, _ stream: ZstdStream,
        _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var rest = input
        var outputWasFull = false
        // Asked again with no input only while a frame has more to give: between frames that would start a new one.
        while !rest.isEmpty || (outputWasFull && !betweenMembers) {
            let before = rest.count
            let written: Int
            switch stream.step(&rest, output) {
            case .more(let count): (written, betweenMembers) = (count, false)
            case .frameEnd(let count): (written, betweenMembers) = (count, true)
            case .corrupt(let reason):
                throw FormatError(.corruptMember, "the zstd stream is damaged: \(reason)", offset: consumed)
            }
            consumed += Int64(before - rest.count)
            outputWasFull = written == output.count
            if written > 0 { try sink(UnsafeRawBufferPointer(rebasing: output.prefix(written))) }
        }
    }
}
