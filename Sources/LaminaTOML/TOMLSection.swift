/// A table that is read key by key, so that keys that were not asked for are found.
package final class TOMLSection {
    private let table: TOMLTable
    private let name: String
    /// The file, for messages.
    package let path: String
    private var seen: Set<String> = []

    package init(table: TOMLTable, name: String, path: String) {
        self.table = table
        self.name = name
        self.path = path
    }

    private func full(_ key: String) -> String { name.isEmpty ? key : "\(name).\(key)" }

    package func wrong(_ key: String, _ what: String) -> TOMLError {
        TOMLError(line: table.entries[key]?.line, message: "\(full(key)) \(what)")
    }

    /// The value of a key; `read` returns nil for a wrong type.
    private func value<Value>(
        _ key: String, _ words: String, _ read: (TOMLValue) -> Value?
    ) throws(TOMLError) -> Value? {
        seen.insert(key)
        guard let entry = table.entries[key] else { return nil }
        guard let value = read(entry.value) else { throw wrong(key, "must be \(words), is \(entry.value.kind)") }
        return value
    }

    package func section(_ key: String) throws(TOMLError) -> TOMLSection? {
        try value(key, "a table") { if case .table(let table) = $0 { table } else { nil } }
            .map { TOMLSection(table: $0, name: full(key), path: path) }
    }

    /// The tables of an array of tables, `[[key]]`.
    package func sections(_ key: String) throws(TOMLError) -> [TOMLSection]? {
        let isThere = try value(key, "an array of tables, [[\(full(key))]]") { value -> Bool? in
            if case .tables = value { true } else { nil }
        }
        guard isThere != nil else { return nil }
        return (table.entries[key]?.tables ?? []).map { TOMLSection(table: $0, name: full(key), path: path) }
    }

    /// The keys in the order of the document, with their values; the caller handles all of them.
    package func all() -> [(key: String, value: TOMLValue)] {
        seen.formUnion(table.entries.keys)
        return table.entries.sorted { ($0.value.line, $0.key) < ($1.value.line, $1.key) }.map {
            ($0.key, $0.value.value)
        }
    }

    /// The value of a key, of any type.
    package func any(_ key: String) -> TOMLValue? {
        seen.insert(key)
        return table.entries[key]?.value
    }

    package func bool(_ key: String) throws(TOMLError) -> Bool? {
        try value(key, "true or false") { if case .boolean(let value) = $0 { value } else { nil } }
    }

    package func string(_ key: String) throws(TOMLError) -> String? {
        try value(key, "a string") { if case .string(let value) = $0 { value } else { nil } }
    }

    package func integer(_ key: String, minimum: Int) throws(TOMLError) -> Int? {
        guard
            let number = try value(key, "an integer", { if case .integer(let value) = $0 { Int(value) } else { nil } })
        else { return nil }
        guard number >= minimum else { throw wrong(key, "must be \(minimum) or more, is \(number)") }
        return number
    }

    package func strings(_ key: String) throws(TOMLError) -> [String]? {
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

    /// The keys that were not asked for: those in `known` are returned, any other is an error.
    package func finish(ignoring known: Set<String>) throws(TOMLError) -> [String] {
        var ignored: [String] = []
        for key in table.entries.keys.sorted() where !seen.contains(key) {
            guard known.contains(key) else {
                let near = TOMLSuggestion.text(for: key, among: seen.union(known)) { full($0) }
                throw wrong(key, "is no key that lamina knows" + near)
            }
            ignored.append(full(key))
        }
        return ignored
    }
}
