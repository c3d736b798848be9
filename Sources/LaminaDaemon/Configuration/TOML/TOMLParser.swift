/// Reads a TOML document from its bytes: lines of `key = value` below headers.
///
/// One pass, and bounded: recursion by `depthLimit`, time by the number of bytes times the number of parts of the longest key.
struct TOMLParser {
    let bytes: [UInt8]
    var place = 0
    var line = 1

    /// How deep values and keys may be nested: what people write has three or four levels.
    static let depthLimit = 64

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func parseDocument() throws(TOMLError) -> TOMLTable {
        guard String(validating: bytes, as: UTF8.self) != nil else { throw wrong("the file is no UTF-8 text") }
        // A byte order mark is allowed, and means nothing.
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { place = 3 }
        var root = TOMLTable(origin: .header)
        // The table that lines belong to.
        var section: [String] = []
        while true {
            skipSpace()
            guard let byte = peek else { return root }
            switch byte {
            case UInt8(ascii: "#"), UInt8(ascii: "\n"), UInt8(ascii: "\r"): break
            case UInt8(ascii: "["): section = try parseHeader(&root)
            default:
                let key = try parseKey()
                skipSpace()
                try expect("=", "after the key '\(key.joined(separator: "."))'")
                skipSpace()
                let start = line
                let value = try parseValue(depth: 0)
                try insert(value, at: key[...], below: section[...], line: start, into: &root)
            }
            try endLine()
        }
    }

    /// `[a.b]` or `[[a.b]]`: makes the table.
    private mutating func parseHeader(_ root: inout TOMLTable) throws(TOMLError) -> [String] {
        place += 1
        let isArray = peek == UInt8(ascii: "[")
        if isArray { place += 1 }
        skipSpace()
        let key = try parseKey()
        skipSpace()
        try expect("]", "at the end of the table's name")
        if isArray { try expect("]", "at the end of the table's name") }
        try open(key[...], isArray: isArray, in: &root)
        return key
    }

    private func open(_ key: ArraySlice<String>, isArray: Bool, in table: inout TOMLTable) throws(TOMLError) {
        guard let name = key.first else { return }
        let rest = key.dropFirst()
        guard rest.isEmpty else {
            return try descend(name, into: &table, creating: .implied) { (inner) throws(TOMLError) in
                try open(rest, isArray: isArray, in: &inner)
            }
        }
        guard var entry = table.entries.removeValue(forKey: name) else {
            let new = TOMLValue.table(TOMLTable(origin: .header))
            table.entries[name] = TOMLTable.Entry(value: isArray ? .array([new]) : new, line: line, isTableArray: isArray)
            return
        }
        let value = entry.takeValue()
        switch consume value {
        case .array(var elements) where isArray && entry.isTableArray:
            elements.append(.table(TOMLTable(origin: .header)))
            entry.value = .array(elements)
        case .table(var inner) where !isArray && inner.origin == .implied:
            inner.origin = .header
            entry.value = .table(inner)
        default: throw wrong("'\(name)' is defined twice; first in line \(entry.line)")
        }
        table.entries[name] = entry
    }

    /// Puts a value where section and key say.
    private func insert(
        _ value: TOMLValue, at key: ArraySlice<String>, below section: ArraySlice<String>, line: Int,
        into table: inout TOMLTable
    ) throws(TOMLError) {
        if let name = section.first {
            return try descend(name, into: &table, creating: .implied) { (inner) throws(TOMLError) in
                try insert(value, at: key, below: section.dropFirst(), line: line, into: &inner)
            }
        }
        try insertDotted(value, at: key, line: line, into: &table)
    }

    func insertDotted(
        _ value: TOMLValue, at key: ArraySlice<String>, line: Int, into table: inout TOMLTable
    ) throws(TOMLError) {
        guard let name = key.first else { return }
        guard key.count == 1 else {
            if let entry = table.entries[name] {
                guard case .table(let inner) = entry.value, inner.origin == .dotted else {
                    throw wrong("'\(name)' is defined twice; first in line \(entry.line)")
                }
            }
            return try descend(name, into: &table, creating: .dotted) { (inner) throws(TOMLError) in
                try insertDotted(value, at: key.dropFirst(), line: line, into: &inner)
            }
        }
        if let entry = table.entries[name] { throw wrong("'\(name)' is defined twice; first in line \(entry.line)") }
        table.entries[name] = TOMLTable.Entry(value: value, line: line)
    }

    /// Changes the table `name` of `table`, or the last of an array of tables; makes it where there is none.
    private func descend(
        _ name: String, into table: inout TOMLTable, creating origin: TOMLTable.Origin,
        _ body: (inout TOMLTable) throws(TOMLError) -> Void
    ) throws(TOMLError) {
        var entry =
            table.entries.removeValue(forKey: name)
            ?? TOMLTable.Entry(value: .table(TOMLTable(origin: origin)), line: line)
        let value = entry.takeValue()
        switch consume value {
        case .table(var inner) where inner.origin != .inline:
            try body(&inner)
            entry.value = .table(inner)
        case .array(var elements) where entry.isTableArray:
            guard case .table(var last)? = elements.popLast() else { throw wrong("'\(name)' is no table") }
            try body(&last)
            elements.append(.table(last))
            entry.value = .array(elements)
        default: throw wrong("'\(name)' is no table that can be added to; it is defined in line \(entry.line)")
        }
        table.entries[name] = entry
    }
}

extension TOMLTable.Entry {
    /// Moves the value out, so that who changes it has the only copy: else each line of a section would copy the section.
    fileprivate mutating func takeValue() -> TOMLValue {
        let taken = value
        value = .boolean(false)
        return taken
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
            guard byte >= 0x20 && byte != 0x7F || byte == UInt8(ascii: "\t") else { throw wrong("a comment holds a control character") }
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
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }
}
