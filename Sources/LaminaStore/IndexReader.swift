import Glibc
import LaminaSQLite
import LaminaSystem
import Synchronization

/// What the index knows of one inode, without its name.
public struct Inode: Sendable {
    /// The inode number in the mount: the row.
    public var id: Int64
    /// Type and permissions, as in stat(2).
    public var mode: UInt32
    public var uid: UInt32
    public var gid: UInt32
    /// In bytes.
    public var size: Int64
    /// Seconds since 1970.
    public var mtime: Int64
    public var mtimeNanoseconds: Int32
    /// dev_t of a device node.
    public var device: UInt64
    public var nlink: UInt32
    /// The bytes of a regular file that is not empty.
    public var content: ContentID?

    public init(
        id: Int64, mode: UInt32, uid: UInt32, gid: UInt32, size: Int64, mtime: Int64, mtimeNanoseconds: Int32,
        device: UInt64, nlink: UInt32, content: ContentID?
    ) {
        self.id = id
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.mtimeNanoseconds = mtimeNanoseconds
        self.device = device
        self.nlink = nlink
        self.content = content
    }
}

/// Answers the file system's requests from one connection with a read transaction that stays open.
///
/// Beginning a transaction costs more than a lookup, so it is kept. It is renewed before the next answer if the writer has
/// committed since. `Store.tidy` ends the transaction of an idle reader, so that the write-ahead log can be cut. Each thread
/// has its own reader: only `tidy` ever contends for its lock.
public final class IndexReader: Sendable {
    private let index: Index
    private let monitor: Monitor<State>

    private final class State {
        let connection: Connection
        var snapshot: UInt64 = 0
        var isReading = false
        let lookup: Statement
        let inode: Statement
        let target: Statement
        let children: Statement
        let names: Statement
        let xattr: Statement
        let xattrNames: Statement
        let layer: Statement
        let layerID: Statement
        let content: Statement

        init(path: String, cacheKibibytes: Int) throws {
            connection = try Connection(path: path, access: .readOnly)
            try connection.setCacheSize(kibibytes: cacheKibibytes)
            let columns = "i.id, i.mode, i.uid, i.gid, i.size, i.mtime, i.mtime_ns, i.device, i.nlink, i.content"
            lookup = try connection.prepare(
                "SELECT \(columns) FROM dirent d JOIN inode i ON i.id = d.inode WHERE d.parent = ? AND d.name = ?")
            inode = try connection.prepare("SELECT \(columns) FROM inode i WHERE i.id = ?")
            target = try connection.prepare("SELECT target FROM inode WHERE id = ?")
            children = try connection.prepare(
                """
                SELECT \(columns), d.name FROM dirent d JOIN inode i ON i.id = d.inode
                WHERE d.parent = ? AND d.name > ? ORDER BY d.name
                """)
            names = try connection.prepare("SELECT name FROM dirent WHERE parent = ? AND name > ? ORDER BY name")
            xattr = try connection.prepare("SELECT value FROM xattr WHERE inode = ? AND name = ?")
            xattrNames = try connection.prepare("SELECT name FROM xattr WHERE inode = ? ORDER BY name")
            layer = try connection.prepare(
                """
                SELECT first_inode, last_inode,
                       EXISTS (SELECT 1 FROM xattr WHERE inode BETWEEN first_inode AND last_inode)
                FROM layer WHERE ? BETWEEN first_inode AND last_inode LIMIT 1
                """)
            layerID = try connection.prepare(
                "SELECT id, last_inode FROM layer WHERE first_inode <= ? ORDER BY first_inode DESC LIMIT 1")
            content = try connection.prepare("SELECT \(Index.contentColumns) FROM content c WHERE c.id = ?")
        }

        func endRead() {
            guard isReading else { return }
            try? connection.execute("COMMIT")
            isReading = false
        }
    }

    /// Opens its own connection.
    ///
    /// - Parameter cacheKibibytes: the most that it keeps of the index's pages in its own memory.
    public init(_ index: Index, cacheKibibytes: Int = 4096) throws {
        self.index = index
        do {
            monitor = Monitor(try State(path: index.path, cacheKibibytes: cacheKibibytes))
        } catch let error as SQLiteError {
            throw StoreError(error, index: index.path)
        }
    }

    /// The inode of `name` in `parent`; nil if there is none. About 2 µs.
    public func lookup(parent: Int64, name: UnsafeRawBufferPointer) throws -> Inode? {
        try answer { state in
            try state.lookup.bind(1, parent).bind(2, blob: name).first(Self.inode)
        }
    }

    /// An inode by number. About 1 µs.
    public func inode(_ id: Int64) throws -> Inode? {
        try answer { state in try state.inode.bind(1, id).first(Self.inode) }
    }

    /// The layer that a file is of; nil for a directory that a view has of its own. About 2 µs.
    public func layerID(of inode: Int64) throws -> LayerID? {
        try answer { state in
            try state.layerID.bind(1, inode).first { $0.integer(1) >= inode ? LayerID($0.integer(0)) : nil } ?? nil
        }
    }

    /// A content by number. About 1 µs.
    public func content(_ id: ContentID) throws -> ContentRecord? {
        try answer { state in try state.content.bind(1, id.row).first { try Index.content($0) } }
    }

    /// The target of a symbolic link, for the duration of `body`; false if `id` is not one.
    public func target(_ id: Int64, _ body: (UnsafeRawBufferPointer) -> Void) throws -> Bool {
        try answer { state in
            try state.target.bind(1, id).first { row -> Bool in
                guard !row.isNull(0) else { return false }
                body(row.blob(0))
                return true
            } ?? false
        }
    }

    /// The entries of a directory in the order of their names' bytes, from the `offset`-th on, until `body` says false.
    ///
    /// The content of a directory never changes, so a position is a count and needs no state. To go on where any reader of this
    /// index stopped is a B-tree search. For another offset (seekdir, a process that took over), it counts from the nearest
    /// known place: 64 entries at most in a directory that was read before, else some 0.2 µs for each entry before it.
    public func entries(
        of directory: Int64, from offset: Int64, _ body: (Inode, UnsafeRawBufferPointer) -> Bool
    ) throws {
        try answer { state in
            var trail = Trail(at: index.positions.nearest(to: offset, in: directory))
            if trail.place.position < offset {
                let isThere = try Self.count(to: offset, in: directory, &trail, state.names)
                guard isThere else { return index.positions.keep(trail.passed, stop: nil, in: directory) }
            }
            let start = trail.place.position
            let statement = state.children.bind(1, directory).bind(2, blob: trail.place.name)
            defer { statement.reset() }
            while try statement.step() {
                let name = statement.blob(10)
                guard body(Self.inode(statement), name) else { break }
                trail.pass(name)
            }
            // At the end too: a reader makes one more request to learn that it is there.
            let stop = trail.place.position > start ? trail.place : nil
            index.positions.keep(trail.passed, stop: stop, in: directory)
        }
    }

    /// Goes on to a position by counting names; false if the directory ends before it.
    private static func count(
        to position: Int64, in directory: Int64, _ trail: inout Trail, _ statement: Statement
    ) throws -> Bool {
        statement.bind(1, directory).bind(2, blob: trail.place.name)
        defer { statement.reset() }
        while trail.place.position < position {
            guard try statement.step() else { return false }
            trail.pass(statement.blob(0))
        }
        return true
    }

    /// The way through a directory: the last entry that was passed, and those that are worth keeping.
    private struct Trail {
        var place: DirectoryPositions.Place
        var passed: [DirectoryPositions.Place] = []

        init(at place: DirectoryPositions.Place) { self.place = place }

        mutating func pass(_ name: UnsafeRawBufferPointer) {
            place.position += 1
            place.name.removeAll(keepingCapacity: true)
            place.name.append(contentsOf: name)
            if DirectoryPositions.isMark(place.position) { passed.append(place) }
        }
    }

    /// The value of an extended attribute, for the duration of `body`; false if there is none.
    public func xattr(_ inode: Int64, name: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) throws
        -> Bool
    {
        try answer { state in
            try state.xattr.bind(1, inode).bind(2, blob: name).first { row -> Bool in
                body(row.blob(0))
                return true
            } ?? false
        }
    }

    /// Calls `body` with the names of an inode's extended attributes.
    public func xattrNames(_ inode: Int64, _ body: (UnsafeRawBufferPointer) -> Void) throws {
        try answer { state in
            try state.xattrNames.bind(1, inode).forEach { body($0.blob(0)) }
        }
    }

    /// The inodes of the layer that lists this one, and whether any of them has an extended attribute; nil for a view's own
    /// directory, and for the root. Looks at each layer: some microseconds for a hundred.
    public func layer(of inode: Int64) throws -> (inodes: ClosedRange<Int64>, hasXattrs: Bool)? {
        try answer { state in
            try state.layer.bind(1, inode).first { row in
                (row.integer(0)...max(row.integer(0), row.integer(1)), row.integer(2) != 0)
            }
        }
    }

    /// Ends a read transaction that is older than the last commit, if the reader is idle now.
    public func endStaleRead() {
        monitor.withLock { state in
            if state.isReading, state.snapshot != index.version.load(ordering: .acquiring) { state.endRead() }
        }
    }

    private func answer<Result>(_ body: (State) throws -> Result) throws -> Result {
        do {
            return try monitor.withLock { state in
                let version = index.version.load(ordering: .acquiring)
                if state.isReading, state.snapshot != version { state.endRead() }
                if !state.isReading {
                    try state.connection.execute("BEGIN")
                    state.isReading = true
                    // The snapshot begins at the first SELECT and may be newer than this count, but never older.
                    state.snapshot = version
                }
                return try body(state)
            }
        } catch let error as SQLiteError {
            throw StoreError(error, index: index.path)
        }
    }

    private static func inode(_ row: Statement) -> Inode {
        Inode(
            id: row.integer(0), mode: UInt32(truncatingIfNeeded: row.integer(1)),
            uid: UInt32(truncatingIfNeeded: row.integer(2)), gid: UInt32(truncatingIfNeeded: row.integer(3)),
            size: row.integer(4), mtime: row.integer(5), mtimeNanoseconds: Int32(truncatingIfNeeded: row.integer(6)),
            device: UInt64(bitPattern: row.integer(7)), nlink: UInt32(truncatingIfNeeded: row.integer(8)),
            content: row.optionalInteger(9).map(ContentID.init))
    }
}
