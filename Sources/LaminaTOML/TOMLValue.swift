/// A value of a TOML document (https://toml.io/en/v1.0.0).
package enum TOMLValue: Equatable {
    case string(String)
    case integer(Int64)
    case float(Double)
    case boolean(Bool)
    /// A date, a time, or both; kept unchanged, because no key of lamina has one.
    case dateTime(String)
    case array([TOMLValue])
    case table(TOMLTable)
    /// Made by `[[header]]`s; they are in `TOMLTable.Entry.tables`.
    case tables

    /// In the words of an error: `an integer`.
    package var kind: String {
        switch self {
        case .string: "a string"
        case .integer: "an integer"
        case .float: "a floating-point number"
        case .boolean: "a boolean"
        case .dateTime: "a date or time"
        case .array: "an array"
        case .table: "a table"
        case .tables: "an array of tables"
        }
    }
}

/// A table of a TOML document.
///
/// It is a class because lines add to tables deep in others: with values, each line would copy what it changes.
package final class TOMLTable {
    /// How a table was made, which decides what may still be added to it.
    package enum Origin {
        /// Only named as the parent of another table: its own header may follow.
        case implied
        /// By `[header]`.
        case header
        /// By a dotted key: only dotted keys of the same section may add to it, and no later header may reopen it.
        case dotted
        /// `{ … }`: closed.
        case inline
    }

    package struct Entry: Equatable {
        package var value: TOMLValue
        /// Where it was defined, from 1.
        package var line: Int
        /// The elements of an array that `[[header]]`s made.
        package var tables: [TOMLTable] = []
    }

    package internal(set) var entries: [String: Entry] = [:]
    var origin: Origin

    init(origin: Origin) { self.origin = origin }

    /// Reads a document.
    ///
    /// - Throws: ``TOMLError`` for everything that TOML 1.0 does not allow, and for values nested deeper than 64.
    package static func parse(_ bytes: [UInt8]) throws(TOMLError) -> TOMLTable {
        var parser = TOMLParser(bytes)
        return try parser.parseDocument()
    }
}

extension TOMLTable: Equatable {
    package static func == (left: TOMLTable, right: TOMLTable) -> Bool { left.entries == right.entries }
}

/// What is wrong with a TOML document.
package struct TOMLError: Error, Sendable, Equatable {
    /// From 1; `nil` if the document as a whole lacks something.
    package var line: Int?
    /// What is wrong, as the end of a sentence.
    package var message: String

    package init(line: Int?, message: String) {
        self.line = line
        self.message = message
    }

    /// A sentence that names the file.
    package func text(in path: String) -> String { path + (line.map { ", line \($0)" } ?? "") + ": " + message }
}
