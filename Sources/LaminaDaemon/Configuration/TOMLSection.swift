import TOMLKit

/// A table that is read key by key, so that what nobody asked for is found.
final class TOMLSection {
    private let table: TOMLTable
    private let name: String
    let path: String
    private var seen: Set<String> = []

    init(table: TOMLTable, name: String, path: String) {
        self.table = table
        self.name = name
        self.path = path
    }

    private func full(_ key: String) -> String { name.isEmpty ? key : "\(name).\(key)" }

    func wrong(_ key: String, _ what: String) -> DaemonError {
        DaemonError(.configuration, "\(path): \(full(key)) \(what)")
    }

    private func value(_ key: String, _ type: TOMLType, _ words: String) throws(DaemonError) -> (any TOMLValueConvertible)? {
        seen.insert(key)
        guard let value = table[key] else { return nil }
        guard value.type == type else { throw wrong(key, "must be \(words), is \(Self.article(value.type))") }
        return value
    }

    private static func article(_ type: TOMLType) -> String {
        switch type {
        case .array, .int: "an \(type)"
        default: "a \(type)"
        }
    }

    func section(_ key: String) throws(DaemonError) -> TOMLSection? {
        try value(key, .table, "a table")?.table.map { TOMLSection(table: $0, name: full(key), path: path) }
    }

    func bool(_ key: String) throws(DaemonError) -> Bool? { try value(key, .bool, "true or false")?.bool }

    func string(_ key: String) throws(DaemonError) -> String? { try value(key, .string, "a string")?.string }

    func integer(_ key: String, minimum: Int) throws(DaemonError) -> Int? {
        guard let number = try value(key, .int, "an integer")?.int else { return nil }
        guard number >= minimum else { throw wrong(key, "must be \(minimum) or more, is \(number)") }
        return number
    }

    func strings(_ key: String) throws(DaemonError) -> [String]? {
        guard let array = try value(key, .array, "an array of strings")?.array else { return nil }
        var strings: [String] = []
        for element in array {
            guard element.type == .string, let string = element.string else {
                throw wrong(key, "must be an array of strings")
            }
            strings.append(string)
        }
        return strings
    }

    /// The keys that were not asked for: those of `known` are answered, any other is an error.
    func finish(ignoring known: Set<String>) throws(DaemonError) -> [String] {
        var ignored: [String] = []
        for key in table.keys.sorted() where !seen.contains(key) {
            guard known.contains(key) else {
                let near = seen.union(known).filter { Self.distance($0, key) <= 2 }.min()
                throw wrong(key, "is no key that lamina knows" + (near.map { "; did you mean \(full($0))?" } ?? ""))
            }
            ignored.append(full(key))
        }
        return ignored
    }

    /// How many letters to add, drop or change (Levenshtein); keys are short, and what is longer than 64 letters is far from any.
    static func distance(_ a: String, _ b: String) -> Int {
        let (a, b) = (Array(a.utf8.prefix(65)), Array(b.utf8.prefix(65)))
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let next = min(row[j] + 1, row[j + 1] + 1, diagonal + (x == y ? 0 : 1))
                diagonal = row[j + 1]
                row[j + 1] = next
            }
        }
        return row[b.count]
    }
}
