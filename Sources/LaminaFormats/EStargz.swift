/// eStargz: a tar.gz whose table of contents is the last gzip member but one, and whose last member is a footer that says where
/// (https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md).
public enum EStargz {
    /// The bytes of the footer: the last of the blob.
    public static let footerSize = 51

    /// The name of the table of contents in its tar.
    static let tocName: StaticString = "stargz.index.json"

    // An empty gzip member with a comment field: header with FLG.FEXTRA; XLEN 26; subfield "SG" of 22 bytes; …
    static let footerHead: [UInt8] = [
        0x1f, 0x8b, 0x08, 0x04, 0, 0, 0, 0, 0x00, 0xff, 0x1a, 0x00, 0x53, 0x47, 0x16, 0x00,
    ]
    // … "STARGZ" behind the 16 hex digits; a final stored block of length 0; CRC-32 and ISIZE, both zero.
    static let footerTail: [UInt8] = [
        0x53, 0x54, 0x41, 0x52, 0x47, 0x5a, 0x01, 0x00, 0x00, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0,
    ]

    /// Reads the last 51 bytes of a blob: the blob offset at which its table of contents begins.
    ///
    /// Throws ``FormatError`` `notEStargz` for bytes that are no such footer, `badFooter` for a negative offset. The caller
    /// knows the blob's size and checks that the offset is within it.
    public static func parseFooter(_ footer: UnsafeRawBufferPointer) throws(FormatError) -> Int64 {
        guard footer.count == footerSize else {
            throw FormatError(
                .notEStargz, "an eStargz footer has another size", expected: "\(footerSize) bytes",
                actual: "\(footer.count)")
        }
        // Byte 9 names the writer's operating system (RFC 1952 §2.3): any value is accepted; every other byte is fixed.
        for (index, byte) in footerHead.enumerated() where footer[index] != byte && index != 9 {
            throw FormatError(.notEStargz, "the blob does not end with an eStargz footer", offset: Int64(index))
        }
        for (index, byte) in footerTail.enumerated() where footer[32 + index] != byte {
            throw FormatError(.notEStargz, "the blob does not end with an eStargz footer", offset: Int64(32 + index))
        }
        return try footerOffset(footer, digits: 16)
    }

    /// The number of 16 hex digits that a footer has at `digits`.
    static func footerOffset(_ footer: UnsafeRawBufferPointer, digits: Int) throws(FormatError) -> Int64 {
        var offset: UInt64 = 0
        for index in digits..<(digits + 16) {
            guard let digit = hexDigit(footer[index]) else {
                throw FormatError(
                    .badFooter, "the offset of the table of contents is not a number", offset: Int64(index))
            }
            offset = offset << 4 | UInt64(digit)
        }
        guard let offset = Int64(exactly: offset) else {
            throw FormatError(
                .badFooter, "the offset of the table of contents is over 2^63", offset: Int64(digits))
        }
        return offset
    }

    /// Takes the JSON out of the member that holds the table of contents: the blob's bytes from its offset to the
    /// footer.
    ///
    /// The caller compares the SHA-256 of the result with the descriptor's annotation before it trusts a byte of it. Throws
    /// ``FormatError`` `badTOC` for a tar that does not begin with `stargz.index.json`, `corruptMember`, and `tooLarge` for a
    /// size over the limits, which is checked before inflating. Memory: the JSON, once.
    public static func extractTOC(
        fromMember member: UnsafeRawBufferPointer, limits: FormatLimits = FormatLimits()
    ) throws(FormatError) -> [UInt8] {
        let decoder = try ChunkDecoder()
        let size = try tocSize(member, decoder, limits)
        let needed = TarBlock.size + size
        var failure: FormatError?
        // Room for the padding and the end of the tar too, so that the decoder can take its fast way.
        let json = [UInt8](unsafeUninitializedCapacity: needed + 16 * TarBlock.size) { buffer, count in
            do throws(FormatError) {
                _ = try decoder.inflate(member, into: UnsafeMutableRawBufferPointer(buffer), needing: needed)
                let all = UnsafeMutableRawBufferPointer(buffer)
                all.copyMemory(from: UnsafeRawBufferPointer(rebasing: all[TarBlock.size..<needed]))
                count = size
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return json
    }

    /// Reads only the tar header: the size of the JSON, within the limits.
    private static func tocSize(
        _ member: UnsafeRawBufferPointer, _ decoder: ChunkDecoder, _ limits: FormatLimits
    ) throws(FormatError) -> Int {
        let header = UnsafeMutableRawBufferPointer.allocate(byteCount: TarBlock.size, alignment: 16)
        defer { header.deallocate() }
        _ = try decoder.inflate(member, into: header, needing: TarBlock.size)
        let size = try TarBlock.regularFileSize(UnsafeRawBufferPointer(header), name: tocName)
        guard size <= limits.tocBytes else {
            throw FormatError(
                .tooLarge, "the table of contents is over its limit", expected: "at most \(limits.tocBytes) bytes",
                actual: "\(size)")
        }
        // Division, not multiplication: the size is at most 8 GiB, but the ratio may be any number.
        let plausible = size <= 16 << 20 || size / Int64(max(limits.tocRatio, 1)) <= Int64(member.count)
        guard plausible else {
            throw FormatError(
                .tooLarge, "the table of contents inflates too far",
                expected: "at most \(limits.tocRatio) times \(member.count) bytes", actual: "\(size)")
        }
        return Int(size)
    }
}

/// The one tar header that a table of contents has (POSIX.1-1988 ustar).
private enum TarBlock {
    static let size = 512

    /// The size of the regular file `name` that `header` describes.
    static func regularFileSize(_ header: UnsafeRawBufferPointer, name: StaticString) throws(FormatError) -> Int64 {
        var sum = 0
        for (index, byte) in header.enumerated() { sum += (148..<156).contains(index) ? 32 : Int(byte) }
        guard octal(header, 148..<156) == Int64(sum) else {
            throw FormatError(.badTOC, "the tar header of the table of contents has a wrong checksum")
        }
        let found = UnsafeRawBufferPointer(rebasing: header.prefix { $0 != 0 }.prefix(100))
        guard found.count == name.utf8CodeUnitCount,
            found.elementsEqual(UnsafeRawBufferPointer(start: name.utf8Start, count: found.count)),
            header[156] == UInt8(ascii: "0") || header[156] == 0
        else {
            throw FormatError(
                .badTOC, "another file stands where the table of contents should", expected: "\(name)",
                actual: FormatError.display(found))
        }
        guard let size = octal(header, 124..<136) else {
            throw FormatError(.badTOC, "the tar header of the table of contents has no size")
        }
        return size
    }

    /// An octal number, ended by a blank, a NUL or the field's end.
    private static func octal(_ header: UnsafeRawBufferPointer, _ field: Range<Int>) -> Int64? {
        var value: Int64 = 0
        var digits = 0
        for byte in header[field] {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "7"):
                value = value << 3 | Int64(byte & 7)
                digits += 1
            case UInt8(ascii: " ") where digits == 0: continue
            case 0, UInt8(ascii: " "): return digits == 0 ? nil : value
            default: return nil
            }
        }
        return digits == 0 ? nil : value
    }
}

/// The value of a hex digit of either case.
@inline(__always)
func hexDigit(_ character: UInt8) -> UInt8? {
    switch character {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): character - UInt8(ascii: "A") + 10
    default: nil
    }
}
