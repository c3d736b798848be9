/// A small JSON document (RFC 8259) as a tree: manifests, indexes, configs.
///
/// Members keep their order and numbers their text, so that what lamina does not know is written back unchanged.
package enum JSON: Sendable, Hashable {
    case null
    case bool(Bool)
    /// The number's own text, which is valid JSON.
    case number(String)
    case string(String)
    case array([JSON])
    case object([Member])

    /// A name and its value.
    package struct Member: Sendable, Hashable {
        package var name: String
        package var value: JSON

        package init(_ name: String, _ value: JSON) {
            self.name = name
            self.value = value
        }
    }

    /// What is wrong with the text, and where.
    package struct SyntaxError: Error, Sendable, CustomStringConvertible {
        package var offset: Int
        package var problem: String
        package var description: String { "byte \(offset) of the JSON: \(problem)" }
    }

    /// The value of a member; if several have that name the last one, as in Go's decoder. Linear.
    package subscript(name: String) -> JSON? {
        get {
            guard case .object(let members) = self else { return nil }
            return members.last { $0.name == name }?.value
        }
        set {
            guard case .object(var members) = self else { return }
            if let newValue, let place = members.lastIndex(where: { $0.name == name }) {
                members[place].value = newValue
            } else if let newValue {
                members.append(Member(name, newValue))
            } else {
                members.removeAll { $0.name == name }
            }
            self = .object(members)
        }
    }

    /// Parses one document.
    ///
    /// - Parameter depth: how deep arrays and objects may nest; the parser recurses that deep.
    package static func parse(_ bytes: [UInt8], depth: Int = 64) throws(SyntaxError) -> JSON {
        var parser = Parser(bytes: bytes, position: 0)
        // Some writers begin with a byte order mark, which RFC 8259 §8.1 lets readers ignore.
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { parser.position = 3 }
        let value = try parser.value(depth: depth)
        parser.skipSpace()
        guard parser.position == bytes.count else { throw parser.error("something follows the document") }
        return value
    }

    private struct Parser {
        let bytes: [UInt8]
        var position: Int

        func error(_ problem: String) -> SyntaxError { SyntaxError(offset: position, problem: problem) }

        var next: UInt8? { position < bytes.count ? bytes[position] : nil }

        mutating func skipSpace() {
            while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
        }

        mutating func take(_ byte: UInt8) -> Bool {
            guard next == byte else { return false }
            position += 1
            return true
        }

        mutating func value(depth: Int) throws(SyntaxError) -> JSON {
            skipSpace()
            guard let byte = next else { throw error("ends where a value was expected") }
            switch byte {
            case UInt8(ascii: "{"): return try object(depth: depth)
            case UInt8(ascii: "["): return try array(depth: depth)
            case UInt8(ascii: "\""): return .string(try string())
            case UInt8(ascii: "t"): return try word("true", .bool(true))
            case UInt8(ascii: "f"): return try word("false", .bool(false))
            case UInt8(ascii: "n"): return try word("null", .null)
            default: return try number()
            }
        }

        mutating func word(_ text: StaticString, _ value: JSON) throws(SyntaxError) -> JSON {
            for index in 0..<text.utf8CodeUnitCount {
                guard take(text.utf8Start[index]) else { throw error("expected '\(text)'") }
            }
            return value
        }

        mutating func array(depth: Int) throws(SyntaxError) -> JSON {
            guard depth > 0 else { throw error("nests too deep") }
            position += 1
            var elements: [JSON] = []
            skipSpace()
            if take(UInt8(ascii: "]")) { return .array(elements) }
            while true {
                elements.append(try value(depth: depth - 1))
                skipSpace()
                if take(UInt8(ascii: "]")) { return .array(elements) }
                guard take(UInt8(ascii: ",")) else { throw error("expected ',' or ']'") }
            }
        }

        mutating func object(depth: Int) throws(SyntaxError) -> JSON {
            guard depth > 0 else { throw error("nests too deep") }
            position += 1
            var members: [Member] = []
            skipSpace()
            if take(UInt8(ascii: "}")) { return .object(members) }
            while true {
                skipSpace()
                guard next == UInt8(ascii: "\"") else { throw error("expected a name in quotes") }
                let name = try string()
                skipSpace()
                guard take(UInt8(ascii: ":")) else { throw error("expected ':'") }
                members.append(Member(name, try value(depth: depth - 1)))
                skipSpace()
                if take(UInt8(ascii: "}")) { return .object(members) }
                guard take(UInt8(ascii: ",")) else { throw error("expected ',' or '}'") }
            }
        }

        mutating func number() throws(SyntaxError) -> JSON {
            let start = position
            _ = take(UInt8(ascii: "-"))
            if !take(UInt8(ascii: "0")) {
                guard digits() > 0 else {
                    position = start
                    throw error("expected a value")
                }
            }
            if take(UInt8(ascii: ".")), digits() == 0 { throw error("expected a digit") }
            if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
                if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
                guard digits() > 0 else { throw error("expected a digit") }
            }
            return .number(String(decoding: bytes[start..<position], as: UTF8.self))
        }

        mutating func digits() -> Int {
            let start = position
            while let byte = next, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") { position += 1 }
            return position - start
        }

        mutating func string() throws(SyntaxError) -> String {
            position += 1
            let start = position
            while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 {
                position += 1
            }
            if next == UInt8(ascii: "\"") {
                let text = try text(bytes[start..<position])
                position += 1
                return text
            }
            var unescaped = [UInt8](bytes[start..<position])
            while let byte = next {
                position += 1
                switch byte {
                case UInt8(ascii: "\""): return try text(unescaped[...])
                case UInt8(ascii: "\\"): try escape(into: &unescaped)
                case 0..<0x20: throw error("a control character in a string")
                default: unescaped.append(byte)
                }
            }
            throw error("ends in a string")
        }

        func text(_ slice: ArraySlice<UInt8>) throws(SyntaxError) -> String {
            guard let text = String(validating: slice, as: UTF8.self) else { throw error("a string is not UTF-8") }
            return text
        }

        mutating func escape(into target: inout [UInt8]) throws(SyntaxError) {
            guard let byte = next else { throw error("ends in a string") }
            position += 1
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): target.append(byte)
            case UInt8(ascii: "b"): target.append(0x08)
            case UInt8(ascii: "f"): target.append(0x0C)
            case UInt8(ascii: "n"): target.append(0x0A)
            case UInt8(ascii: "r"): target.append(0x0D)
            case UInt8(ascii: "t"): target.append(0x09)
            case UInt8(ascii: "u"):
                var code = try hexadecimal()
                if code & 0xFC00 == 0xD800, next == UInt8(ascii: "\\") {
                    position += 1
                    guard take(UInt8(ascii: "u")) else { throw error("half of a surrogate pair") }
                    let low = try hexadecimal()
                    guard low & 0xFC00 == 0xDC00 else { throw error("half of a surrogate pair") }
                    code = 0x10000 + (code & 0x3FF) << 10 + (low & 0x3FF)
                }
                guard let scalar = Unicode.Scalar(code) else { throw error("half of a surrogate pair") }
                target += Array(UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            default: throw error("an unknown escape")
            }
        }

        mutating func hexadecimal() throws(SyntaxError) -> UInt32 {
            var code: UInt32 = 0
            for _ in 0..<4 {
                guard let byte = next, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                    throw error("expected four hex digits")
                }
                code = code << 4 | UInt32(digit)
                position += 1
            }
            return code
        }
    }
}
