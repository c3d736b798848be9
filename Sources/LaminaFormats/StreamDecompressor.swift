/// Decompresses a whole layer blob as it comes in: gzip with any number of members (an eStargz blob has one per file), zstd
/// with any number of frames (skippable ones are skipped), or nothing. It reads in the same way as ``LayerDecompressor``, which
/// reads a plain layer's stream.
///
/// Memory: one output buffer of 256 KiB, and the window (32 KiB for gzip, at most 256 MiB for zstd). One user at a
/// time; not `Sendable`.
public final class StreamDecompressor {
    /// How a blob is compressed.
    public enum Compression: Sendable { case identity, gzip, zstd }

    /// The largest piece of output given to a sink, in bytes.
    public static let pieceSize = 256 << 10

    /// The compression by the first bytes of a blob (at least 4 for a certain answer); identity for anything but gzip (RFC 1952
    /// §2.3.1) and zstd (RFC 8878 §3.1), skippable frames included.
    public static func detect(_ head: UnsafeRawBufferPointer) -> Compression {
        if head.count >= 2, head[0] == 0x1f, head[1] == 0x8b { return .gzip }
        guard head.count >= 4 else { return .identity }
        switch UInt32(littleEndian: head.loadUnaligned(as: UInt32.self)) {
        case 0xfd2f_b528, 0x184d_2a50...0x184d_2a5f: return .zstd
        default: return .identity
        }
    }

    private let engine: LayerDecompressor
    private let isIdentity: Bool
    private let output: UnsafeMutableRawBufferPointer
    /// How much of the output is filled.
    private var filled = 0

    /// A decompressor at the start of a stream. Throws ``FormatError`` `tooLarge` if memory is short.
    public init(_ compression: Compression) throws(FormatError) {
        engine = try LayerDecompressor(compression)
        isIdentity = compression == .identity
        output =
            isIdentity
            ? UnsafeMutableRawBufferPointer(start: nil, count: 0)
            : .allocate(byteCount: Self.pieceSize, alignment: 64)
    }

    deinit { output.deallocate() }

    /// Decompresses `input` and gives each piece of output (1 byte … 256 KiB, valid during the call) to `sink`.
    ///
    /// Throws ``FormatError`` `corruptMember` with the offset in the compressed stream, and what `sink` throws. After an error
    /// the decompressor must not be used any more.
    public func push(_ input: UnsafeRawBufferPointer, _ sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        if isIdentity { return try passThrough(input, sink) }
        var rest = input
        var wasFull = false
        while !rest.isEmpty || wasFull {
            var room = UnsafeMutableRawBufferPointer(rebasing: output[filled...])
            let before = (rest.count, room.count)
            _ = try engine.step(&rest, &room, stopsAtBoundary: false)
            filled = output.count - room.count
            wasFull = room.isEmpty
            if !wasFull, (rest.count, room.count) == before { break }
            if wasFull { try flush(sink) }
        }
        // Small members (an eStargz blob has thousands) share a piece.
        try flush(sink)
    }

    private func flush(_ sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        guard filled > 0 else { return }
        let count = filled
        filled = 0
        try sink(UnsafeRawBufferPointer(rebasing: output[..<count]))
    }

    /// Ends the input. Throws ``FormatError`` `truncated` for an unfinished member or frame, and for a compressed stream that
    /// never began.
    public func finish() throws(FormatError) {
        if !isIdentity { try engine.finish() }
    }

    private func passThrough(
        _ input: UnsafeRawBufferPointer, _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var rest = input
        while !rest.isEmpty {
            try sink(UnsafeRawBufferPointer(rebasing: rest.prefix(Self.pieceSize)))
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(Self.pieceSize))
        }
    }
}
