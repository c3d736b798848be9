/// Inserts rows into one table, many with each run of a statement, because starting a statement costs about as much as
/// inserting a row.
///
/// Add rows with `next()` and the bindings of their columns, and `finish()` before anything reads them.
public final class RowInserter {
    /// The parameters of the next row are bound to this statement, counted from the result of `next()`.
    public let statement: Statement
    private let columnCount: Int32
    private var rows: Int32 = 0

    /// More bring nothing.
    public static let rowLimit = 32

    /// - Parameters:
    ///   - insert: `INSERT INTO table (columns)`.
    ///   - columnCount: how many columns it names; all of them must be bound for each row.
    public init(_ connection: Connection, _ insert: String, columnCount: Int) throws(SQLiteError) {
        let row = "(" + Array(repeating: "?", count: columnCount).joined(separator: ", ") + ")"
        let rows = Array(repeating: row, count: Self.rowLimit).joined(separator: ", ")
        // The limit lets one statement also insert the last few rows, without binding them again.
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

    /// Inserts the added rows.
    public func finish() throws(SQLiteError) {
        guard rows > 0 else { return }
        statement.bind(columnCount * Int32(Self.rowLimit) + 1, Int64(rows))
        rows = 0
        try statement.run()
    }
}
