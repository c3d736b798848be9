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
        let line = table.entries[key].map { ", line \($0.line)" } ?? ""
        return DaemonError(.configuration, "\(path)\(line): \(full(key)) \(what)")
    }

    /// The value of a key; `read` answers nil for one of a wrong type.
    private func value<Value>(
        _ key: String, _ words: String, _ read: (TOMLValue) -> Value?
    ) throws(DaemonError) -> Value? {
        seen.insert(key)
        guard let entry = table.entries[key] else { return nil }
        guard let value = read(entry.value) else { throw wrong(key, "must be \(words), is \(entry.value.kind)") }
        return value
    }

    func section(_ key: String) throws(DaemonError) -> TOMLSection? {
        try value(key, "a table") { if case .table(let table) = $0 { table } else { nil } }
            .map { TOMLSection(table: $0, name: full(key), path: path) }
    }

    func bool(_ key: String) throws(DaemonError) -> Bool? {
        try value(key, "true or false") { if case .boolean(let value) = $0 { value } else { nil } }
    }

    func string(_ key: String) throws(DaemonError) -> String? {
        try value(key, "a string") { if case .string(let value) = $0 { value } else { nil } }
    }

    func integer(_ key: String, minimum: Int) throws(DaemonError) -> Int? {
        guard
            let number = try value(key, "an integer", { if case .integer(let value) = $0 { Int(value) } else { nil } })
        else { return nil }
        guard number >= minimum else { throw wrong(key, "must be \(minimum) or more, is \(number)") }
        return number
    }

    func strings(_ key: String) throws(DaemonError) -> [String]? {
        guard
            let array = try value(
                key, "an array of strings", { if case .array(let values) = $0 { values } else { nil } })
        else { return nil }
        var strings: [String] = []
        for element in array {
            guard case .string(let string) = element else { throw wrong(key, "must be an array of strings") }
            strings.append(string)
        }
        return strings
    }

    /// The keys that were not asked for: those of `known` are answered, any other is an error.
    func finish(ignoring known: Set<String>) throws(DaemonError) -> [String] {
        var ignored: [String] = []
        for key in table.entries.keys.sorted() where !seen.contains(key) {
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
