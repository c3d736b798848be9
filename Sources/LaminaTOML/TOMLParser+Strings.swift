extension TOMLParser {
    /// A string in one of the four forms; a key may have one of the two forms within a line.
    mutating func parseString(isKey: Bool) throws(TOMLError) -> String {
        let quote = bytes[place]
        let isLong = bytes[place...].starts(with: [quote, quote, quote])
        guard !isLong || !isKey else { throw wrong("a key has single quotes, not three of them") }
        place += isLong ? 3 : 1
        // A line break directly after the opening quotes does not belong to the text.
        if isLong { _ = try skipNewline() }
        let start = line
        var text: [UInt8] = []
        while true {
            guard let byte = peek else { throw TOMLError(line: start, message: "a string does not end") }
            switch byte {
            case quote:
                if !isLong {
                    place += 1
                    return String(decoding: text, as: UTF8.self)
                }
                let count = bytes[place...].prefix(5).prefix { $0 == quote }.count
                place += count
                // Up to two quotes may come before the closing three.
                text += [UInt8](repeating: quote, count: count >= 3 ? count - 3 : count)
                if count >= 3 { return String(decoding: text, as: UTF8.self) }
            case UInt8(ascii: "\\") where quote == UInt8(ascii: "\""): try parseEscape(isLong: isLong, into: &text)
            case UInt8(ascii: "\n"), UInt8(ascii: "\r"):
                guard isLong else { throw wrong("a string does not end in its line") }
                _ = try skipNewline()
                text.append(UInt8(ascii: "\n"))
            case UInt8(ascii: "\t"), 0x20..<0x7F, 0x80...:
                text.append(byte)
                place += 1
            default: throw wrong("a string holds a control character")
            }
        }
    }

    private mutating func parseEscape(isLong: Bool, into text: inout [UInt8]) throws(TOMLError) {
        place += 1
        guard let letter = peek else { return }
        place += 1
        switch letter {
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "n"): text.append(0x0A)
        case UInt8(ascii: "f"): text.append(0x0C)
        case UInt8(ascii: "r"): text.append(0x0D)
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): text.append(letter)
        case UInt8(ascii: "u"): text += try parseScalar(digits: 4)
        case UInt8(ascii: "U"): text += try parseScalar(digits: 8)
        case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\n"), UInt8(ascii: "\r"):
            // After a backslash at the end of a line, everything up to the next text is left out.
            place -= 1
            skipSpace()
            guard isLong, try skipNewline() else { throw wrong("a backslash stands before a space") }
            repeat { skipSpace() } while try skipNewline()
        default: throw wrong("a backslash stands before something that it does not go with")
        }
    }

    private mutating func parseScalar(digits: Int) throws(TOMLError) -> [UInt8] {
        let word = bytes[place...].prefix(digits)
        let text = String(decoding: word, as: UTF8.self)
        guard word.count == digits, text.allSatisfy({ $0.isASCII && $0.isHexDigit }),
            let value = UInt32(text, radix: 16),
            let scalar = Unicode.Scalar(value)
        else { throw wrong("an escape of \(digits) digits is no character") }
        place += digits
        return Array(String(Character(scalar)).utf8)
    }
}
