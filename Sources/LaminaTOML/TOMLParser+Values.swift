extension TOMLParser {
    mutating func parseValue(depth: Int) throws(TOMLError) -> TOMLValue {
        guard depth < Self.depthLimit else { throw wrong("values are nested deeper than \(Self.depthLimit)") }
        switch peek {
        case UInt8(ascii: "\"")?, UInt8(ascii: "'")?: return .string(try parseString(isKey: false))
        case UInt8(ascii: "[")?: return .array(try parseArray(depth: depth))
        case UInt8(ascii: "{")?: return .table(try parseInlineTable(depth: depth))
        default: return try parseWord()
        }
    }

    private mutating func parseArray(depth: Int) throws(TOMLError) -> [TOMLValue] {
        place += 1
        var elements: [TOMLValue] = []
        while true {
            try skipLines()
            if peek == UInt8(ascii: "]") { break }
            elements.append(try parseValue(depth: depth + 1))
            try skipLines()
            if peek == UInt8(ascii: "]") { break }
            try expect(",", "between the elements of an array")
        }
        place += 1
        return elements
    }

    /// Space, comments and line breaks, which an array may have anywhere.
    private mutating func skipLines() throws(TOMLError) {
        repeat {
            skipSpace()
            try skipComment()
        } while try skipNewline()
    }

    /// On one line, without a comma after the last pair.
    private mutating func parseInlineTable(depth: Int) throws(TOMLError) -> TOMLTable {
        place += 1
        let table = TOMLTable(origin: .dotted)
        skipSpace()
        if peek != UInt8(ascii: "}") {
            while true {
                skipSpace()
                let key = try parseKey()
                skipSpace()
                try expect("=", "after the key '\(key.joined(separator: "."))'")
                skipSpace()
                try insert(try parseValue(depth: depth + 1), at: key, line: line, into: table)
                skipSpace()
                if peek == UInt8(ascii: "}") { break }
                try expect(",", "between the pairs of an inline table")
            }
        }
        place += 1
        table.origin = .inline
        return table
    }

    /// A boolean, a number, a date or a time.
    private mutating func parseWord() throws(TOMLError) -> TOMLValue {
        let start = place
        while let byte = peek, Self.isWord(byte) { place += 1 }
        var word = String(decoding: bytes[start..<place], as: UTF8.self)
        guard !word.isEmpty else { throw wrong("a value is expected, found \(found)") }
        if word == "true" { return .boolean(true) }
        if word == "false" { return .boolean(false) }
        // A date may have a space before its time.
        if Self.isDate(word), peek == UInt8(ascii: " "), place + 1 < bytes.count, Self.isDigit(bytes[place + 1]) {
            place += 1
            while let byte = peek, Self.isWord(byte) { place += 1 }
            word = String(decoding: bytes[start..<place], as: UTF8.self)
        }
        if let value = Self.number(word) ?? Self.dateTime(word) { return value }
        throw wrong("'\(word.prefix(60))' is no value; a text needs quotes")
    }

    private static func isWord(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."), UInt8(ascii: ":"):
            true
        default: false
        }
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }

    static func number(_ word: String) -> TOMLValue? {
        // Underscores are allowed only between two digits.
        let parts = word.split(separator: "_", omittingEmptySubsequences: false)
        guard parts.allSatisfy({ !$0.isEmpty }),
            zip(parts, parts.dropFirst()).allSatisfy({
                ($0.last?.isHexDigit ?? false) && ($1.first?.isHexDigit ?? false)
            })
        else { return nil }
        let plain = parts.joined()
        for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] where plain.hasPrefix(prefix) {
            let digits = plain.dropFirst(2)
            guard digits.first != "+", digits.first != "-" else { return nil }
            return Int64(digits, radix: radix).map { .integer($0) }
        }
        let unsigned = plain.hasPrefix("+") || plain.hasPrefix("-") ? plain.dropFirst() : plain[...]
        if unsigned == "inf" { return .float(plain.hasPrefix("-") ? -.infinity : .infinity) }
        if unsigned == "nan" { return .float(.nan) }
        guard let first = unsigned.utf8.first, isDigit(first) else { return nil }
        let integerPart = unsigned.prefix { $0.isASCII && $0.isNumber }
        guard integerPart == "0" || integerPart.first != "0" else { return nil }
        let rest = unsigned.dropFirst(integerPart.count)
        if rest.isEmpty { return Int64(plain).map { .integer($0) } }
        // `1.` and `1.e5` are not numbers in TOML, though Swift accepts them.
        guard rest.first == "." || rest.first == "e" || rest.first == "E" else { return nil }
        if rest.first == "." {
            guard let digit = rest.dropFirst().utf8.first, isDigit(digit) else { return nil }
        }
        guard rest.allSatisfy({ $0.isNumber || ".eE+-".contains($0) }) else { return nil }
        return Double(plain).map { .float($0) }
    }

    /// `2026-01-31`.
    private static func isDate(_ word: String) -> Bool { matches(word, "dddd-dd-dd") }

    /// The forms of RFC 3339 that TOML accepts; whether the day exists is not checked.
    static func dateTime(_ word: String) -> TOMLValue? {
        var rest = Substring(word)
        if isDate(String(rest.prefix(10))) {
            rest = rest.dropFirst(10)
            if rest.isEmpty { return .dateTime(word) }
            guard let separator = rest.popFirst(), "Tt ".contains(separator) else { return nil }
        }
        guard matches(String(rest.prefix(8)), "dd:dd:dd") else { return nil }
        rest = rest.dropFirst(8)
        if rest.first == "." {
            let digits = rest.dropFirst().prefix { $0.isASCII && $0.isNumber }
            guard !digits.isEmpty else { return nil }
            rest = rest.dropFirst(1 + digits.count)
        }
        let isZone =
            rest.isEmpty || rest == "Z" || rest == "z" || matches(String(rest), "+dd:dd")
            || matches(String(rest), "-dd:dd")
        return isZone ? .dateTime(word) : nil
    }

    /// Whether a text has a form, in which `d` means a digit and every other character means itself.
    private static func matches(_ text: String, _ shape: String) -> Bool {
        text.utf8.count == shape.utf8.count
            && zip(text.utf8, shape.utf8).allSatisfy { $1 == UInt8(ascii: "d") ? isDigit($0) : $0 == $1 }
    }
}
