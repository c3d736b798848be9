import LaminaStore

/// Reads one filter, character for character as containerd does (`filters/scanner.go`, `parser.go`, `quote.go`): what
/// containerd refuses is refused here, and what it accepts means the same. Time and memory are linear in the filter's length.
struct FilterParser {
    private enum Token: Equatable {
        case end
        case field([UInt8])
        case value([UInt8])
        case quoted([UInt8], quote: UInt8)
        case separator(UInt8)
        case operation([UInt8])
    }

    /// What containerd sends is some hundred bytes long.
    private static let lengthLimit = 64 << 10

    private let text: [UInt8]
    private var position = 0
    /// Whether an operator came last: then anything but a quote is a value.
    private var awaitsValue = false

    static func parse(_ text: String) throws(SnapshotError) -> [SnapshotFilters.Selector] {
        var parser = FilterParser(text: Array(text.utf8))
        guard parser.text.count <= lengthLimit else { throw parser.error("it is longer than \(lengthLimit) bytes") }
        return try parser.selectors()
    }

    private init(text: [UInt8]) { self.text = text }

    private func error(_ message: String) -> SnapshotError {
        SnapshotError(
            .invalidArgument,
            "the filter '\(String(decoding: text.prefix(200), as: UTF8.self))' is wrong at byte \(position): \(message)"
        )
    }

    // MARK: Grammar

    private mutating func selectors() throws(SnapshotError) -> [SnapshotFilters.Selector] {
        var result = [try selector()]
        while true {
            switch try next() {
            case .end: return result
            case .separator(UInt8(ascii: ",")): result.append(try selector())
            default: throw error("a comma is expected")
            }
        }
    }

    private mutating func selector() throws(SnapshotError) -> SnapshotFilters.Selector {
        var path = [try field()]
        while position < text.count, text[position] == UInt8(ascii: ".") {
            position += 1
            path.append(try field())
        }
        // Looked at without skipping spaces, as containerd does.
        if position == text.count || text[position] == UInt8(ascii: ",") { return .init(path: path, test: .present) }
        guard case .operation(let operation) = try next() else { throw error("an operator is expected: ==, != or ~=") }
        let isPattern = operation == Array("~=".utf8)
        guard isPattern || operation == Array("==".utf8) || operation == Array("!=".utf8) else {
            throw error("the operator is none of ==, != and ~=")
        }
        let value: [UInt8]
        switch try next() {
        case .value(let bytes), .field(let bytes): value = bytes
        case .quoted(let bytes, let quote): value = try unquoted(bytes, quote, isPattern: isPattern)
        default: throw error("a value is expected")
        }
        awaitsValue = false
        if isPattern { return .init(path: path, test: .matches(Pattern(value))) }
        return .init(path: path, test: operation == Array("==".utf8) ? .equal(value) : .different(value))
    }

    private mutating func field() throws(SnapshotError) -> [UInt8] {
        switch try next() {
        case .field(let bytes): return bytes
        case .quoted(let bytes, let quote): return try unquoted(bytes, quote, isPattern: false)
        default: throw error("a field is expected")
        }
    }

    // MARK: Tokens

    private mutating func next() throws(SnapshotError) -> Token {
        while position < text.count {
            let byte = text[position]
            switch byte {
            case 0: throw error("a NUL")
            case UInt8(ascii: "\""), UInt8(ascii: "/"), UInt8(ascii: "|"): return try scanQuoted(byte)
            case UInt8(ascii: ","), UInt8(ascii: "."):
                awaitsValue = false
                position += 1
                return .separator(byte)
            case UInt8(ascii: "="), UInt8(ascii: "!"), UInt8(ascii: "~"):
                awaitsValue = true
                return .operation(
                    take { $0 == UInt8(ascii: "=") || $0 == UInt8(ascii: "!") || $0 == UInt8(ascii: "~") })
            case 0x20, 0x09...0x0D: position += 1
            default:
                if awaitsValue {
                    awaitsValue = false
                    // All visible characters; a value may contain dots, slashes and operators.
                    return .value(take { $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: ",") })
                }
                guard Self.isField(byte) else { throw error("an unexpected character") }
                return .field(take(Self.isField))
            }
        }
        return .end
    }

    private mutating func take(_ belongs: (UInt8) -> Bool) -> [UInt8] {
        let start = position
        while position < text.count, belongs(text[position]) { position += 1 }
        return Array(text[start..<position])
    }

    private static func isField(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    /// What is between two quotes, with its escapes.
    private mutating func scanQuoted(_ quote: UInt8) throws(SnapshotError) -> Token {
        let start = position + 1
        position = start
        while position < text.count, text[position] != quote {
            guard text[position] != UInt8(ascii: "\n") else { throw error("a quote has no end") }
            position += text[position] == UInt8(ascii: "\\") ? 2 : 1
        }
        guard position < text.count else {
            position = text.count
            throw error("a quote has no end")
        }
        position += 1
        return .quoted(Array(text[start..<(position - 1)]), quote: quote)
    }

    /// - Parameter isPattern: only patterns have `/` and `|` quotes, so that they need fewer escapes.
    private func unquoted(
        _ bytes: [UInt8], _ quote: UInt8, isPattern: Bool
    ) throws(SnapshotError) -> [UInt8] {
        guard isPattern || quote == UInt8(ascii: "\"") else { throw error("only \" quotes here") }
        var result: [UInt8] = []
        var rest = bytes[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "\\") else {
                result.append(byte)
                continue
            }
            guard let kind = rest.popFirst() else { throw error("an escape without an end") }
            switch kind {
            case UInt8(ascii: "a"): result.append(7)
            case UInt8(ascii: "b"): result.append(8)
            case UInt8(ascii: "f"): result.append(12)
            case UInt8(ascii: "n"): result.append(10)
            case UInt8(ascii: "r"): result.append(13)
            case UInt8(ascii: "t"): result.append(9)
            case UInt8(ascii: "v"): result.append(11)
            case UInt8(ascii: "\\"), quote: result.append(kind)
            case UInt8(ascii: "0")...UInt8(ascii: "7"):
                let value = try number(&rest, digits: 2, base: 8, from: UInt32(kind - UInt8(ascii: "0")))
                guard value <= 255 else { throw error("an octal escape above 377") }
                result.append(UInt8(value))
            case UInt8(ascii: "x"): result.append(UInt8(truncatingIfNeeded: try number(&rest, digits: 2, base: 16)))
            case UInt8(ascii: "u"), UInt8(ascii: "U"):
                let value = try number(&rest, digits: kind == UInt8(ascii: "u") ? 4 : 8, base: 16)
                guard value <= 0x10FFFF else { throw error("an escape of no character") }
                result += Array(String(Unicode.Scalar(value) ?? "\u{FFFD}").utf8)
            default: throw error("an unknown escape")
            }
        }
        return result
    }

    private func number(
        _ rest: inout ArraySlice<UInt8>, digits: Int, base: UInt32, from start: UInt32 = 0
    ) throws(SnapshotError) -> UInt32 {
        var value = start
        for _ in 0..<digits {
            let digit = rest.popFirst().flatMap { Character(Unicode.Scalar($0)).hexDigitValue }
            guard let digit, digit < base else { throw error("an escape that is no number") }
            value = value &* base &+ UInt32(digit)
        }
        return value
    }
}
