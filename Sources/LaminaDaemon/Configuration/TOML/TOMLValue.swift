/// A value of a TOML document (https://toml.io/en/v1.0.0).
enum TOMLValue: Sendable, Equatable {
    case string(String)
    case integer(Int64)
    case float(Double)
    case boolean(Bool)
    /// A date, a time, or both; kept as it stands, as no key of ours is one.
    case dateTime(String)
    case array([TOMLValue])
    case table(TOMLTable)

    /// As a reader of an error would call it: `an integer`.
    var kind: String {
        switch self {
        case .string: "a string"
        case .integer: "an integer"
        case .float: "a floating-point number"
        case .boolean: "a boolean"
        case .dateTime: "a date or time"
        case .array: "an array"
        case .table: "a table"
        }
    }
}

/// A table of a TOML document.
struct TOMLTable: Sendable, Equatable {
    /// How a table came to be, which says what may still be added to it.
    enum Origin: Sendable, Equatable {
        /// Named as the parent of another table only: its own header may follow.
        case implied
        /// By `[header]`.
        case header
        /// By a dotted key: only dotted keys of the same section add to it, which no later header reopens.
        case dotted
        /// `{ … }`: closed.
        case inline
    }

    struct Entry: Sendable, Equatable {
        var value: TOMLValue
        /// Where it was defined, from 1.
        var line: Int
        /// Whether it is an array of `[[header]]`s, which alone may grow.
        var isTableArray = false
    }

    var entries: [String: Entry] = [:]
    var origin: Origin

    /// Reads a document.
    ///
    /// - Throws: ``TOMLError`` for whatever TOML 1.0 does not allow, and for values nested deeper than 64.
    init(parsing bytes: [UInt8]) throws(TOMLError) {
        var parser = TOMLParser(bytes)
        self = try parser.parseDocument()
    }

    init(origin: Origin) { self.origin = origin }
}

/// What is wrong with a TOML document.
struct TOMLError: Error, Sendable, Equatable {
    /// From 1.
    var line: Int
    /// What is wrong, as the end of a sentence.
    var message: String
}
