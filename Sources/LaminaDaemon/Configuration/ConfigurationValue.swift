import LaminaTOML

/// What a key of the configuration can be set to.
public enum ConfigurationValue: Sendable, Equatable {
    case boolean(Bool)
    case integer(Int64)
    case string(String)
    case strings([String])

    /// As written in TOML.
    public var text: String {
        switch self {
        case .boolean(let value): "\(value)"
        case .integer(let value): "\(value)"
        case .string(let value): Self.quoted(value)
        case .strings(let values): "[" + values.map(Self.quoted).joined(separator: ", ") + "]"
        }
    }

    /// A basic string of TOML.
    static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\" + String(scalar)
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16, uppercase: true)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

extension ConfigurationValue: Encodable {
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .boolean(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .strings(let values): try container.encode(values)
        }
    }
}

/// The values that a key accepts.
enum ConfigurationKind: Sendable, Equatable {
    case boolean
    case integer(minimum: Int64)
    case string
    /// Empty, or an absolute path.
    case path
    /// Absolute paths joined by colons.
    case paths
    case word([String])
    case strings
    /// Empty, or `HOST:PORT`.
    case address

    /// Reads a value of a file.
    ///
    /// - Throws: what is wrong, as the end of a sentence: `must be …, is …`.
    func read(_ value: TOMLValue) throws(TOMLError) -> ConfigurationValue {
        switch (self, value) {
        case (.boolean, .boolean(let value)): return .boolean(value)
        case (.integer, .integer(let value)): return try check(.integer(value))
        case (.string, .string(let value)), (.path, .string(let value)), (.paths, .string(let value)),
            (.word, .string(let value)), (.address, .string(let value)):
            return try check(.string(value))
        case (.strings, .array(let values)):
            var strings: [String] = []
            for element in values {
                guard case .string(let string) = element else { throw wrong("must be \(words)") }
                strings.append(string)
            }
            return .strings(strings)
        default: throw wrong("must be \(words), is \(value.kind)")
        }
    }

    /// Reads a value of the environment or the command line: without quotes, elements of a list separated by commas. A relative
    /// path starts at the working directory.
    ///
    /// - Throws: what is wrong, as the end of a sentence.
    func read(text: String) throws(TOMLError) -> ConfigurationValue {
        switch self {
        case .boolean:
            guard let value = Bool(text) else { throw wrong("must be \(words), is '\(text.prefix(100))'") }
            return .boolean(value)
        case .integer:
            guard let value = Int64(text) else { throw wrong("must be \(words), is '\(text.prefix(100))'") }
            return try check(.integer(value))
        case .path: return .string(text.isEmpty ? "" : absolutePath(text))
        case .string, .paths, .word, .address: return try check(.string(text))
        case .strings: return .strings(text.split(separator: ",").map(String.init))
        }
    }

    private func check(_ value: ConfigurationValue) throws(TOMLError) -> ConfigurationValue {
        switch (self, value) {
        case (.integer(let minimum), .integer(let number)) where number < minimum:
            throw wrong("must be \(minimum) or more, is \(number)")
        case (.path, .string(let path)) where !path.isEmpty && !path.hasPrefix("/"):
            throw wrong("must be an absolute path, is '\(path.prefix(300))'")
        case (.paths, .string(let paths)) where !paths.split(separator: ":").allSatisfy({ $0.hasPrefix("/") }):
            throw wrong("must be absolute paths joined by colons, is '\(paths.prefix(300))'")
        case (.word(let choices), .string(let word)) where !choices.contains(word):
            throw wrong("must be \(words), is '\(word.prefix(100))'")
        case (.address, .string(let text)) where !text.isEmpty && ListenAddress(text) == nil:
            throw wrong("must be HOST:PORT or empty, as 127.0.0.1:9323, is '\(text.prefix(100))'")
        default: return value
        }
    }

    private var words: String {
        switch self {
        case .boolean: "true or false"
        case .integer: "an integer"
        case .string, .path, .paths, .address: "a string"
        case .word(let choices): "one of " + choices.joined(separator: ", ")
        case .strings: "an array of strings"
        }
    }

    private func wrong(_ message: String) -> TOMLError { TOMLError(line: nil, message: message) }
}
