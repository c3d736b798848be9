import CZstd

extension ChunkDecoder {
    /// The window of level 19, which is the highest without `--ultra`.
    private static let ordinaryWindow = 8 << 20

    /// Decompresses frames (RFC 8878) into the buffer until `needed` bytes are there, and on as far as there is room; with
    /// `whole` to the end of the input.
    ///
    /// Most writers do not give a frame's size, because they stream, so nothing is allocated by what a frame says about itself.
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
                // If something is left in the decompressor, it is not needed.
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
                // What is needed was right; anything may follow it.
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

    /// How many bytes libzstd has for it, mostly the window.
    var memory: Int { ZSTD_sizeof_DCtx(context) }

    /// Prepares for the start of a frame.
    func reset() { ZSTD_DCtx_reset(context, ZSTD_reset_session_only) }

    /// Decompresses from `input`, and cuts off its used part, to the start of `output`; returns how many bytes were written.
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
