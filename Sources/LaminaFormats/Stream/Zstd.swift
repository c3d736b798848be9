import CZstd

/// One frame of zstd in memory.
enum Zstd {
    /// Compresses quickly.
    static func compress(_ bytes: [UInt8]) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
            let written = ZSTD_compress(buffer.baseAddress, buffer.count, bytes, bytes.count, 1)
            // There is room and a few hundred KiB of memory are enough: nothing else can go wrong.
            precondition(ZSTD_isError(written) == 0, "zstd cannot compress")
            count = written
        }
    }

    /// The decompressed size that a frame gives, in bytes; nil if it is no frame.
    static func contentSize(of bytes: [UInt8]) -> Int? {
        // The two highest numbers are zstd's errors (ZSTD_CONTENTSIZE_ERROR, ZSTD_CONTENTSIZE_UNKNOWN).
        Int(exactly: ZSTD_getFrameContentSize(bytes, bytes.count))
    }

    /// Decompresses a frame to at most `limit` bytes; nil if it is no frame, or a larger one.
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

/// How far back a frame may refer: the memory that decompressing it needs.
enum ZstdWindow {
    /// 256 MiB, as with `zstd --long=28`; libzstd allows 128 MiB by default. With more, one layer could take a small machine's
    /// memory.
    static let limitLog: Int32 = 28

    /// The window that a frame needs, in bytes, by its header (RFC 8878 §3.1.1.1); 0 if it is no frame, or a short one.
    ///
    /// - Parameter room: how much there is to decompress into; libzstd needs no window for a frame of one segment that fits.
    static func size(of frame: UnsafeRawBufferPointer, room: Int) -> Int {
        guard frame.count >= 6, frame.loadUnaligned(as: UInt32.self) == UInt32(littleEndian: 0xfd2f_b528) else {
            return 0
        }
        let descriptor = frame[4]
        let isSingleSegment = descriptor & 0x20 != 0
        guard isSingleSegment else {
            let base = 1 << (10 + Int(frame[5] >> 3))
            return base + base / 8 * Int(frame[5] & 7)
        }
        // Its window is all of its content.
        let size = Int(clamping: ZSTD_getFrameContentSize(frame.baseAddress, frame.count))
        return size <= room ? 0 : size
    }

    /// The reason in words, if a result of libzstd means that the window is over the limit.
    static func complaint(_ result: Int) -> String? {
        guard ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge else { return nil }
        return "the zstd frame's window is over the limit of \(1 << (limitLog - 20)) MiB"
    }
}
