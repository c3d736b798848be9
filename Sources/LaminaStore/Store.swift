import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSchema
import LaminaSystem
import Synchronization

/// A store: the index, the backing files, and the lock that makes this process the one that writes.
///
/// Layout below the root: `index.db` (SQLite), `content/<2 hex>/<digest>` (backing files), `fs/` (where the file system is
/// mounted), `lock`.
public final class Store: Sendable {
    /// The absolute path of the store.
    public let root: String
    /// For reading.
    public let index: Index
    /// The backing files.
    public let files: BackingFiles

    let writer: Monitor<Writer>
    let holds = LayerHolds()
    let reserve: SpaceReserve
    /// What was opened, until it is recorded.
    public let uses = UseLog()
    private let lock: StoreLock

    /// What opening found that an operator should know.
    public let openReport: OpenReport

    public struct OpenReport: Sendable {
        /// Contents that were not known to be on disk before the machine restarted, and were hashed again.
        public var rechecked = 0
        /// Those of them that lost a chunk, which will be fetched again.
        public var lost = 0
        /// Whether the index is new, and there are backing files: they had another one.
        public var hasUnknownFiles = false
    }

    /// Opens a store for writing, making it where there is none.
    ///
    /// After a restart of the machine this hashes what had not been made durable: the last seconds of merging before it.
    ///
    /// - Throws: `StoreError.locked` when another process holds it, `.incompatible`, `.damaged`, `.system`.
    public init(root: String) throws {
        self.root = root
        do {
            try createDirectories(root + "/fs")
            try createDirectories(root + "/empty")
        } catch {
            throw StoreError(.system(error.code), "cannot make the store \(root)", cause: error)
        }
        lock = try StoreLock(root: root)
        files = try BackingFiles(root: root)
        let path = Index.path(root: root)
        reserve = SpaceReserve(root: root)
        let hasUnknownFiles = access(path, F_OK) != 0 && Self.backingFileCount(root: root, upTo: 1) > 0
        do {
            let connection = try reserve.lending(SpaceReserve.opening) { try Self.connect(path) }
            writer = Monitor(try Writer(connection))
        } catch let error as SQLiteError {
            throw StoreError(error, index: path)
        }
        reserve.refill()
        index = Index(migrated: path)
        let boot = try Self.bootID()
        do {
            var report = try Self.recheckAfterBoot(boot, writer: writer, files: files)
            report.hasUnknownFiles = hasUnknownFiles
            openReport = report
        } catch let error as SQLiteError {
            throw StoreError(error, index: path)
        }
    }

    /// Opens the index for writing, and brings it to this program's version.
    private static func connect(_ path: String) throws -> Connection {
        let connection = try Connection(path: path, access: .readWrite)
        // Before anything is written: a database that is refused stays as it was, its journal mode too.
        _ = try Index.usable(connection, path: path)
        try connection.execute("PRAGMA journal_mode = WAL")
        // NORMAL: a power cut may lose the last commits, never the database. What they recorded is fetched again.
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

    /// Runs `body` in one transaction of the writer.
    func write<Result>(_ body: (Writer) throws -> Result) throws -> Result {
        do {
            return try writer.withLock { writer in
                let result = try writer.connection.transaction { try body(writer) }
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

    /// Makes the views anew when this program's differ from those in the database.
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

    init(_ connection: sending Connection) throws {
        self.connection = connection
        // Of what a process that was killed has landed, too.
        nextSync = try connection.integer("SELECT max(syncs + 1, landing) FROM store") ?? 1
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
