/// Reads a TOML document from its bytes: lines of `key = value` below headers.
///
/// It makes one pass, with bounds: `depthLimit` bounds the recursion; the number of bytes times the number of parts of the
/// longest key bounds the time.
struct TOMLParser {
    let bytes: [UInt8]
    var place = 0
    var line = 1

    /// How deep values and keys may be nested: people write three or four levels.
    static let depthLimit = 64

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func parseDocument() throws(TOMLError) -> TOMLTable {
        guard String(validating: bytes, as: UTF8.self) != nil else { throw wrong("the file is no UTF-8 text") }
        // A byte order mark is allowed, and means nothing.
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { place = 3 }
        let root = TOMLTable(origin: .header)
        // The table that lines belong to.
        var section = root
        while true {
            skipSpace()
            guard let byte = peek else { return root }
            switch byte {
            case UInt8(ascii: "#"), UInt8(ascii: "\n"), UInt8(ascii: "\r"): break
            case UInt8(ascii: "["): section = try parseHeader(root)
            default:
                let key = try parseKey()
                skipSpace()
                try expect("=", "after the key '\(key.joined(separator: "."))'")
                skipSpace()
                let start = line
                let value = try parseValue(depth: 0)
                try insert(value, at: key, line: start, into: section)
            }
            try endLine()
        }
    }

    /// `[a.b]` or `[[a.b]]`: makes the table.
    private mutating func parseHeader(_ root: TOMLTable) throws(TOMLError) -> TOMLTable {
        place += 1
        let isArray = peek == UInt8(ascii: "[")
        if isArray { place += 1 }
        skipSpace()
        let key = try parseKey()
        skipSpace()
        try expect("]", "at the end of the table's name")
        if isArray { try expect("]", "at the end of the table's name") }
        var parent = root
        for name in key.dropLast() { parent = try child(name, of: parent) }
        guard let name = key.last else { return root }
        return try isArray ? append(name, to: parent) : open(name, in: parent)
    }

    /// The table on the way to another; in an array of tables, the last one.
    private func child(_ name: String, of table: TOMLTable) throws(TOMLError) -> TOMLTable {
        guard let entry = table.entries[name] else { return make(name, .implied, in: table) }
        if case .table(let inner) = entry.value, inner.origin != .inline { return inner }
        if case .tables = entry.value, let last = entry.tables.last { return last }
        throw wrong("'\(name)' is no table that can be added to; it is defined in line \(entry.line)")
    }

    private func open(_ name: String, in table: TOMLTable) throws(TOMLError) -> TOMLTable {
        guard let entry = table.entries[name] else { return make(name, .header, in: table) }
        guard case .table(let inner) = entry.value, inner.origin == .implied else { throw twice(name, entry) }
        inner.origin = .header
        return inner
    }

    private func append(_ name: String, to table: TOMLTable) throws(TOMLError) -> TOMLTable {
        if let entry = table.entries[name] {
            guard case .tables = entry.value else { throw twice(name, entry) }
        } else {
            table.entries[name] = TOMLTable.Entry(value: .tables, line: line)
        }
        let new = TOMLTable(origin: .header)
        table.entries[name]?.tables.append(new)
        return new
    }

    private func make(_ name: String, _ origin: TOMLTable.Origin, in table: TOMLTable) -> TOMLTable {
        let new = TOMLTable(origin: origin)
        table.entries[name] = TOMLTable.Entry(value: .table(new), line: line)
        return new
    }

    private func twice(_ name: String, _ entry: TOMLTable.Entry) -> TOMLError {
        wrong("'\(name)' is defined twice; first in line \(entry.line)")
    }

    /// Puts a value at a key, which may be dotted.
    func insert(_ value: TOMLValue, at key: [String], line: Int, into table: TOMLTable) throws(TOMLError) {
        var table = table
        for name in key.dropLast() {
            guard let entry = table.entries[name] else {
                table = make(name, .dotted, in: table)
                continue
            }
            guard case .table(let inner) = entry.value, inner.origin == .dotted else { throw twice(name, entry) }
            table = inner
        }
        guard let name = key.last else { return }
        if let entry = table.entries[name] { throw twice(name, entry) }
        table.entries[name] = TOMLTable.Entry(value: value, line: line)
    }
}

extension TOMLParser {
    var peek: UInt8? { place < bytes.count ? bytes[place] : nil }

    func wrong(_ message: String) -> TOMLError { TOMLError(line: line, message: message) }

    mutating func skipSpace() {
        while let byte = peek, byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") { place += 1 }
    }

    mutating func expect(_ character: Unicode.Scalar, _ where: String) throws(TOMLError) {
        guard let byte = peek, byte == UInt8(ascii: character) else {
            throw wrong("'\(character)' is expected \(`where`), found \(found)")
        }
        place += 1
    }

    /// What stands here, for an error.
    var found: String {
        guard let byte = peek else { return "the end of the file" }
        switch byte {
        case UInt8(ascii: "\n"), UInt8(ascii: "\r"): return "the end of the line"
        case 0x20..<0x7F: return "'\(Unicode.Scalar(byte))'"
        default: return "a character that does not belong there"
        }
    }

    /// The rest of a line: nothing, or a comment.
    mutating func endLine() throws(TOMLError) {
        skipSpace()
        try skipComment()
        guard peek != nil else { return }
        guard try skipNewline() else { throw wrong("the end of the line is expected, found \(found)") }
    }

    mutating func skipComment() throws(TOMLError) {
        guard peek == UInt8(ascii: "#") else { return }
        while let byte = peek, byte != UInt8(ascii: "\n"), byte != UInt8(ascii: "\r") {
            guard byte >= 0x20 && byte != 0x7F || byte == UInt8(ascii: "\t") else {
                throw wrong("a comment holds a control character")
            }
            place += 1
        }
    }

    /// `\n` or `\r\n`; false where neither stands.
    mutating func skipNewline() throws(TOMLError) -> Bool {
        if peek == UInt8(ascii: "\r") {
            guard place + 1 < bytes.count, bytes[place + 1] == UInt8(ascii: "\n") else {
                throw wrong("a carriage return stands alone")
            }
            place += 1
        }
        guard peek == UInt8(ascii: "\n") else { return false }
        place += 1
        line += 1
        return true
    }

    /// `a`, `"b c"`, `a.b.c`.
    mutating func parseKey() throws(TOMLError) -> [String] {
        var key: [String] = []
        while true {
            switch peek {
            case UInt8(ascii: "\"")?, UInt8(ascii: "'")?: key.append(try parseString(isKey: true))
            default:
                let start = place
                while let byte = peek, Self.isBare(byte) { place += 1 }
                guard place > start else { throw wrong("a key is expected, found \(found)") }
                key.append(String(decoding: bytes[start..<place], as: UTF8.self))
            }
            guard key.count <= Self.depthLimit else { throw wrong("a key has more than \(Self.depthLimit) parts") }
            let end = place
            skipSpace()
            guard peek == UInt8(ascii: ".") else {
                place = end
                return key
            }
            place += 1
            skipSpace()
        }
    }

    private static func isBare(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }
}
