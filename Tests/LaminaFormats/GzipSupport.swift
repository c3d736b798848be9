import CZlib
import CZstd

/// One gzip member of `payload`, by zlib.
func gzip(_ payload: [UInt8], level: Int32 = 6) -> [UInt8] {
    var stream = z_stream()
    precondition(
        deflateInit2_(
            &stream, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
            == Z_OK)
    defer { deflateEnd(&stream) }
    var output = [UInt8](repeating: 0, count: Int(deflateBound(&stream, UInt(payload.count))) + 64)
    var payload = payload
    let written = payload.withUnsafeMutableBufferPointer { input in
        output.withUnsafeMutableBufferPointer { target in
            stream.next_in = input.baseAddress
            stream.avail_in = UInt32(input.count)
            stream.next_out = target.baseAddress
            stream.avail_out = UInt32(target.count)
            precondition(deflate(&stream, Z_FINISH) == Z_STREAM_END)
            return Int(stream.total_out)
        }
    }
    return Array(output.prefix(written))
}

/// One zstd frame of `payload`.
func zstd(_ payload: [UInt8]) -> [UInt8] {
    var output = [UInt8](repeating: 0, count: ZSTD_compressBound(payload.count))
    let capacity = output.count
    let written = ZSTD_compress(&output, capacity, payload, payload.count, 3)
    return Array(output.prefix(written))
}

/// One zstd frame whose writer did not know its length, with a window of `1 << windowLog` bytes.
func zstdStream(_ payload: [UInt8], windowLog: Int32) -> [UInt8] {
    let context = ZSTD_createCCtx()
    defer { ZSTD_freeCCtx(context) }
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 1)
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, windowLog)
    var output = [UInt8](repeating: 0, count: ZSTD_compressBound(payload.count) + 1000)
    let capacity = output.count
    return payload.withUnsafeBytes { payload in
        var target = ZSTD_outBuffer(dst: nil, size: capacity, pos: 0)
        // Flushed after a part: if it were given as a whole, its size would be in the header.
        for (end, mode) in [(payload.count / 2, ZSTD_e_flush), (payload.count, ZSTD_e_end)] {
            var source = ZSTD_inBuffer(src: payload.baseAddress, size: end, pos: end == payload.count ? end / 2 : 0)
            precondition(
                output.withUnsafeMutableBytes { bytes in
                    target.dst = bytes.baseAddress
                    return ZSTD_compressStream2(context, &target, &source, mode)
                } == 0)
        }
        return Array(output.prefix(target.pos))
    }
}

/// Bytes that look random and are the same each time.
func noise(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var numbers = Xorshift(state: seed)
    return (0..<count).map { _ in UInt8(truncatingIfNeeded: numbers.next() >> 24) }
}

/// A small generator with a seed, for tests that must be the same each time.
struct Xorshift: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
}
