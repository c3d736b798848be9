import LaminaDigest

/// Reads `{"version":1,"entries":[…]}` and passes on one entry after the other; it never holds more than one.
struct TOCParser {
    private(set) var reader: JSONReader
    /// The attributes of the current entry, in the order of the JSON.
    private(set) var xattrs: [TOCEntry.RawXattr] = []
    private let limits: FormatLimits

    init(_ toc: UnsafeRawBufferPointer, limits: FormatLimits) throws(FormatError) {
        // Whatever the limits are, later code counts bytes of names and entries in 32 bits.
        let most = min(limits.tocBytes, Int(Int32.max))
        guard toc.count <= most else {
            throw FormatError(
                .tooLarge, "the table of contents is over its limit", expected: "at most \(most) bytes",
                actual: "\(toc.count)")
        }
        reader = try JSONReader(toc)
        self.limits = limits
    }

    /// Reads the whole document. `receive` gets each entry, and the parser to read its strings with; they are valid during the
    /// call.
    mutating func entries(
        _ receive: (inout TOCParser, inout TOCEntry) throws(FormatError) -> Void
    ) throws(FormatError) {
        var found = false
        try reader.expect("{")
        if try !reader.take("}") {
            repeat {
                let key = try reader.string()
                try reader.expect(":")
                switch try topLevelField(key) {
                case .version: try version()
                case .entries:
                    guard !found else { throw reader.error("the table of contents has entries twice") }
                    found = true
                    if try !reader.takeNull() { try list(receive) }
                case .other: try reader.skipValue()
                }
                reader.clearScratch()
            } while try reader.take(",")
            try reader.expect("}")
        }
        try reader.expectEnd()
        guard found else { throw reader.error("the table of contents has no entries") }
    }

    private enum TopLevelField { case version, entries, other }

    private func topLevelField(_ key: JSONReader.Slice) throws(FormatError) -> TopLevelField {
        try reader.withBytes(key) { (bytes) throws(FormatError) in
            bytes.isEqual(to: "version") ? .version : bytes.isEqual(to: "entries") ? .entries : .other
        }
    }

    private mutating func version() throws(FormatError) {
        let version = try reader.integer()
        guard version == 1 else {
            throw FormatError(
                .unsupported, "the table of contents has an unknown version", expected: "1", actual: "\(version)")
        }
    }

    private mutating func list(
        _ receive: (inout TOCParser, inout TOCEntry) throws(FormatError) -> Void
    ) throws(FormatError) {
        try reader.expect("[")
        if try reader.take("]") { return }
        var count = 0
        repeat {
            count += 1
            guard count <= limits.entries else {
                throw FormatError(
                    .tooLarge, "the table of contents has too many entries", offset: Int64(reader.position),
                    expected: "at most \(limits.entries)")
            }
            var entry = TOCEntry()
            do throws(FormatError) {
                try fields(&entry)
                try receive(&self, &entry)
            } catch {
                throw located(error, entry)
            }
            reader.clearScratch()
            xattrs.removeAll(keepingCapacity: true)
        } while try reader.take(",")
        try reader.expect("]")
    }

    /// Adds to an error the entry in which it occurred: its name, if it has one, and its place.
    private func located(_ error: FormatError, _ entry: TOCEntry) -> FormatError {
        var error = error
        if error.offset == nil { error.offset = Int64(entry.position) }
        guard entry.name.count > 0 else { return error }
        return error.naming(display(entry.name))
    }

    /// A string as an error shows it.
    func display(_ slice: JSONReader.Slice) -> String {
        (try? reader.withBytes(slice) { (bytes) throws(FormatError) in FormatError.display(bytes) }) ?? ""
    }
}

extension TOCParser {
    private mutating func fields(_ entry: inout TOCEntry) throws(FormatError) {
        try reader.expect("{")
        entry.position = reader.position - 1
        if try !reader.take("}") {
            repeat {
                let key = try reader.string()
                try reader.expect(":")
                let field = try reader.withBytes(key) { (bytes) throws(FormatError) in TOCField(bytes) }
                if let field, try !reader.takeNull() {
                    try value(of: field, &entry)
                } else if field == nil {
                    try reader.skipValue()
                }
            } while try reader.take(",")
            try reader.expect("}")
        }
        guard entry.kind != nil else { throw FormatError(.badEntry, "the entry has no type") }
    }

    @inline(__always)
    private mutating func value(of field: TOCField, _ entry: inout TOCEntry) throws(FormatError) {
        switch field {
        case .name: entry.name = try name("a name is too long")
        case .linkName: entry.linkName = try name("a link's target is too long")
        case .type: entry.kind = try kind()
        case .size: entry.size = try reader.integer()
        case .mode: entry.mode = try reader.integer()
        case .uid: entry.uid = try reader.integer()
        case .gid: entry.gid = try reader.integer()
        case .devMajor: entry.deviceMajor = try reader.integer()
        case .devMinor: entry.deviceMinor = try reader.integer()
        case .offset: entry.offset = try reader.integer()
        case .innerOffset: entry.innerOffset = try reader.integer()
        case .chunkOffset: entry.chunkOffset = try reader.integer()
        case .chunkSize: entry.chunkSize = try reader.integer()
        case .modtime: entry.modified = try time()
        case .digest: entry.digest = try digest("digest")
        case .chunkDigest: entry.chunkDigest = try digest("chunkDigest")
        case .chunkType: entry.isZeros = try isZeros()
        case .xattrs: try attributes()
        }
    }

    /// Reads `chunkType` of zstd:chunked's containers dialect: "" for data, or "zeros".
    private mutating func isZeros() throws(FormatError) -> Bool {
        let slice = try reader.string()
        if slice.count == 0 { return false }
        let isZeros = try reader.withBytes(slice) { (bytes) throws(FormatError) in bytes.isEqual(to: "zeros") }
        guard isZeros else {
            throw FormatError(.unsupported, "the chunk's type is unknown", actual: "'\(display(slice))'")
        }
        return true
    }

    private mutating func name(_ complaint: StaticString) throws(FormatError) -> JSONReader.Slice {
        let slice = try reader.string()
        guard slice.count <= limits.nameBytes else {
            throw FormatError(
                .badEntry, "\(complaint)", entry: display(slice), expected: "at most \(limits.nameBytes) bytes",
                actual: "\(slice.count)")
        }
        let hasNUL = try reader.withBytes(slice) { (bytes) throws(FormatError) in bytes.holds(0) }
        guard !hasNUL else { throw FormatError(.badEntry, "a name holds a NUL byte", entry: display(slice)) }
        return slice
    }

    private mutating func kind() throws(FormatError) -> TOCEntry.Kind {
        let slice = try reader.string()
        guard let kind = try reader.withBytes(slice, { (bytes) throws(FormatError) in TOCEntry.Kind(bytes) }) else {
            throw FormatError(.badEntry, "the entry's type is unknown", actual: "'\(display(slice))'")
        }
        return kind
    }

    private mutating func time() throws(FormatError) -> Timestamp {
        let slice = try reader.string()
        if slice.count == 0 { return Timestamp() }
        guard let time = try reader.withBytes(slice, { (bytes) throws(FormatError) in Timestamp(bytes) }) else {
            throw FormatError(.badEntry, "modtime is no RFC 3339 time", actual: "'\(display(slice))'")
        }
        return time
    }

    private mutating func digest(_ field: StaticString) throws(FormatError) -> Digest? {
        let slice = try reader.string()
        switch try reader.withBytes(slice, { (bytes) throws(FormatError) in DigestText(bytes) }) {
        case .digest(let digest): return digest
        case .absent: return nil
        case .otherAlgorithm:
            throw FormatError(.unsupported, "\(field) is not by SHA-256", actual: "'\(display(slice))'")
        case .malformed: throw FormatError(.badEntry, "\(field) is malformed", actual: "'\(display(slice))'")
        }
    }

    private mutating func attributes() throws(FormatError) {
        try reader.expect("{")
        if try reader.take("}") { return }
        repeat {
            let name = try reader.string()
            try reader.expect(":")
            // Go writes an empty value as "" or, for a nil slice, as null.
            let value = try reader.takeNull() ? .empty : try reader.string()
            xattrs.append(TOCEntry.RawXattr(name: name, value: value))
        } while try reader.take(",")
        try reader.expect("}")
    }
}
