import LaminaDigest

extension ZTOC {
    /// An entry of the tar, as the zTOC says it is: what its header said, and where its bytes are.
    struct Entry {
        var header: TarHeader
        /// In the tar: of the first byte behind all of its headers.
        var payloadOffset: Int64
        /// In the zTOC.
        var position: Int
        /// How many PAX records it has.
        var recordCount: Int
    }

    /// Gives each entry, in the order of the tar, to `body`.
    ///
    /// Entries lie one behind the other: no header starts before the bytes of the entry before it have ended, and no byte is behind the
    /// archive's end.
    func entries(
        in bytes: UnsafeRawBufferPointer, limits: FormatLimits = FormatLimits(),
        _ body: (borrowing Entry) throws(FormatError) -> Void
    ) throws(FormatError) {
        let root = try FlatBuffer(bytes: bytes).root()
        guard let list = try root.table(4)?.vector(0) else { return }
        var end: Int64 = 0
        // Many entries may point to one string. So the sum over all entries is bounded, not only the size of the file.
        var total = 0
        for index in 0..<list.count {
            let table = try list.table(index)
            var name = "entry \(index)"
            do throws(FormatError) {
                let entry = try Self.entry(table, bytes, limits, &name)
                let header = entry.header
                total += 64 + header.name.count + header.linkName.count + 8 * entry.recordCount
                total = header.attributes.reduce(total) { $0 + $1.name.count + $1.value.count }
                guard total <= limits.tocBytes else {
                    throw FormatError(.tooLarge, "the names of the layer are over their limit")
                }
                // At least its own header is before it.
                let least = end + Int64(Tar.padding(end)) + Int64(Tar.blockSize)
                guard entry.payloadOffset >= least, entry.payloadOffset % Int64(Tar.blockSize) == 0 else {
                    throw FormatError(
                        .badEntry, "the entry overlaps the one before it, or is in no block of the tar",
                        expected: "at \(least) or behind it", actual: "at \(entry.payloadOffset)")
                }
                guard header.size <= archiveSize, entry.payloadOffset <= archiveSize - header.size else {
                    throw FormatError(
                        .badEntry, "the entry's bytes end behind the tar's end", expected: "at most \(archiveSize)",
                        actual: "\(header.size) bytes at \(entry.payloadOffset)")
                }
                end = entry.payloadOffset + header.size
                try body(entry)
            } catch {
                var error = error.naming(name)
                if error.offset == nil { error.offset = Int64(table.position) }
                throw error
            }
        }
    }

    private static func entry(
        _ table: FlatTable, _ bytes: UnsafeRawBufferPointer, _ limits: FormatLimits, _ display: inout String
    ) throws(FormatError) -> Entry {
        func string(_ field: Int, of table: FlatTable, _ most: Int) throws(FormatError) -> [UInt8] {
            let place = try table.string(field)
            guard place.count <= most else {
                throw FormatError(
                    .badEntry, "a text is too long", expected: "at most \(most) bytes", actual: "\(place.count)")
            }
            return Array(bytes[place])
        }
        let name = try string(0, of: table, limits.nameBytes)
        display = name.withUnsafeBytes { FormatError.display($0) }
        guard !name.contains(0) else { throw FormatError(.badEntry, "a name holds a NUL byte") }
        let type = try table.string(1)
        guard let kind = TarHeader.Kind(ztoc: UnsafeRawBufferPointer(rebasing: bytes[type])) else {
            throw FormatError(
                .badEntry, "the entry's type is unknown",
                actual: "'\(FormatError.display(UnsafeRawBufferPointer(rebasing: bytes[type])))'")
        }
        var header = TarHeader(kind: kind, name: name)
        let link = try string(4, of: table, limits.nameBytes)
        guard !link.contains(0) else { throw FormatError(.badEntry, "a link's target holds a NUL byte") }
        if kind == .hardLink || kind == .symbolicLink { header.linkName = link }
        header.mode = UInt32(truncatingIfNeeded: try table.number(5, or: Int64(0))) & 0o7777
        header.userID = try table.number(6, or: UInt32(0))
        header.groupID = try table.number(7, or: UInt32(0))
        let (offset, size) = (try table.number(2, or: Int64(0)), try table.number(3, or: Int64(0)))
        guard 0...limits.fileBytes ~= offset, 0...limits.fileBytes ~= size else {
            throw FormatError(.badEntry, "the entry's place is negative or too large", actual: "\(size) at \(offset)")
        }
        // Some tars give links a size, for which no bytes follow.
        if kind == .regular { header.size = size }
        let time = try table.string(10)
        if !time.isEmpty {
            guard let modified = Timestamp(UnsafeRawBufferPointer(rebasing: bytes[time])) else {
                throw FormatError(.badEntry, "mod_time is no RFC 3339 time", offset: Int64(time.lowerBound))
            }
            header.modificationTime = TarHeader.Time(
                seconds: modified.seconds, nanoseconds: UInt32(modified.nanoseconds))
        }
        if kind == .characterDevice || kind == .blockDevice {
            let (major, minor) = (try table.number(11, or: Int64(0)), try table.number(12, or: Int64(0)))
            guard let major = UInt32(exactly: major), let minor = UInt32(exactly: minor) else {
                throw FormatError(.badEntry, "no device has this number", actual: "\(major):\(minor)")
            }
            (header.deviceMajor, header.deviceMinor) = (major, minor)
        }
        let records = try table.vector(13)
        if let records { header.attributes = try attributes(records, bytes, limits) }
        return Entry(
            header: header, payloadOffset: offset, position: table.position, recordCount: records?.count ?? 0)
    }

    /// The extended attributes among all PAX records of an entry, sorted, each once.
    private static func attributes(
        _ records: FlatVector, _ bytes: UnsafeRawBufferPointer, _ limits: FormatLimits
    ) throws(FormatError) -> [TarHeader.Attribute] {
        guard records.count <= recordLimit else {
            throw FormatError(
                .tooLarge, "the entry has too many attributes", expected: "at most \(recordLimit)",
                actual: "\(records.count)")
        }
        var attributes: [TarHeader.Attribute] = []
        for index in 0..<records.count {
            let record = try records.table(index)
            let (key, value) = (try record.string(0), try record.string(1))
            let name = UnsafeRawBufferPointer(rebasing: bytes[key])
            // The file's size is then that of what it unpacks to, and the tar has a map and fewer bytes.
            guard !name.begins(with: "GNU.sparse.") else {
                throw FormatError(.unsupported, "the file is sparse in the tar, which a zTOC does not describe")
            }
            guard name.begins(with: "SCHILY.xattr.") else { continue }
            guard name.count <= TarPAX.attributePrefix.count + limits.xattrNameBytes,
                value.count <= limits.xattrValueBytes
            else {
                throw FormatError(
                    .badEntry, "the name or the value of an extended attribute is too long",
                    expected: "at most \(limits.xattrNameBytes) and \(limits.xattrValueBytes) bytes",
                    actual: "\(name.count) and \(value.count)")
            }
            attributes.append(
                TarHeader.Attribute(
                    name: Array(name.dropFirst(TarPAX.attributePrefix.count)), value: Array(bytes[value])))
        }
        guard attributes.count > 1 else { return attributes }
        let names = attributes.map(\.name)
        attributes = attributes.indices.filter { index in !names[(index + 1)...].contains(names[index]) }
            .map { attributes[$0] }
        return attributes.sorted { $0.name.lexicographicallyPrecedes($1.name) }
    }

    /// PAX records of one entry: more than any tar has.
    private static let recordLimit = 256
}

extension TarHeader.Kind {
    fileprivate init?(ztoc text: UnsafeRawBufferPointer) {
        if text.isEqual(to: "reg") {
            self = .regular
        } else if text.isEqual(to: "dir") {
            self = .directory
        } else if text.isEqual(to: "symlink") {
            self = .symbolicLink
        } else if text.isEqual(to: "hardlink") {
            self = .hardLink
        } else if text.isEqual(to: "char") {
            self = .characterDevice
        } else if text.isEqual(to: "block") {
            self = .blockDevice
        } else if text.isEqual(to: "fifo") {
            self = .fifo
        } else {
            return nil
        }
    }
}
