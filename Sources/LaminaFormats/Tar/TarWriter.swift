/// Writes tar headers: ustar if that can express everything; otherwise with a pax header before it.
///
/// Deterministic: the same header gives the same bytes; records are sorted by keyword, nothing is looked up, and no time or
/// process number is included.
public enum TarWriter {
    /// Appends the header blocks of one entry to `output`. The payload and its padding (`Tar.padding`) follow it.
    ///
    /// A directory's name gets a slash at its end if it has none.
    ///
    /// - Throws: `FormatError` for what tar cannot express: a name with a NUL, an attribute's name with `=`.
    public static func append(_ header: TarHeader, to output: inout [UInt8]) throws(FormatError) {
        var name = header.name
        if header.kind == .directory, name.last != UInt8(ascii: "/") { name.append(UInt8(ascii: "/")) }
        guard !name.isEmpty else { throw .tar("an entry has no name", entry: [], offset: nil) }
        guard !name.contains(0), !header.linkName.contains(0) else {
            throw .tar("its name or target has a NUL in it", entry: name, offset: nil)
        }
        guard header.size >= 0, header.modificationTime.nanoseconds < 1_000_000_000 else {
            throw .tar("its size or time is out of range", entry: name, offset: nil)
        }
        var block = [UInt8](repeating: 0, count: Tar.blockSize)
        var records: [(key: [UInt8], value: [UInt8])] = []

        if !place(name, in: &block) {
            records.append(("path".bytes, name))
            copy(name, to: TarField.name, of: &block)
        }
        if header.linkName.count > TarField.linkName.count { records.append(("linkpath".bytes, header.linkName)) }
        copy(header.linkName, to: TarField.linkName, of: &block)
        if header.userName.count > TarField.userName.count { records.append(("uname".bytes, header.userName)) }
        copy(header.userName, to: TarField.userName, of: &block)
        if header.groupName.count > TarField.groupName.count { records.append(("gname".bytes, header.groupName)) }
        copy(header.groupName, to: TarField.groupName, of: &block)

        _ = TarField.write(Int64(header.mode & 0o7777), to: TarField.mode, of: &block)
        number(Int64(header.userID), TarField.userID, "uid", &block, &records)
        number(Int64(header.groupID), TarField.groupID, "gid", &block, &records)
        number(header.size, TarField.size, "size", &block, &records)
        number(Int64(header.deviceMajor), TarField.deviceMajor, "SCHILY.devmajor", &block, &records)
        number(Int64(header.deviceMinor), TarField.deviceMinor, "SCHILY.devminor", &block, &records)
        let time = header.modificationTime
        if !TarField.write(time.seconds, to: TarField.modificationTime, of: &block) || time.nanoseconds != 0 {
            records.append(("mtime".bytes, text(time)))
            if time.seconds < 0 { _ = TarField.write(0, to: TarField.modificationTime, of: &block) }
        }
        for attribute in header.attributes {
            guard !attribute.name.isEmpty, !attribute.name.contains(where: { $0 == 0 || $0 == UInt8(ascii: "=") })
            else {
                let shown = attribute.name.withUnsafeBytes { FormatError.display($0) }
                throw .tar(
                    "tar cannot hold an extended attribute named '\(shown)'", entry: name, offset: nil,
                    unsupported: true)
            }
            records.append((TarPAX.attributePrefix + attribute.name, attribute.value))
        }

        if !records.isEmpty { try appendRecords(records, of: name, to: &output) }
        block[TarField.type] = type(of: header.kind)
        seal(&block)
        output += block
    }

    /// The blocks of the pax header itself.
    private static func appendRecords(
        _ records: [(key: [UInt8], value: [UInt8])], of name: [UInt8], to output: inout [UInt8]
    ) throws(FormatError) {
        var data: [UInt8] = []
        for (key, value) in records.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            // The length counts its own digits: "N key=value\n".
            let body = key.count + value.count + 3
            var length = body + String(body).utf8.count
            if String(length).utf8.count != String(body).utf8.count { length = body + String(length).utf8.count }
            data += Array("\(length) ".utf8) + key + [UInt8(ascii: "=")] + value + [UInt8(ascii: "\n")]
        }
        guard data.count <= TarReader.extendedHeaderLimit else {
            throw .tar(
                "its extended attributes are larger than the limit of \(TarReader.extendedHeaderLimit) bytes",
                entry: name, offset: nil)
        }
        var block = [UInt8](repeating: 0, count: Tar.blockSize)
        // A name that tells a reader without pax what it is. Unlike POSIX's suggestion it contains no process number.
        let base = name.split(separator: UInt8(ascii: "/")).last.map(Array.init) ?? []
        copy("PaxHeaders.0/".bytes + base, to: TarField.name, of: &block)
        _ = TarField.write(0, to: TarField.mode, of: &block)
        _ = TarField.write(0, to: TarField.userID, of: &block)
        _ = TarField.write(0, to: TarField.groupID, of: &block)
        _ = TarField.write(Int64(data.count), to: TarField.size, of: &block)
        _ = TarField.write(0, to: TarField.modificationTime, of: &block)
        block[TarField.type] = UInt8(ascii: "x")
        seal(&block)
        output += block
        output += data
        output.append(contentsOf: repeatElement(0, count: Tar.padding(Int64(data.count))))
    }

    /// Puts the name into name and prefix; false if it does not fit.
    private static func place(_ name: [UInt8], in block: inout [UInt8]) -> Bool {
        if name.count <= TarField.name.count {
            copy(name, to: TarField.name, of: &block)
            return true
        }
        // Split at a slash with at most 155 bytes before it and 1 to 100 after it.
        guard name.count <= TarField.prefix.count + 1 + TarField.name.count else { return false }
        let first = max(1, name.count - 1 - TarField.name.count)
        let last = min(TarField.prefix.count, name.count - 2)
        guard first <= last, let slash = name[first...last].firstIndex(of: UInt8(ascii: "/")) else { return false }
        copy(Array(name[..<slash]), to: TarField.prefix, of: &block)
        copy(Array(name[(slash + 1)...]), to: TarField.name, of: &block)
        return true
    }

    private static func copy(_ bytes: [UInt8], to field: Range<Int>, of block: inout [UInt8]) {
        for (index, byte) in bytes.prefix(field.count).enumerated() { block[field.lowerBound + index] = byte }
    }

    private static func number(
        _ value: Int64, _ field: Range<Int>, _ key: String, _ block: inout [UInt8],
        _ records: inout [(key: [UInt8], value: [UInt8])]
    ) {
        if TarField.write(value, to: field, of: &block) { return }
        _ = TarField.write(0, to: field, of: &block)
        records.append((key.bytes, "\(value)".bytes))
    }

    /// Seconds, and a fraction without trailing zeros; it goes to the past if negative.
    private static func text(_ time: TarHeader.Time) -> [UInt8] {
        guard time.nanoseconds != 0 else { return "\(time.seconds)".bytes }
        var seconds = time.seconds
        var nanoseconds = time.nanoseconds
        var sign = ""
        if seconds < 0 {
            seconds = -(seconds + 1)
            nanoseconds = 1_000_000_000 - nanoseconds
            sign = "-"
        }
        var digits = "\(nanoseconds)".bytes
        digits.insert(contentsOf: repeatElement(UInt8(ascii: "0"), count: 9 - digits.count), at: 0)
        while digits.last == UInt8(ascii: "0") { digits.removeLast() }
        return "\(sign)\(seconds).".bytes + digits
    }

    private static func type(of kind: TarHeader.Kind) -> UInt8 {
        switch kind {
        case .regular: UInt8(ascii: "0")
        case .hardLink: UInt8(ascii: "1")
        case .symbolicLink: UInt8(ascii: "2")
        case .characterDevice: UInt8(ascii: "3")
        case .blockDevice: UInt8(ascii: "4")
        case .directory: UInt8(ascii: "5")
        case .fifo: UInt8(ascii: "6")
        }
    }

    /// Adds the magic and the checksum: six octal digits, NUL, blank.
    private static func seal(_ block: inout [UInt8]) {
        copy("ustar\0".bytes + "00".bytes, to: TarField.magic, of: &block)
        let sum = block.withUnsafeBytes { TarField.checksums($0).unsigned }
        _ = TarField.write(sum, to: TarField.checksum.lowerBound..<(TarField.checksum.upperBound - 1), of: &block)
        block[TarField.checksum.upperBound - 1] = UInt8(ascii: " ")
    }
}

extension String {
    fileprivate var bytes: [UInt8] { Array(utf8) }
}
