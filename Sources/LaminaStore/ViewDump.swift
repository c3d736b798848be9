import LaminaSQLite

/// A value of a view, as JSON shows it.
public enum ViewValue: Sendable, Encodable, Equatable {
    case null
    case integer(Int64)
    case text(String)

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .integer(let value): try container.encode(value)
        case .text(let value): try container.encode(value)
        }
    }
}

extension Index {
    /// The first rows of every view, by view and column; without `file`, whose rows are the names of all files and need a walk
    /// through all trees.
    ///
    /// - Parameter limit: how many rows of each view.
    public func dumpViews(limit: Int) throws -> [String: [[String: ViewValue]]] {
        try read { database in
            let names = try database.cached(
                "SELECT name FROM sqlite_schema WHERE type = 'view' AND name <> 'file' ORDER BY name"
            ).map { $0.text(0) }
            var views: [String: [[String: ViewValue]]] = [:]
            for name in names {
                // The name is the database's own; a quote in it would be doubled.
                let quoted = name.replacing("\"", with: "\"\"")
                views[name] = try database.prepare("SELECT * FROM \"\(quoted)\" LIMIT \(limit)").map { row in
                    var values: [String: ViewValue] = [:]
                    for column in 0..<row.columnCount { values[row.columnName(column)] = row.viewValue(column) }
                    return values
                }
            }
            return views
        }
    }
}

extension Statement {
    fileprivate func viewValue(_ column: Int32) -> ViewValue {
        if isNull(column) { return .null }
        let text = text(column)
        return Int64(text).map { .integer($0) } ?? .text(text)
    }
}
