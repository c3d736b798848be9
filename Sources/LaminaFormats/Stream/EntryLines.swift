public import LaminaDigest

/// The entries of a plain layer's tar, as lines of a table of contents. When all of the tar has been read, the layer's tree is
/// made from them, by the same rules as for a layer that brought a table of contents.
///
/// An entry's `offset` is that of its first header in the tar: from there the file can be read again alone.
public enum EntryLines {
    /// Appends one entry.
    ///
    /// - Parameter digest: for a regular file that is not empty.
    public static func append(_ entry: TarEntry, digest: Digest?, to text: inout [UInt8]) {
        let header = entry.header
        begin(header, &text)
        if header.kind == .regular, header.size > 0 {
            field("size", header.size, &text)
            field("offset", entry.offset, &text)
            if let digest { text += ",\"digest\":\"\(digest)\"".utf8 }
        }
        header.appendAttributes(to: &text)
        text += "},\n".utf8
    }

    /// The beginning of an entry's line: everything but a file's place and the extended attributes.
    static func begin(_ header: TarHeader, _ text: inout [UInt8]) {
        text += "{\"name\":".utf8
        JSONText.append(string: header.name, to: &text)
        text += ",\"type\":\"\(header.kind.tocName)\",\"modtime\":".utf8
        JSONText.append(
            time: header.modificationTime.seconds, nanoseconds: Int(header.modificationTime.nanoseconds), to: &text)
        if header.kind == .hardLink || header.kind == .symbolicLink {
            text += ",\"linkName\":".utf8
            JSONText.append(string: header.linkName, to: &text)
        }
        field("mode", Int64(header.mode), &text)
        field("uid", Int64(header.userID), &text)
        field("gid", Int64(header.groupID), &text)
        field("devMajor", Int64(header.deviceMajor), &text)
        field("devMinor", Int64(header.deviceMinor), &text)
    }

    /// Lines as the index keeps them.
    public static func pack(_ lines: [UInt8]) -> [UInt8] { Zstd.compress(lines) }

    /// The table of contents from packed lines.
    ///
    /// Throws ``FormatError`` `badTOC` for bytes that ``pack(_:)`` has not made, `tooLarge` for more than any layer may have.
    public static func document(
        _ packed: [[UInt8]], limits: FormatLimits = FormatLimits()
    ) throws(FormatError) -> [UInt8] {
        var text = Array("{\"version\":1,\"entries\":[\n".utf8)
        let limit = limits.tocBytes
        for part in packed {
            guard let size = Zstd.contentSize(of: part), size <= limit - text.count else {
                throw FormatError(
                    .tooLarge, "the layer has too many entries", expected: "at most \(limit) bytes of them")
            }
            guard let lines = Zstd.decompress(part[...], limit: size) else {
                throw FormatError(.badTOC, "the index's record of a layer's entries is damaged")
            }
            text += lines
        }
        // The last line's comma and newline.
        if text.suffix(2).elementsEqual(",\n".utf8) { text.removeLast(2) }
        return text + "]}".utf8
    }

    /// A missing number means zero.
    private static func field(_ name: StaticString, _ value: Int64, _ text: inout [UInt8]) {
        if value != 0 { text += ",\"\(name)\":\(value)".utf8 }
    }
}
