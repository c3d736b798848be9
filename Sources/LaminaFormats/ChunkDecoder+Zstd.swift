import CZstd

extension ChunkDecoder {
    /// The window of level 19, which is the highest without `--ultra`.
    private static let ordinaryWindow = 8 << 20

    /// Decompresses frames (RFC 8878) into the buffer until `needed` bytes are there, and on as far as there is room; with
    /// `whole` to the end of the input.
    ///
    /// Most writers do not say a frame's size (they stream), so nothing is allocated by what a frame says of itself.
    func decompress(
        _ frames: UnsafeRawBufferPointer, needing needed: Int, whole: Bool
    ) throws(FormatError) -> Int {
        if zstd == nil { zstd = try ZstdStream() }
        guard let zstd else { return 0 }
        zstd.reset()
        if ZstdWindow.size(of: frames, room: buffer.count) > Self.ordinaryWindow { enterGate() }
        isWhole = false
        var input = frames
        var written = 0
        while true {
            if written == buffer.count {
                // What is left in the decompressor, if anything, is nothing that is needed.
                guard whole, written - needed < Self.wholeLimit else { break }
                if written - needed >= Self.slack { enterGate() }
                grow(keeping: written, to: buffer.count * 2)
            }
            let before = (input.count, written)
            switch zstd.step(&input, UnsafeMutableRawBufferPointer(rebasing: buffer[written...])) {
            case .more(let count): written += count
            case .frameEnd(let count):
                written += count
                if ZstdWindow.size(of: input, room: buffer.count - written) > Self.ordinaryWindow { enterGate() }
            case .corrupt(let reason):
                // What is needed was right; behind it may be anything.
                if written >= needed { return written }
                throw FormatError(
                    .corruptMember, "the zstd frame is damaged: \(reason)", offset: Int64(frames.count - input.count),
                    expected: "\(needed) bytes", actual: "\(written)")
            }
            if (input.count, written) == before || (input.isEmpty && written < buffer.count) {
                isWhole = input.isEmpty
                break
            }
        }
        guard written >= needed else {
            throw FormatError(
                .corruptMember, "the zstd frame ends before its payload does", offset: Int64(frames.count),
                expected: "\(needed) bytes", actual: "\(written)")
        }
        return written
    }
}

/// libzstd's streaming decompressor (RFC 8878).
final class ZstdStream {
    enum Step {
        case more(Int)
        case frameEnd(Int)
        case corrupt(String)
    }

    private let context: OpaquePointer

    init() throws(FormatError) {
        guard let context = ZSTD_createDCtx() else {
            throw FormatError(.tooLarge, "zstd cannot be set up: out of memory")
        }
        self.context = context
        ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, ZstdWindow.limitLog)
    }

    deinit { ZSTD_freeDCtx(context) }

    /// Bytes that libzstd has for it, the window above all.
    var memory: Int { ZSTD_sizeof_DCtx(context) }

    /// Makes ready for the start of a frame.
    func reset() { ZSTD_DCtx_reset(context, ZSTD_reset_session_only) }

    /// Decompresses from `input`, whose used part is cut off, to the start of `output`; gives the bytes written.
    func step(_ input: inout UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer) -> Step {
        var source = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
        var target = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
        let result = ZSTD_decompressStream(context, &target, &source)
        input = UnsafeRawBufferPointer(rebasing: input.dropFirst(source.pos))
        if let reason = ZstdWindow.complaint(result) { return .corrupt(reason) }
        if ZSTD_isError(result) != 0 { return .corrupt(String(cString: ZSTD_getErrorName(result))) }
        return result == 0 ? .frameEnd(target.pos) : .more(target.pos)
    }
}
