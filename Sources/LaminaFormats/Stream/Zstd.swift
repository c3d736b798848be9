import CZstd

/// One frame of zstd in memory.
enum Zstd {
    /// Compresses quickly.
    static func compress(_ bytes: [UInt8]) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
            let written = ZSTD_compress(buffer.baseAddress, buffer.count, bytes, bytes.count, 1)
            // Room enough, and a few hundred KiB of memory: nothing else can be wrong.
            precondition(ZSTD_isError(written) == 0, "zstd cannot compress")
            count = written
        }
    }

    /// What a frame says that it decompresses to, in bytes; nil for what is no frame.
    static func contentSize(of bytes: [UInt8]) -> Int? {
        // The two highest numbers are zstd's errors (ZSTD_CONTENTSIZE_ERROR, ZSTD_CONTENTSIZE_UNKNOWN).
        Int(exactly: ZSTD_getFrameContentSize(bytes, bytes.count))
    }

    /// Decompresses a frame to at most `limit` bytes; nil for what is no frame, or a larger one.
    static func decompress(_ bytes: ArraySlice<UInt8>, limit: Int) -> [UInt8]? {
        bytes.withUnsafeBytes { bytes in
            var failed = false
            let result = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
                let written = ZSTD_decompress(buffer.baseAddress, buffer.count, bytes.baseAddress, bytes.count)
                failed = ZSTD_isError(written) != 0
                count = failed ? 0 : written
            }
            return failed ? nil : result
        }
    }
}
