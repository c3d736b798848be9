import CSQLite

/// A prepared statement. Parameters count from 1, columns from 0, as in SQLite.
///
/// It may outlive its connection: SQLite closes a database with its last statement (https://www.sqlite.org/c3ref/close.html).
/// It has no reference to the connection, because the connection keeps statements.
public final class Statement {
    private let handle: OpaquePointer
    private let sql: String
    /// The first parameter since the last run that could not be bound; the next step reports it.
    private var bindCode = SQLITE_OK

    init(_ connection: Connection, _ sql: String) throws(SQLiteError) {
        var prepared: OpaquePointer?
        // PERSISTENT: Debian's SQLite is built without lookaside, so a statement uses the heap, and it is kept for long.
        let code = sqlite3_prepare_v3(
            connection.handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &prepared, nil)
        guard code == SQLITE_OK, let prepared else {
            throw SQLiteError(connection.handle, code, String(sql.prefix(200)))
        }
        handle = prepared
        self.sql = sql
    }

    deinit { sqlite3_finalize(handle) }

    // MARK: Parameters
    // They are chained, so an error (no such parameter, no memory, a statement that is amid its rows) is thrown by `step`.

    /// Binds an integer.
    @discardableResult
    public func bind(_ index: Int32, _ value: Int64) -> Statement {
        note(sqlite3_bind_int64(handle, index, value))
        return self
    }

    /// Binds an integer or NULL.
    @discardableResult
    public func bind(_ index: Int32, _ value: Int64?) -> Statement {
        note(value.map { sqlite3_bind_int64(handle, index, $0) } ?? sqlite3_bind_null(handle, index))
        return self
    }

    /// Binds text, copied; NULL for nil.
    @discardableResult
    public func bind(_ index: Int32, text: String?) -> Statement {
        if var text {
            text.withUTF8 { bytes in
                note(
                    sqlite3_bind_text64(
                        handle, index,
                        bytes.baseAddress.map { UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self) },
                        UInt64(bytes.count), Self.transient, UInt8(SQLITE_UTF8)))
            }
        } else {
            note(sqlite3_bind_null(handle, index))
        }
        return self
    }

    /// Binds bytes, copied.
    @discardableResult
    public func bind(_ index: Int32, blob: UnsafeRawBufferPointer) -> Statement {
        if let base = blob.baseAddress, !blob.isEmpty {
            note(sqlite3_bind_blob64(handle, index, base, UInt64(blob.count), Self.transient))
        } else {
            note(sqlite3_bind_zeroblob(handle, index, 0))
        }
        return self
    }

    /// Binds bytes, copied.
    @discardableResult
    public func bind(_ index: Int32, blob: [UInt8]) -> Statement {
        blob.withUnsafeBytes { bind(index, blob: $0) }
    }

    /// Binds bytes, copied.
    @discardableResult
    public func bind(_ index: Int32, blob: ArraySlice<UInt8>) -> Statement {
        blob.withUnsafeBytes { bind(index, blob: $0) }
    }

    /// Binds NULL.
    @discardableResult
    public func bindNull(_ index: Int32) -> Statement {
        note(sqlite3_bind_null(handle, index))
        return self
    }

    private func note(_ code: Int32) {
        if code != SQLITE_OK, bindCode == SQLITE_OK { bindCode = code }
    }

    // SQLITE_TRANSIENT is a cast in a macro, which Swift does not import.
    private static var transient: sqlite3_destructor_type { unsafeBitCast(-1, to: sqlite3_destructor_type.self) }

    // MARK: Running

    /// Whether its rows are being read now.
    private(set) var isBusy = false

    /// Steps to the next row; false at the end. The statement stays open until `reset`.
    ///
    /// - Throws: also for a parameter that could not be bound.
    public func step() throws(SQLiteError) -> Bool {
        guard bindCode == SQLITE_OK else {
            let error = SQLiteError(unbound: bindCode, sql)
            reset()
            throw error
        }
        let code = sqlite3_step(handle)
        if code == SQLITE_ROW { return true }
        if code == SQLITE_DONE { return false }
        let error = SQLiteError(sqlite3_db_handle(handle), code, String(sql.prefix(200)))
        reset()
        throw error
    }

    /// Runs the statement to its end and resets it.
    public func run() throws(SQLiteError) {
        while try step() {}
        reset()
    }

    /// Ends a run so that the statement can be used again; bindings stay.
    public func reset() {
        sqlite3_reset(handle)
        bindCode = SQLITE_OK
    }

    /// Calls `body` with every row, then resets.
    public func forEach(_ body: (Statement) throws -> Void) throws {
        isBusy = true
        defer {
            isBusy = false
            reset()
        }
        while try step() { try body(self) }
    }

    /// Every row, converted by `transform`, then resets.
    public func map<Element>(_ transform: (Statement) throws -> Element) throws -> [Element] {
        var elements: [Element] = []
        try forEach { elements.append(try transform($0)) }
        return elements
    }

    /// The first row, converted by `transform`, or nil; then resets.
    public func first<Element>(_ transform: (Statement) throws -> Element) throws -> Element? {
        isBusy = true
        defer {
            isBusy = false
            reset()
        }
        return try step() ? try transform(self) : nil
    }

    // MARK: Columns

    /// The column as an integer; 0 for NULL.
    public func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(handle, column) }

    /// The column as a floating-point number; 0 for NULL.
    public func double(_ column: Int32) -> Double { sqlite3_column_double(handle, column) }

    /// Whether the column is NULL.
    public func isNull(_ column: Int32) -> Bool { sqlite3_column_type(handle, column) == SQLITE_NULL }

    /// The column as an integer, nil for NULL.
    public func optionalInteger(_ column: Int32) -> Int64? { isNull(column) ? nil : integer(column) }

    /// The column's bytes, valid until the next step or reset.
    public func blob(_ column: Int32) -> UnsafeRawBufferPointer {
        let base = sqlite3_column_blob(handle, column)
        return UnsafeRawBufferPointer(start: base, count: base == nil ? 0 : Int(sqlite3_column_bytes(handle, column)))
    }

    /// The column as text; empty for NULL.
    public func text(_ column: Int32) -> String { String(decoding: blob(column), as: UTF8.self) }

    /// The column as text, nil for NULL.
    public func optionalText(_ column: Int32) -> String? { isNull(column) ? nil : text(column) }

    /// The number of columns.
    public var columnCount: Int32 { sqlite3_column_count(handle) }

    /// A column's name.
    public func columnName(_ column: Int32) -> String {
        sqlite3_column_name(handle, column).map { String(cString: $0) } ?? ""
    }
}
