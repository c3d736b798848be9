import CZstd

/// zstd:chunked: zstd frames, one for each chunk, that together are the tar. After them, in skippable frames (RFC 8878 §3.1.2),
/// which a decompressor skips, come the table of contents, the tar-split (containers dialect) and a footer.
///
/// Two dialects: stargz-snapshotter's, and that of containers/storage (podman, buildah, skopeo),
/// https://github.com/containers/storage/blob/main/pkg/chunked/internal/compression.go.
public enum ZstdChunked {
    /// Where something is in a blob, compressed by zstd, after the head of its skippable frame.
    public struct Place: Sendable, Equatable {
        public var offset: Int64
        public var compressedSize: Int64
        /// Decompressed.
        public var size: Int64

        public init(offset: Int64, compressedSize: Int64, size: Int64) {
            self.offset = offset
            self.compressedSize = compressedSize
            self.size = size
        }

        public var range: Range<Int64> { offset..<(offset + compressedSize) }
    }

    /// The head of a skippable frame: `50 2a 4d 18` and the size of what follows, LE32.
    public static let frameHeadSize: Int64 = 8
    static let frameMagic: [UInt8] = [0x50, 0x2a, 0x4d, 0x18]
    /// The footer's frame in the stargz dialect, and of containers' writers until 2023.
    static let stargzFooterSize = 8 + 40
    /// The footer's frame in the containers dialect.
    static let containersFooterSize = 8 + 64
    /// "GnUlInUx", and in capitals.
    static let stargzMagic: [UInt8] = [0x47, 0x6e, 0x55, 0x6c, 0x49, 0x6e, 0x55, 0x78]
    static let containersMagic: [UInt8] = [0x47, 0x4e, 0x55, 0x6c, 0x49, 0x6e, 0x55, 0x78]

    /// Reads the footer at the end of `tail`; `nil` if there is none.
    ///
    /// Little-endian numbers of 64 bits: offset, compressed size, size and type (1) of the table of contents; in the
    /// containers dialect offset, compressed size and size of the tar-split; eight bytes of magic.
    static func parseFooter(
        _ tail: UnsafeRawBufferPointer, blobSize: Int64
    ) throws(FormatError) -> LayerFooter? {
        if let numbers = numbers(tail, stargzFooterSize, stargzMagic) {
            return .zstdChunked(
                toc: try place(numbers, type: numbers[3], before: blobSize - Int64(stargzFooterSize)), tarSplit: nil)
        }
        guard let numbers = numbers(tail, containersFooterSize, containersMagic) else { return nil }
        let end = blobSize - Int64(containersFooterSize)
        let toc = try place(numbers, type: numbers[3], before: end)
        // A tar-split is not needed to read the layer: an unreadable one counts as none.
        return .zstdChunked(toc: toc, tarSplit: try? place(numbers[4...], type: 1, before: end))
    }

    private static func numbers(_ tail: UnsafeRawBufferPointer, _ size: Int, _ magic: [UInt8]) -> [UInt64]? {
        guard tail.count >= size else { return nil }
        let frame = UnsafeRawBufferPointer(rebasing: tail.suffix(size))
        let payload = UInt32(littleEndian: frame.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        guard frame.prefix(4).elementsEqual(frameMagic), Int(payload) == size - 8,
            frame.suffix(8).elementsEqual(magic)
        else { return nil }
        return stride(from: 8, to: size - 8, by: 8).map {
            UInt64(littleEndian: frame.loadUnaligned(fromByteOffset: $0, as: UInt64.self))
        }
    }

    private static func place(
        _ numbers: some Collection<UInt64>, type: UInt64, before end: Int64
    ) throws(FormatError) -> Place {
        guard type == 1 else {
            throw FormatError(
                .unsupported, "the table of contents is of an unknown type", expected: "1", actual: "\(type)")
        }
        let values = numbers.prefix(3).map { Int64(exactly: $0) ?? -1 }
        return try checked(
            Place(offset: values[0], compressedSize: values[1], size: values[2]), before: end)
    }

    /// Checks that a place is in the blob, at least the head of its own frame after the beginning.
    public static func checked(_ place: Place, before end: Int64) throws(FormatError) -> Place {
        guard place.offset >= frameHeadSize, place.compressedSize > 0, place.size > 0, place.offset < end,
            place.compressedSize <= end - place.offset
        else {
            throw FormatError(
                .badFooter, "the footer places the table of contents outside of the blob", offset: place.offset,
                expected: "below \(end)", actual: "\(place.compressedSize) bytes at \(place.offset)")
        }
        return place
    }

    /// Reads the annotation of a place: `offset:compressed size:size`, followed by `:1` for a table of contents. `nil` for
    /// other text.
    public static func parsePosition(_ text: String, hasType: Bool) -> Place? {
        let parts = text.utf8.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        guard parts.count == (hasType ? 4 : 3) else { return nil }
        var values: [Int64] = []
        for part in parts {
            guard (1...19).contains(part.count), part.allSatisfy({ 0x30...0x39 ~= $0 }),
                let value = Int64(String(Substring(part)))
            else { return nil }
            values.append(value)
        }
        guard !hasType || values[3] == 1 else { return nil }
        return Place(offset: values[0], compressedSize: values[1], size: values[2])
    }

    /// Decompresses the table of contents: the blob's bytes at its place.
    ///
    /// The caller compares the digest of the argument, or of the result, with the manifest before it trusts a byte of it.
    /// Throws ``FormatError`` `tooLarge` before anything is decompressed, `corruptMember`, `badTOC`.
    public static func extractTOC(
        _ frame: UnsafeRawBufferPointer, place: Place, limits: FormatLimits = FormatLimits()
    ) throws(FormatError) -> [UInt8] {
        guard place.size <= limits.tocBytes else {
            throw FormatError(
                .tooLarge, "the table of contents is over its limit", expected: "at most \(limits.tocBytes) bytes",
                actual: "\(place.size)")
        }
        // zstd can express a gigabyte of one letter in a few kilobytes: the same ratio as for gzip applies.
        let plausible = place.size <= 16 << 20 || place.size / Int64(max(limits.tocRatio, 1)) <= Int64(frame.count)
        guard plausible else {
            throw FormatError(
                .tooLarge, "the table of contents decompresses too far",
                expected: "at most \(limits.tocRatio) times \(frame.count) bytes", actual: "\(place.size)")
        }
        return try decompress(frame, size: Int(place.size), of: "the table of contents", offset: place.offset)
    }

    /// Decompresses frames to exactly `size` bytes.
    static func decompress(
        _ frames: UnsafeRawBufferPointer, size: Int, of what: StaticString, offset: Int64
    ) throws(FormatError) -> [UInt8] {
        var result = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            result = ZSTD_decompress(buffer.baseAddress, buffer.count, frames.baseAddress, frames.count)
            count = ZSTD_isError(result) == 0 ? result : 0
        }
        guard ZSTD_isError(result) == 0 else {
            throw FormatError(
                .corruptMember, "\(what) cannot be decompressed: \(String(cString: ZSTD_getErrorName(result)))",
                offset: offset)
        }
        guard result == size else {
            throw FormatError(
                .corruptMember, "\(what) has another size than its place says", offset: offset,
                expected: "\(size) bytes", actual: "\(result)")
        }
        return bytes
    }
}
