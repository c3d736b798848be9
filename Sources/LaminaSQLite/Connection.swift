import CSQLite

/// A connection to one database, for one user at a time (it is not Sendable: its owner provides the lock).
public final class Connection {
    let handle: OpaquePointer
    private let path: String
    private var cache: [String: Statement] = [:]

    public enum Access: Sendable {
        /// May create the database and write to it.
        case readWrite
        /// Never writes; the file must exist.
        case readOnly
    }

    /// Opens a database.
    ///
    /// Serialized mode is off (SQLITE_OPEN_NOMUTEX): the owner's lock replaces SQLite's lock in each call.
    ///
    /// - Throws: `SQLiteError` if the file cannot be opened or is not a database.
    public init(path: String, access: Access) throws(SQLiteError) {
        Self.isConfigured
        var opened: OpaquePointer?
        let flags =
            switch access {
            case .readWrite: SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
            case .readOnly: SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX
            }
        let code = sqlite3_open_v2(path, &opened, flags, nil)
        guard code == SQLITE_OK, let opened else {
            let error = SQLiteError(opened, code, path)
            sqlite3_close_v2(opened)
            throw error
        }
        handle = opened
        self.path = path
        sqlite3_extended_result_codes(handle, 1)
        // Another process (sqlite3 at a terminal) may hold the database's lock for a moment.
        setBusyTimeout(milliseconds: Self.busyTimeout)
    }

    deinit {
        // close_v2 waits for statements that are still in use instead of leaking the connection.
        cache.removeAll()
        sqlite3_close_v2(handle)
    }

    /// Once in the process, before the first connection. If other code has used SQLite before, this has no effect.
    private static let isConfigured: Void = { _ = lamina_sqlite_count_no_memory() }()

    /// Runs one or more statements without a result.
    public func execute(_ sql: String) throws(SQLiteError) {
        let code = sqlite3_exec(handle, sql, nil, nil, nil)
        guard code == SQLITE_OK else { throw SQLiteError(handle, code, String(sql.prefix(200))) }
    }

    /// Prepares a statement for many uses.
    public func prepare(_ sql: String) throws(SQLiteError) -> Statement { try Statement(self, sql) }

    /// The prepared statement of this SQL, prepared at its first use and kept. It comes reset. If its rows are being read now,
    /// another statement comes, which is not kept.
    public func cached(_ sql: String) throws(SQLiteError) -> Statement {
        if let statement = cache[sql] {
            guard !statement.isBusy else { return try Statement(self, sql) }
            statement.reset()
            return statement
        }
        let statement = try Statement(self, sql)
        cache[sql] = statement
        return statement
    }

    /// The SQL of the kept statements: what this connection was asked.
    public var cachedStatements: [String] { Array(cache.keys) }

    /// The first column of the first row as an integer; `nil` without a row.
    public func integer(_ sql: String) throws(SQLiteError) -> Int64? {
        let statement = try cached(sql)
        defer { statement.reset() }
        return try statement.step() ? statement.integer(0) : nil
    }

    /// Runs `body` in one transaction that takes the write lock at once, and rolls back if it throws.
    ///
    /// IMMEDIATE, because a transaction that begins by reading cannot always become a writing one
    /// (https://www.sqlite.org/lang_transaction.html).
    public func transaction<Result>(_ body: () throws -> Result) throws -> Result {
        try execute("BEGIN IMMEDIATE")
        do {
            let result = try body()
            try execute("COMMIT")
            return result
        } catch {
            // A failed COMMIT or a full disk may already have rolled back.
            if sqlite3_get_autocommit(handle) == 0 { try? execute("ROLLBACK") }
            throw error
        }
    }

    /// The number of rows that the last INSERT, UPDATE or DELETE changed.
    public var changes: Int { Int(sqlite3_changes64(handle)) }

    /// The rowid of the last INSERT.
    public var lastInsertedRow: Int64 { sqlite3_last_insert_rowid(handle) }

    /// How long a call waits for another connection's lock, in milliseconds, unless `setBusyTimeout` changes it.
    public static var busyTimeout: Int32 { 10_000 }

    /// Sets how long a call waits for another connection's lock; 0 fails at once.
    public func setBusyTimeout(milliseconds: Int32) { sqlite3_busy_timeout(handle, milliseconds) }

    /// Bounds the page cache's memory.
    public func setCacheSize(kibibytes: Int) throws(SQLiteError) { try execute("PRAGMA cache_size = -\(kibibytes)") }
}
