/// What the last bytes of a blob say about its format, and about the place of its table of contents.
public enum LayerFooter: Sendable, Equatable {
    case estargz(tocOffset: Int64)
    /// stargz from before chunk digests.
    case stargz(tocOffset: Int64)
    /// eStargz whose table of contents is in another image; its members end at `membersEnd`.
    case estargzExternal(membersEnd: Int64)
    /// The places of the table of contents and, in the containers dialect, of the tar-split.
    case zstdChunked(toc: ZstdChunked.Place, tarSplit: ZstdChunked.Place?)

    /// The size of the longest footer: this many bytes of a blob's end must be read.
    public static let largest = ZstdChunked.containersFooterSize

    /// Reads the footer at the end of `tail`, which is the end of a blob of `blobSize` bytes; `nil` if there is none.
    ///
    /// Throws ``FormatError`` `badFooter` for a footer that names a place outside the blob.
    public static func find(
        in tail: UnsafeRawBufferPointer, blobSize: Int64
    ) throws(FormatError) -> LayerFooter? {
        if let footer = try ZstdChunked.parseFooter(tail, blobSize: blobSize) { return footer }
        if let offset = try stargz(tail, head: EStargz.footerHead, digits: 16, count: EStargz.footerSize) {
            return .estargz(tocOffset: try within(offset, blobSize - Int64(EStargz.footerSize)))
        }
        if let offset = try stargz(tail, head: legacyHead, digits: 12, count: legacySize) {
            return .stargz(tocOffset: try within(offset, blobSize - Int64(legacySize)))
        }
        if tail.count >= externalFooter.count {
            let footer = UnsafeRawBufferPointer(rebasing: tail.suffix(externalFooter.count))
            if zip(footer, externalFooter).enumerated().allSatisfy({ $0.offset == 9 || $0.element.0 == $0.element.1 }) {
                return .estargzExternal(membersEnd: blobSize - Int64(externalFooter.count))
            }
        }
        return nil
    }

    /// An empty gzip member whose comment field is 22 bytes without a subfield's head: CRFS's stargz,
    /// https://github.com/google/crfs.
    private static let legacyHead: [UInt8] = [0x1f, 0x8b, 0x08, 0x04, 0, 0, 0, 0, 0x00, 0xff, 0x16, 0x00]
    private static let legacySize = 47

    /// Subfield "SG" of 17 bytes, "STARGZEXTERNALTOC":
    /// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md#example-toc.
    private static let externalFooter: [UInt8] =
        [0x1f, 0x8b, 0x08, 0x04, 0, 0, 0, 0, 0x00, 0xff, 0x15, 0x00, 0x53, 0x47, 0x11, 0x00]
        + Array("STARGZEXTERNALTOC".utf8) + [0x01, 0x00, 0x00, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]

    /// The offset in a footer of `count` bytes whose number of 16 hex digits begins at `digits`; `nil` for other bytes.
    private static func stargz(
        _ tail: UnsafeRawBufferPointer, head: [UInt8], digits: Int, count: Int
    ) throws(FormatError) -> Int64? {
        guard tail.count >= count else { return nil }
        let footer = UnsafeRawBufferPointer(rebasing: tail.suffix(count))
        // Byte 9 names the writer's operating system (RFC 1952 §2.3): any value is accepted.
        for (index, byte) in head.enumerated() where footer[index] != byte && index != 9 { return nil }
        for (index, byte) in EStargz.footerTail.enumerated() where footer[digits + 16 + index] != byte { return nil }
        return try EStargz.footerOffset(footer, digits: digits)
    }

    private static func within(_ offset: Int64, _ end: Int64) throws(FormatError) -> Int64 {
        guard offset < end else {
            throw FormatError(
                .badFooter, "the footer places the table of contents outside of the blob", offset: offset,
                expected: "below \(end)", actual: "\(offset)")
        }
        return offset
    }
}
