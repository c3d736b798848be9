import Glibc
import LaminaSQLite
import LaminaSchema
import LaminaSystem
import Synchronization

/// The index as readers see it: a pool of read-only connections to `index.db`.
///
/// Needs no lock of the store: WAL mode lets any number of readers work beside the one writer
/// (https://www.sqlite.org/wal.html).
public final class Index: Sendable {
    /// The path of the database.
    public let path: String

    /// Counts the writer's commits in this process; an open read transaction is compared with it.
    let version = Atomic<UInt64>(1)

    /// How many of them changed only snapshots.
    let snapshotVersion = Atomic<UInt64>(0)

    /// Counts the commits in this process that may have changed what is in the store's files.
    public var contentVersion: UInt64 {
        version.load(ordering: .acquiring) &- snapshotVersion.load(ordering: .acquiring)
    }

    /// Where readers of directories stopped.
    let positions = DirectoryPositions()

    private let idle = Mutex<[IndexConnection]>([])

    static let name = "index.db"
    static func path(root: String) -> String { "\(root)/\(name)" }
    static var migrator: Migrator { Migrator(applicationID: Schema.applicationID, migrations: Schema.migrations) }

    /// Opens the index of a store for reading.
    ///
    /// - Throws: `StoreError.missing` where no store is, `.foreign` where it is another user's, `.incompatible` when this program cannot
    ///   read it.
    public init(root: String) throws {
        path = Self.path(root: root)
        try StoreDirectory.check(root)
        guard try Self.isThere(path) else { throw Self.noStore(root) }
        let connection = try Self.connect(path)
        let version = try connection.withLock { try Self.usable($0.database, path: path) }
        // The power failed while the store was being made: it is empty.
        if version == 0 { throw Self.noStore(root) }
        guard version == Schema.migrations.count else {
            throw StoreError(
                .incompatible,
                "the index \(path) has version \(version), this lamina needs \(Schema.migrations.count); "
                    + "any command that writes to the store upgrades it")
        }
        idle.withLock { $0.append(connection) }
    }

    private static func noStore(_ root: String) -> StoreError {
        StoreError(.missing, "there is no store at \(root); 'lamina pull' makes one")
    }

    /// Whether there is an index. That it cannot be looked at now does not mean that there is none.
    static func isThere(_ path: String) throws(StoreError) -> Bool {
        // Not by opening it: to close any descriptor of a database ends SQLite's locks on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
        if access(path, F_OK) == 0 { return true }
        let error = SystemError.last("look at", path)
        if error.code == ENOENT || error.code == ENOTDIR { return false }
        throw StoreError(.system(error.code), "the index \(path) cannot be looked at", cause: error)
    }

    /// Whether there is no index yet, or only one that a process began to make.
    static func isEmpty(_ path: String) throws -> Bool {
        guard try isThere(path) else { return true }
        return (try? connect(path).withLock { try usable($0.database, path: path) }) == 0
    }

    /// Checks whether this program can use the index of a store, and bring it to its own version; changes nothing.
    ///
    /// - Throws: `StoreError.incompatible` if it cannot. A store that is not there can be made.
    public static func check(root: String) throws {
        let path = Self.path(root: root)
        guard try isThere(path) else { return }
        try connect(path).withLock { _ = try usable($0.database, path: path) }
    }

    /// For the store, which has itself made and migrated the database.
    init(migrated path: String) { self.path = path }

    /// Runs `body` on a connection of the pool, in one read transaction.
    func read<Result: Sendable>(_ body: (Connection) throws -> Result) throws -> Result {
        do {
            let connection = try idle.withLock { $0.popLast() } ?? Self.connect(path)
            // A connection whose statement failed is not put back: its state is unknown.
            let result = try connection.withLock { holder in
                try holder.database.execute("BEGIN")
                defer { try? holder.database.execute("COMMIT") }
                return try body(holder.database)
            }
            idle.withLock { if $0.count < 8 { $0.append(connection) } }
            return result
        } catch let error as SQLiteError {
            throw StoreError(error, index: path)
        }
    }

    static func connect(_ path: String) throws -> IndexConnection {
        do {
            let connection = try Connection(path: path, access: .readOnly)
            try connection.setCacheSize(kibibytes: 4096)
            return Monitor(ConnectionHolder(connection))
        } catch {
            throw StoreError(error, index: path)
        }
    }

    /// The version of a database that is an index of lamina and not newer than this program.
    static func usable(_ connection: Connection, path: String) throws -> Int {
        do {
            return try migrator.check(connection)
        } catch Migrator.Refusal.newer(let database, let known) {
            throw StoreError(
                .incompatible,
                "the index \(path) has version \(database), this lamina knows up to \(known): use a newer lamina")
        } catch Migrator.Refusal.foreign(let applicationID) {
            throw StoreError(
                .incompatible, "\(path) is not lamina's: its application_id is \(applicationID); choose another --root")
        } catch let error as SQLiteError {
            throw StoreError(error, index: path)
        }
    }
}

extension StoreError {
    /// What an error of SQLite means for an index.
    init(_ error: SQLiteError, index path: String) {
        if error.isFull {
            self.init(
                .system(ENOSPC), "the disk of \(path) is full: make room ('lamina gc', 'lamina rm') and try again",
                cause: error)
            return
        }
        // SQLite also calls a page malformed if the disk did not give it: that is a temporary error.
        if error.isCorruption {
            do throws(StoreError) {
                if try !Index.isDamaged(path) {
                    self.init(
                        .database, "a page of the index \(path) could not be read just now; it is sound: try again")
                    return
                }
            } catch {
                self = error
                return
            }
        }
        self.init(
            error.isCorruption ? .damaged : .database,
            error.isCorruption
                ? "the index \(path) is damaged: 'lamina check --repair' makes it anew from the files (end the server first)"
                : "the index \(path) cannot be used just now", cause: error)
    }
}

extension Index {
    /// SQLite has said that a database is damaged: whether a second look finds that too. Reads all of it.
    ///
    /// - Throws: as `requireReadable`.
    static func isDamaged(_ path: String) throws(StoreError) -> Bool {
        try requireReadable(path)
        do {
            return try Connection(path: path, access: .readOnly).prepare("PRAGMA quick_check(1)").first { $0.text(0) }
                != "ok"
        } catch {
            return (error as? SQLiteError)?.isCorruption ?? false
        }
    }

    /// Files that are never closed: closing any descriptor of a file removes the locks that SQLite has on it through other
    /// descriptors (https://www.sqlite.org/howtocorrupt.html, 2.2).
    private static let keptOpen = Mutex<[String: File]>([:])

    private static func kept(_ path: String) throws(SystemError) -> File {
        var status = stat()
        guard stat(path, &status) == 0 else { throw .last("look at", path) }
        let inode = status.st_ino
        return try keptOpen.withLock { files throws(SystemError) in
            if let file = files["\(path):\(inode)"] { return file }
            let opened = try File(path, O_RDONLY)
            // The path may mean another file by now. Whichever was kept before stays open too.
            let key = "\(path):\(try opened.status().st_ino)"
            files[files[key] == nil ? key : "\(key):\(opened.descriptor)"] = opened
            return opened
        }
    }

    /// Reads a database and its log as files.
    ///
    /// - Throws: `StoreError` with the system's error if they cannot be read: then nothing can be said about them.
    static func requireReadable(_ path: String) throws(StoreError) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        for name in [path, path + "-wal"] {
            do throws(SystemError) {
                // The log has no locks: they are in the database and in `-shm`.
                let file = try name == path ? kept(name) : File(name, O_RDONLY)
                var offset: Int64 = 0
                while true {
                    let count = try file.read(into: buffer, at: offset)
                    if count == 0 { break }
                    offset += Int64(count)
                }
            } catch {
                if error.code == ENOENT { continue }
                throw StoreError(
                    .system(error.code),
                    "the index \(path) cannot be read just now, so nobody can say whether it is damaged",
                    cause: error)
            }
        }
    }
}

/// A connection with its lock.
typealias IndexConnection = Monitor<ConnectionHolder>

/// Carries a connection into its `Monitor`; touched with the monitor's lock held only.
final class ConnectionHolder {
    let database: Connection
    init(_ database: sending Connection) { self.database = database }
}
