extension TreeBuilder {
    /// The entry's owner, permissions and time, checked.
    func attributes(_ entry: TOCEntry, type: UInt32) throws(FormatError) -> LayerTree.Node {
        guard entry.mode >= 0 else { throw FormatError(.badEntry, "mode is negative", actual: "\(entry.mode)") }
        // Some writers of tars put the type into the mode too: the entry's type counts.
        return LayerTree.Node(
            mode: type | UInt32(truncatingIfNeeded: entry.mode) & 0o7777,
            uid: try Self.owner(entry.uid, "uid"), gid: try Self.owner(entry.gid, "gid"),
            mtimeSeconds: entry.modified.seconds, mtimeNanoseconds: entry.modified.nanoseconds)
    }

    private static func owner(_ value: Int64, _ field: StaticString) throws(FormatError) -> UInt32 {
        guard let id = UInt32(exactly: value) else {
            throw FormatError(.badEntry, "\(field) does not fit 32 bits", actual: "\(value)")
        }
        return id
    }

    /// makedev(3) of glibc. Linux has 12 bits of major and 20 of minor numbers.
    static func device(_ entry: TOCEntry) throws(FormatError) -> UInt64 {
        guard 0..<1 << 12 ~= entry.deviceMajor, 0..<1 << 20 ~= entry.deviceMinor else {
            throw FormatError(
                .badEntry, "no device of Linux has this number", actual: "\(entry.deviceMajor):\(entry.deviceMinor)")
        }
        let major = UInt64(entry.deviceMajor)
        let minor = UInt64(entry.deviceMinor)
        return major << 8 | minor & 0xff | (minor & ~0xff) << 12
    }

    /// Puts a symbolic link's target into the arena; returns its place.
    mutating func linkTarget(_ entry: TOCEntry, _ parser: TOCParser) throws(FormatError) -> UInt32 {
        // PATH_MAX includes the NUL, which a target does not have here.
        guard 1..<limits.nameBytes ~= entry.linkName.count else {
            throw FormatError(
                .badEntry, "the target of the symbolic link is empty or too long",
                expected: "1 to \(limits.nameBytes - 1) bytes", actual: "\(entry.linkName.count)")
        }
        return try keep(entry.linkName, parser)
    }

    /// Copies a string to the arena; returns its place.
    mutating func keep(_ slice: JSONReader.Slice, _ parser: TOCParser) throws(FormatError) -> UInt32 {
        let start = UInt32(names.arena.count)
        try parser.reader.withBytes(slice) { (bytes) throws(FormatError) in names.arena.append(contentsOf: bytes) }
        return start
    }
}

extension TreeBuilder {
    /// Copies the entry's extended attributes; returns their range.
    ///
    /// Attributes that would steer overlayfs are left out, and so is every other attribute in trusted., because they belong to
    /// the machine: an unpacked image does not have them either (containerd refuses admin attributes from archives). Linux
    /// allows attributes in user. only for files and directories (xattr(7)): on other types they would be listed but could not
    /// be read.
    mutating func adoptXattrs(_ parser: TOCParser, of type: UInt32) throws(FormatError) -> Range<Int32> {
        let start = Int32(xattrs.count)
        let hasUserXattrs = type == FileType.regular || type == FileType.directory
        for raw in parser.xattrs {
            let isMachines = try parser.reader.withBytes(raw.name) { (name) throws(FormatError) in
                guard 1...limits.xattrNameBytes ~= name.count, !name.holds(0) else {
                    throw FormatError(
                        .badEntry, "the name of an extended attribute is impossible",
                        expected: "1 to \(limits.xattrNameBytes) bytes", actual: "'\(FormatError.display(name))'")
                }
                return name.begins(with: "trusted.") || name.begins(with: "user.overlay.")
                    || !hasUserXattrs && name.begins(with: "user.")
            }
            if isMachines { continue }
            let nameOffset = try keep(raw.name, parser)
            let valueOffset = UInt32(names.arena.count)
            let isBase64 = try parser.reader.withBytes(raw.value) { (text) throws(FormatError) in
                Base64.decode(text, to: &names.arena)
            }
            let valueLength = names.arena.count - Int(valueOffset)
            guard isBase64, valueLength <= limits.xattrValueBytes else {
                throw FormatError(
                    .badEntry, "the value of an extended attribute is no base64 or too long",
                    expected: "at most \(limits.xattrValueBytes) bytes", actual: "'\(parser.display(raw.name))'")
            }
            xattrs.append(
                LayerTree.Xattr(
                    node: 0, nameOffset: nameOffset, nameLength: UInt32(raw.name.count), valueOffset: valueOffset,
                    valueLength: UInt32(valueLength)))
        }
        return start..<Int32(xattrs.count)
    }
}
