import CSQLite

/// Brings a database to the newest of a list of numbered migrations.
public struct Migrator: Sendable {
    /// What stops a migration before anything is changed.
    public enum Refusal: Error, Sendable, Equatable {
        /// The database has had more migrations than this program knows.
        case newer(database: Int, known: Int)
        /// The file is another program's database.
        case foreign(applicationID: Int32)
    }

    private let applicationID: Int32
    private let migrations: [String]

    /// - Parameter migrations: SQL, in order; a database's `user_version` counts those that were applied.
    public init(applicationID: Int32, migrations: [String]) {
        self.applicationID = applicationID
        self.migrations = migrations
    }

    /// Checks whether this program can use a database, without changing it; returns its version.
    ///
    /// - Throws: `Refusal`, or `SQLiteError` if the file cannot be read.
    public func check(_ connection: Connection) throws -> Int {
        let version = Int(try connection.integer("PRAGMA user_version") ?? 0)
        let found = Int32(truncatingIfNeeded: try connection.integer("PRAGMA application_id") ?? 0)
        let tables = try connection.integer("SELECT count(*) FROM sqlite_schema") ?? 0
        guard found == applicationID || (found == 0 && tables == 0) else {
            throw Refusal.foreign(applicationID: found)
        }
        guard version <= migrations.count else { throw Refusal.newer(database: version, known: migrations.count) }
        return version
    }

    /// Applies the migrations that the database has not had, each in one transaction with its number.
    ///
    /// - Returns: how many were applied.
    /// - Throws: `Refusal`, or `SQLiteError`; the database then is as the last whole migration left it.
    @discardableResult
    public func migrate(_ connection: Connection) throws -> Int {
        let version = try check(connection)
        for (index, sql) in migrations.enumerated().dropFirst(version) {
            try connection.transaction {
                try connection.execute(sql)
                try connection.execute("PRAGMA user_version = \(index + 1)")
                try connection.execute("PRAGMA application_id = \(applicationID)")
            }
        }
        return migrations.count - version
    }
}
