/// Inserts rows into one table, many with each run of its statement: starting one costs about as much as inserting a row.
///
/// Add rows with `next()` and the bindings of their columns, and `finish()` before anything reads them.
public final class RowInserter {
    /// Parameters of the next row are bound to this, counted from what `next()` answers.
    public let statement: Statement
    private let columnCount: Int32
    private var rows: Int32 = 0

    /// More bring nothing.
    public static let rowLimit = 32

    /// - Parameters:
    ///   - insert: `INSERT INTO table (columns)`.
    ///   - columnCount: how many columns that names; all of them have to be bound for each row.
    public init(_ connection: Connection, _ insert: String, columnCount: Int) throws(SQLiteError) {
        let row = "(" + Array(repeating: "?", count: columnCount).joined(separator: ", ") + ")"
        let rows = Array(repeating: row, count: Self.rowLimit).joined(separator: ", ")
        // The limit lets one statement insert the last few rows too, without binding them again.
        statement = try connection.cached("\(insert) SELECT * FROM (VALUES \(rows)) LIMIT ?")
        self.columnCount = Int32(columnCount)
    }

    /// Begins a row.
    ///
    /// - Returns: the number of the parameter of its first column.
    public func next() throws(SQLiteError) -> Int32 {
        if rows == Int32(Self.rowLimit) { try finish() }
        rows += 1
        return (rows - 1) * columnCount + 1
    }

    /// Inserts what was added.
    public func finish() throws(SQLiteError) {
        guard rows > 0 else { return }
        statement.bind(columnCount * Int32(Self.rowLimit) + 1, Int64(rows))
        rows = 0
        try statement.run()
    }
}
