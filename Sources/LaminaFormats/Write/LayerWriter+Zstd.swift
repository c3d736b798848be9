import CZstd
import LaminaDigest

extension LayerWriter {
    /// Writes what follows the members in zstd:chunked: table of contents, tar-split and footer, each in a skippable frame.
    func writeChunkedEnd() throws -> (ChunkedResult, tocDigest: Digest) {
        guard var tarSplit = tarSplit.take() else {
            throw FormatError(.unsupported, "the layer's writer was not set up for zstd:chunked")
        }
        let split = try tarSplit.finish()
        // Of the compressed bytes: containers/storage hashes them before it decompresses them (`decodeAndValidateBlob`). If the
        // digest does not match, podman 5 ends with an error instead of pulling the whole layer.
        let json = toc.finish(tarSplitDigest: SHA256.hash(split.compressed))
        let compressed = try Self.compress(json)
        let toc = try emitSkippable(compressed, size: Int64(json.count))
        let place = try emitSkippable(split.compressed, size: split.size)
        try emit(Self.footer(toc: toc, tarSplit: place))
        return (
            ChunkedResult(toc: toc, tocChecksum: SHA256.hash(compressed), tarSplit: place), SHA256.hash(json)
        )
    }

    private func emitSkippable(_ bytes: [UInt8], size: Int64) throws -> ZstdChunked.Place {
        guard let count = UInt32(exactly: bytes.count) else {
            throw FormatError(.tooLarge, "no skippable frame holds so much", actual: "\(bytes.count) bytes")
        }
        try emit(ZstdChunked.frameMagic + withUnsafeBytes(of: count.littleEndian) { Array($0) })
        let place = ZstdChunked.Place(offset: blobSize, compressedSize: Int64(count), size: size)
        try emit(bytes)
        return place
    }

    /// https://github.com/containers/storage/blob/main/pkg/chunked/internal/minimal/compression.go, `footerDataToBlob`.
    private static func footer(toc: ZstdChunked.Place, tarSplit: ZstdChunked.Place) -> [UInt8] {
        var bytes = ZstdChunked.frameMagic + [64, 0, 0, 0]
        for number in [
            toc.offset, toc.compressedSize, toc.size, 1, tarSplit.offset, tarSplit.compressedSize, tarSplit.size,
        ] {
            withUnsafeBytes(of: number.littleEndian) { bytes += $0 }
        }
        return bytes + ZstdChunked.containersMagic
    }

    private static func compress(_ bytes: [UInt8]) throws(FormatError) -> [UInt8] {
        var failed = false
        let compressed = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
            let result = ZSTD_compress(buffer.baseAddress, buffer.count, bytes, bytes.count, 9)
            failed = ZSTD_isError(result) != 0
            count = failed ? 0 : result
        }
        guard !failed else { throw FormatError(.tooLarge, "the table of contents cannot be compressed") }
        return compressed
    }
}

/// libzstd's streaming compressor, into memory.
final class ZstdWriter: TarSplitStream {
    private let context: OpaquePointer
    private var output: [UInt8] = []
    private var failure: String?

    init() throws(FormatError) {
        guard let context = ZSTD_createCCtx() else {
            throw FormatError(.tooLarge, "zstd cannot be set up: out of memory")
        }
        self.context = context
    }

    deinit { ZSTD_freeCCtx(context) }

    func write(_ bytes: [UInt8]) { push(bytes, ZSTD_e_continue) }

    func finish() throws(FormatError) -> [UInt8] {
        push([], ZSTD_e_end)
        if let failure { throw FormatError(.tooLarge, "the tar-split cannot be compressed: \(failure)") }
        return output
    }

    private func push(_ bytes: [UInt8], _ mode: ZSTD_EndDirective) {
        bytes.withUnsafeBytes { bytes in
            var source = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
            var isDone = false
            while !isDone, failure == nil {
                withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { buffer in
                    var target = ZSTD_outBuffer(dst: buffer.baseAddress, size: buffer.count, pos: 0)
                    let left = ZSTD_compressStream2(context, &target, &source, mode)
                    output += buffer[..<target.pos]
                    if ZSTD_isError(left) != 0 { failure = String(cString: ZSTD_getErrorName(left)) }
                    isDone = mode == ZSTD_e_end ? left == 0 : source.pos == source.size
                }
            }
        }
    }
}
