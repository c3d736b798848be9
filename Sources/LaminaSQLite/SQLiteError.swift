import CSQLite

/// An SQLite call that failed: its code, its message, and the SQL.
public struct SQLiteError: Error, Sendable, CustomStringConvertible {
    /// The extended result code (https://www.sqlite.org/rescode.html).
    public var code: Int32
    public var message: String
    /// The statement, or the path of the database for errors of opening.
    public var subject: String

    public init(code: Int32, message: String, subject: String) {
        self.code = code
        self.message = message
        self.subject = subject
    }

    init(_ database: OpaquePointer?, _ code: Int32, _ subject: String) {
        self.code = database.map(sqlite3_extended_errcode) ?? code
        let text = database.flatMap(sqlite3_errmsg) ?? sqlite3_errstr(code)
        message = text.map { String(cString: $0) } ?? "error \(code)"
        self.subject = subject
    }

    /// For a parameter that could not be bound: the database does not know about it.
    init(unbound code: Int32, _ sql: String) {
        let text = sqlite3_errstr(code).map { String(cString: $0) } ?? "error \(code)"
        self.init(code: code, message: "a parameter cannot be bound: \(text)", subject: String(sql.prefix(200)))
    }

    /// The primary result code: the low byte.
    public var primaryCode: Int32 { code & 0xff }

    /// Whether the database file itself is damaged or not a database.
    public var isCorruption: Bool { primaryCode == SQLITE_CORRUPT || primaryCode == SQLITE_NOTADB }

    /// Whether the disk is full: for the database, its log, or the index of the log that readers share.
    public var isFull: Bool { primaryCode == SQLITE_FULL || code == Self.sharedMemoryIsFull }

    /// SQLITE_IOERR_SHMSIZE, a macro that Swift does not see.
    private static var sharedMemoryIsFull: Int32 { SQLITE_IOERR | 19 << 8 }

    public var description: String { "SQLite error \(code): \(message) (\(subject))" }
}
