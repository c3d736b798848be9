import CZstd

/// Decompresses a plain layer's blob in order, from its start or from a ``StreamPosition``, and names such positions
/// on its way: gzip with any number of members, zstd with any number of frames, or a tar as it is.
///
/// Memory: zlib's 40 KiB or ISA-L's 88, or a zstd window of at most 256 MiB. One user at a time; not `Sendable`.
public final class LayerDecompressor {
    private enum Engine {
        case identity
        case gzip(GzipMemberInflater)
        case zstd(ZstdFrames)
    }

    private let engine: Engine
    /// The bytes taken: the offset in the blob of the next byte.
    public private(set) var blobOffset: Int64
    /// The bytes given: the offset in the output of the next byte.
    public private(set) var outputOffset: Int64
    /// The start of the current zstd frame.
    private var frame: StreamPosition

    /// - Parameter inflater: what reads gzip.
    /// - Throws: ``FormatError``: `unsupported` for a position of another version, `tooLarge` if memory is short.
    public init(
        _ compression: StreamDecompressor.Compression, from position: StreamPosition = .start,
        by inflater: GzipInflater = .standard
    ) throws(FormatError) {
        blobOffset = position.blobOffset
        outputOffset = position.outputOffset
        frame = position
        switch compression {
        case .identity: engine = .identity
        case .gzip:
            let state = position.decoder.isEmpty ? nil : try GzipMemberState(position.decoder)
            engine = .gzip(try GzipMemberInflater(state, isFirst: position.blobOffset == 0, by: inflater))
        case .zstd: engine = .zstd(try ZstdFrames())
        }
    }

    /// Decompresses until the input is used up, the output is full, or, if asked to, directly behind a gzip block, a member or
    /// a frame. Cuts the used part off the front of the input, and the written part off the front of the output.
    ///
    /// - Returns: whether it stopped at such a boundary.
    /// - Throws: ``FormatError`` `corruptMember` with the offset in the blob; it must not be used after that.
    public func step(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer, stopsAtBoundary: Bool
    ) throws(FormatError) -> Bool {
        let before = (input.count, output.count)
        defer {
            blobOffset += Int64(before.0 - input.count)
            outputOffset += Int64(before.1 - output.count)
        }
        switch engine {
        case .identity:
            let count = min(input.count, output.count)
            output.copyMemory(from: UnsafeRawBufferPointer(rebasing: input[..<count]))
            input = UnsafeRawBufferPointer(rebasing: input[count...])
            output = UnsafeMutableRawBufferPointer(rebasing: output[count...])
            return stopsAtBoundary && count > 0
        case .gzip(let inflater):
            do throws(StreamDamage) {
                return try inflater.step(&input, &output, stopsAtBoundary: stopsAtBoundary)
            } catch {
                throw FormatError(
                    .corruptMember, "the gzip stream is damaged: \(error.reason)",
                    offset: blobOffset + Int64(before.0 - input.count))
            }
        case .zstd(let frames):
            while !input.isEmpty || frames.hasMore, !output.isEmpty {
                let hasEnded: Bool
                do throws(StreamDamage) {
                    hasEnded = try frames.step(&input, &output)
                } catch {
                    throw FormatError(
                        error.isLimit ? .tooLarge : .corruptMember,
                        error.isLimit ? error.reason : "the zstd stream is damaged: \(error.reason)",
                        offset: blobOffset + Int64(before.0 - input.count))
                }
                guard hasEnded else { continue }
                frame = StreamPosition(
                    blobOffset: blobOffset + Int64(before.0 - input.count),
                    outputOffset: outputOffset + Int64(before.1 - output.count), decoder: [])
                if stopsAtBoundary { return true }
            }
            return false
        }
    }

    /// The last place to go on from: at a boundary, this place; within a zstd frame, its start. Ask for it with gzip only at
    /// boundaries.
    public var position: StreamPosition {
        switch engine {
        case .identity: return StreamPosition(blobOffset: blobOffset, outputOffset: outputOffset, decoder: [])
        case .gzip(let inflater):
            let place = inflater.place
            return StreamPosition(
                blobOffset: blobOffset - Int64(place.unreadBytes), outputOffset: outputOffset,
                decoder: place.state?.bytes ?? [])
        case .zstd: return frame
        }
    }

    /// Whether ``position`` may be asked for anywhere, because it is no use to wait for a boundary of this stream.
    public var hasRareBoundaries: Bool { if case .gzip = engine { false } else { true } }

    /// Ends the blob. Throws ``FormatError`` `truncated` for an unfinished member or frame.
    public func finish() throws(FormatError) {
        let mayEnd =
            switch engine {
            case .identity: true
            case .gzip(let inflater): inflater.mayEnd
            case .zstd(let frames): !frames.isWithin && (blobOffset > 0)
            }
        guard mayEnd else {
            throw FormatError(
                .truncated, blobOffset == 0 ? "the compressed stream is empty" : "the compressed stream is cut off",
                offset: blobOffset)
        }
    }
}

/// libzstd's streaming decompressor (RFC 8878), frame after frame.
private final class ZstdFrames {
    private let context: OpaquePointer
    /// Whether a frame has begun and not ended.
    private(set) var isWithin = false
    /// Whether output waits for room.
    private(set) var hasMore = false

    init() throws(FormatError) {
        guard let context = ZSTD_createDCtx() else {
            throw FormatError(.tooLarge, "zstd cannot be set up: out of memory")
        }
        self.context = context
        ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, ZstdWindow.limitLog)
    }

    deinit { ZSTD_freeDCtx(context) }

    /// - Returns: whether a frame has ended.
    func step(
        _ input: inout UnsafeRawBufferPointer, _ output: inout UnsafeMutableRawBufferPointer
    ) throws(StreamDamage) -> Bool {
        var source = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
        var target = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
        let result = ZSTD_decompressStream(context, &target, &source)
        if ZSTD_isError(result) != 0 {
            if let reason = ZstdWindow.complaint(result) { throw StreamDamage(reason: reason, isLimit: true) }
            throw StreamDamage(reason: String(cString: ZSTD_getErrorName(result)))
        }
        input = UnsafeRawBufferPointer(rebasing: input[source.pos...])
        output = UnsafeMutableRawBufferPointer(rebasing: output[target.pos...])
        isWithin = result != 0
        // Called again without input only while a frame has more to give: between frames that would start a new one.
        hasMore = isWithin && output.isEmpty
        return result == 0
    }
}
