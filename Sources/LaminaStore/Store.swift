import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSchema
import LaminaSystem
import Synchronization

/// A store: the index, the backing files, and the lock that makes this process its only writer.
///
/// Layout below the root: `index.db` (SQLite), `content/<2 hex>/<digest>` (backing files), `fs/` (where the file system is
/// mounted), `lock`. All of it is for its owner alone (`StoreDirectory`).
public final class Store: Sendable {
    /// The absolute path of the store.
    public let root: String
    /// For reading.
    public let index: Index
    /// The backing files.
    public let files: ContentFiles

    let writer: Monitor<Writer>
    let holds = LayerHolds()
    /// The inodes of layers that nothing is served of.
    public let quarantined = QuarantinedInodes()
    /// How many bytes more may be kept of the tars of layers, as far as it was asked.
    let tarRoom = Mutex<[LayerID: Int64]>([:])
    let reserve: SpaceReserve
    /// What was opened, until it is recorded.
    public let uses = UseLog()
    private let lock: StoreLock

    /// What opening found that an operator should know.
    public var openReport: OpenReport { reportOfOpening.withLock { $0 } }
    private let reportOfOpening = Mutex(OpenReport())

    public struct OpenReport: Sendable {
        /// Contents that were not known to be on disk before the machine restarted, and were hashed again.
        public var rechecked = 0
        /// How many of them lost a chunk, which will be fetched again.
        public var lost = 0
        /// Whether the index is new although there are backing files: they had another index.
        public var hasUnknownFiles = false
    }

    /// Opens a store for writing, making it if there is none.
    ///
    /// After a restart of the machine this hashes what was not durable: the last seconds of merging before the restart.
    ///
    /// - Throws: `StoreError.locked` when another process holds it, `.foreign`, `.incompatible`, `.damaged`, `.system`.
    public init(root: String) throws {
        self.root = root
        let directory = try StoreDirectory.prepare(root)
        do throws(SystemError) {
            // Whatever the mask makes of their modes: over `fs` the file system is mounted, and `empty` is never the topmost directory
            // of a mount, whose mode it would show.
            for name in ["fs", "empty"] { _ = try directory.makeDirectory(name, mode: 0o755) }
        } catch {
            throw StoreError(.system(error.code), "cannot make the store \(root)", cause: error)
        }
        lock = try StoreLock(root: root, in: directory)
        files = try ContentFiles(root: root, in: directory)
        let path = Index.path(root: root)
        reserve = SpaceReserve(root: root)
        let isNew = try Index.isEmpty(path)
        let hasUnknownFiles = isNew && Self.backingFileCount(root: root, upTo: 1) > 0
        do {
            let connection = try reserve.lending(SpaceReserve.opening) {
                try StoreDirectory.makeIndex(in: directory, Index.name)
                return try Self.connect(path)
            }
            writer = Monitor(try Writer(connection))
        } catch let error as SQLiteError {
            throw StoreError(error, index: path)
        }
        if isNew { try Self.settle(root, writer) }
        reserve.refill()
        index = Index(migrated: path)
        do {
            let boot = try Self.bootID()
            reportOfOpening.withLock { $0.hasUnknownFiles = hasUnknownFiles }
            let report = try recheckAfterBoot(boot)
            reportOfOpening.withLock { ($0.rechecked, $0.lost) = (report.rechecked, report.lost) }
            try readQuarantine()
        } catch let error as SQLiteError {
            throw StoreError(error, index: path)
        }
    }

    /// Opens the index for writing, and brings it to this program's version.
    private static func connect(_ path: String) throws -> Connection {
        let connection = try Connection(path: path, access: .readWrite)
        // Before anything is written: a database that is refused stays unchanged, including its journal mode.
        _ = try Index.usable(connection, path: path)
        try connection.execute("PRAGMA journal_mode = WAL")
        // NORMAL: a power cut may lose the last commits, never the database. What these recorded is fetched again.
        try connection.execute("PRAGMA synchronous = NORMAL")
        try connection.execute("PRAGMA foreign_keys = ON")
        // Debian builds SQLite with it on; nothing here is a secret.
        try connection.execute("PRAGMA secure_delete = OFF")
        try connection.execute("PRAGMA temp_store = MEMORY")
        try connection.execute("PRAGMA journal_size_limit = 8388608")
        try connection.setCacheSize(kibibytes: 16 << 10)
        try Index.migrator.migrate(connection)
        try refreshViews(connection)
        return connection
    }

    /// Writes a new store to disk before anything is put into it: otherwise a power cut could leave files without an index.
    private static func settle(_ root: String, _ writer: Monitor<Writer>) throws {
        do {
            // Syncs log and database (https://www.sqlite.org/pragma.html#pragma_wal_checkpoint).
            try writer.withLock { try $0.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)") }
            for directory in [root + "/content", root, root + "/.."] {
                try File(directory, O_RDONLY | O_DIRECTORY).synchronize()
            }
        } catch let error as SystemError where error.code == EINVAL {
            // A file system that cannot sync directories keeps them in its own way.
        } catch let error as SystemError {
            throw StoreError(.system(error.code), "cannot make the store \(root)", cause: error)
        } catch let error as SQLiteError {
            throw StoreError(error, index: Index.path(root: root))
        }
    }

    /// As `write`, but on disk when it returns, with everything that was committed before: the log is synced once.
    ///
    /// - Parameter changesContents: false: what is cached of the contents' state stays valid.
    func writeDurably<Result>(
        changesContents: Bool = true, _ body: (Writer) throws -> Result
    ) throws -> Result {
        do {
            return try writer.withLock { writer in
                let result = try writer.durableTransaction { try body(writer) }
                if !changesContents { index.snapshotVersion.add(1, ordering: .releasing) }
                index.version.add(1, ordering: .releasing)
                return result
            }
        } catch let error as SQLiteError {
            throw StoreError(error, index: index.path)
        }
    }

    /// When it returns, everything that was committed so far is on disk.
    public func commitDurably() throws {
        // Not by an update that changes nothing: SQLite writes and syncs nothing for it.
        try writer.withLock { _ in
            do throws(SystemError) {
                try File(index.path + "-wal", O_RDONLY).synchronize()
            } catch {
                // If there is no log, everything is in the database, which was synced when it was written.
                if error.code == ENOENT { return }
                throw StoreError(.system(error.code), "the index's log cannot be brought to the disk", cause: error)
            }
        }
    }

    /// Runs `body` in one transaction of the writer. A power cut may undo it, with everything that came after it.
    func write<Result>(_ body: (Writer) throws -> Result) throws -> Result {
        do {
            return try writer.withLock { writer in
                let result = try writer.transaction { try body(writer) }
                index.version.add(1, ordering: .releasing)
                return result
            }
        } catch let error as SQLiteError {
            throw StoreError(error, index: index.path)
        }
    }

    static func bootID() throws -> String {
        let bytes = try readFile("/proc/sys/kernel/random/boot_id")
        return String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }

    /// Makes the views again if this program's differ from those in the database.
    private static func refreshViews(_ connection: Connection) throws {
        let sql = Schema.views
        let digest = SHA256.hash(Array(sql.utf8))
        let current = try connection.prepare("SELECT views FROM store").first { Digest($0.blob(0)) } ?? nil
        guard current != digest else { return }
        try connection.transaction {
            try connection.execute(sql)
            let statement = try connection.prepare("UPDATE store SET views = ?")
            try statement.bind(1, digest: digest).run()
        }
    }
}

/// The one writing connection; touched with the store's lock held only.
final class Writer {
    let connection: Connection
    /// The number of the syncfs that makes durable what lands now: the next one to begin.
    var nextSync: Int64
    /// Whether a syncfs has failed since all that is not durable was looked at.
    var hasLostWrites = false
    /// What this transaction has changed of the contents' totals.
    var groups = GroupChanges()

    init(_ connection: sending Connection) throws {
        self.connection = connection
        // Also for what a killed process has landed.
        nextSync = try connection.integer("SELECT max(syncs + 1, landing) FROM store") ?? 1
    }

    /// Runs `body` in a transaction that is on disk when this returns.
    func durableTransaction<Result>(_ body: () throws -> Result) throws -> Result {
        // Not within a transaction: there it has no effect (https://www.sqlite.org/pragma.html#pragma_synchronous).
        try connection.execute("PRAGMA synchronous = FULL")
        defer { try? connection.execute("PRAGMA synchronous = NORMAL") }
        return try transaction(body)
    }

    /// Runs `body` in one transaction, which also updates the totals of the contents that it changes.
    func transaction<Result>(_ body: () throws -> Result) throws -> Result {
        // What a failed transaction has left.
        groups = GroupChanges()
        return try connection.transaction {
            let result = try body()
            try settleGroups()
            return result
        }
    }

    /// Whether something has landed that is not known to be on disk.
    func hasVolatileContent() throws -> Bool { try connection.integer("SELECT landing > syncs FROM store") == 1 }
}

extension Statement {
    @discardableResult
    func bind(_ index: Int32, digest: Digest) -> Statement {
        digest.withUnsafeBytes { bind(index, blob: $0) }
    }

    @discardableResult
    func bind(_ index: Int32, digest: Digest?) -> Statement {
        if let digest { bind(index, digest: digest) } else { bindNull(index) }
    }

    /// The column as a digest; nil for NULL and for anything that is not 32 bytes.
    func digest(_ column: Int32) -> Digest? { Digest(blob(column)) }
}
