import Glibc
public import LaminaFUSE
public import LaminaMerge
public import LaminaStore
public import LaminaSystem
import Synchronization

/// The one mount of a store: `<root>/fs/<view>/…`. Answers the kernel from the index, and decides how each open is served.
///
/// Node IDs are rows of the index, so there is no table of inodes and nothing to forget.
public final class LayerFilesystem: Sendable {
    let store: Store
    let engine: MergeEngine
    let options: FilesystemOptions
    /// One for each FUSE thread, and one more for the threads of the merge that answer parked opens.
    let readers: [IndexReader]
    let opens: OpenTable
    let files: OpenFileCache
    /// What FUSE threads leave to other threads, because it may wait. `later` does what is short. The other one does what takes
    /// seconds (a file is hashed); each such errand has its own thread, or waits for one.
    let later = Errands("errand", limit: 2)
    let examinations = Errands("examine", limit: 4)
    let directories = DirectoryAhead()
    let plainLayers = PlainLayers()
    let counters = Counters()
    /// Gets what an operator should know.
    let log: @Sendable (String) -> Void
    let session = Mutex<FUSESession?>(nil)
    /// What the next process must know of this one's opens.
    public let record: SessionRecord
    /// Whether another process will answer what cannot be answered any more, and the replies that are left to it.
    let isLeaving = Atomic<Bool>(false)
    let leftReplies = Mutex<[any Sendable]>([])
    let isStopping = Atomic<Bool>(false)
    /// Why passthrough is not used, once it is known.
    private let refusal = Mutex<String?>(nil)

    final class Counters: Sendable {
        let passthrough = Atomic<UInt64>(0)
        let cached = Atomic<UInt64>(0)
        let waited = Atomic<UInt64>(0)
        let reads = Atomic<UInt64>(0)
        let readBytes = Atomic<UInt64>(0)
        let lookups = Atomic<UInt64>(0)
    }

    static let threadCount = FUSEConfiguration().threadCount
    /// What all readers together keep of the index, in KiB: one budget, for any number of cores. The upper levels of its trees,
    /// which each look-up goes through, are some hundred KiB for a million files; the kernel's cache has the rest.
    private static let cacheKibibytes = 12 << 10

    /// - Parameter record: the record of a session that another process began; without it, a new one.
    public init(
        store: Store, engine: MergeEngine, options: FilesystemOptions, record: SessionRecord? = nil,
        log: @escaping @Sendable (String) -> Void
    ) throws {
        self.store = store
        self.engine = engine
        self.options = options
        self.log = log
        readers = try (0...Self.threadCount).map { _ in
            try IndexReader(store.index, cacheKibibytes: Self.cacheKibibytes / (Self.threadCount + 1))
        }
        files = OpenFileCache(files: store.files)
        self.record = try record ?? SessionRecord()
        opens = OpenTable(record: self.record, later: later)
        // Without a reference to this object. A weak one would make every request slower, because a request counts references
        // to it.
        engine.setHolders(.init { [store, files, opens] in Self.release($0, store, files, opens) })
    }

    /// Where the file system is mounted.
    public var directory: String { store.root + "/fs" }

    /// Unmounts and ends. Files that are still open stop working.
    public func stop() throws {
        guard let session = session.withLock({ $0.take() }) else { return }
        isStopping.store(true, ordering: .relaxed)
        try session.stop()
        examinations.finish()
        later.finish()
        opens.removeAll()
    }

    /// Whether the mount is still there.
    public var isRunning: Bool { session.withLock { $0?.isRunning ?? false } }

    /// The number of the connection to the kernel, and what leads to it; nil before the session begins and after it was
    /// stopped.
    public var connection: UInt32? { session.withLock { $0?.mount?.minor } }
    public var device: File? { session.withLock { $0?.device } }

    /// Waits until the kernel has ended the mount; false if it did not in time.
    public func waitForEnd(seconds: Double) -> Bool { session.withLock { $0 }?.waitForEnd(seconds: seconds) ?? true }

    /// How many requests were finished since the mount began; see `FUSESession.progress`.
    public var progress: UInt64 { session.withLock { $0?.progress ?? 0 } }

    /// Why opens are not given to the kernel; nil if they are.
    public var passthroughRefusal: String? { refusal.withLock { $0 } }

    public var statistics: FilesystemCounters {
        var result = FilesystemCounters()
        result.passthrough = counters.passthrough.load(ordering: .relaxed)
        result.cached = counters.cached.load(ordering: .relaxed)
        result.waited = counters.waited.load(ordering: .relaxed)
        result.reads = counters.reads.load(ordering: .relaxed)
        result.readBytes = counters.readBytes.load(ordering: .relaxed)
        result.lookups = counters.lookups.load(ordering: .relaxed)
        result.backingFiles = opens.backingCount
        return result
    }

    /// Makes the root's listing show views that were made since it was read.
    public func viewsChanged() {
        guard let session = session.withLock({ $0 }) else { return }
        do { try session.invalidateContents(node: 1) } catch { log("new layers may not be listed: \(error)") }
    }

    /// Has the kernel forget what it read of contents whose files have other bytes now: for cached opens, and what it kept of
    /// earlier ones.
    public func contentsChanged(_ contents: Set<ContentID>) {
        guard let session = session.withLock({ $0 }) else { return }
        do {
            for inode in try store.index.inodes(of: contents) {
                try session.invalidateContents(node: UInt64(bitPattern: inode))
            }
        } catch {
            log("the kernel may show old bytes of files that were put right: \(error)")
        }
    }

    /// Regular housekeeping: idle read transactions end, so that the write-ahead log can be cut.
    ///
    /// - Parameter settling: cuts the log even if it is short, as a process that ends should do.
    public func tidy(settling: Bool = false) {
        do { try store.tidy(readers, settling: settling) } catch { log("cannot tidy the index: \(error)") }
    }

    func reader(_ thread: FUSEThread) -> IndexReader { readers[thread.index] }

    /// For threads that do not belong to the session.
    var spareReader: IndexReader { readers[readers.count - 1] }

    /// Gives a file to the kernel; nil if the session is gone or the kernel has no passthrough.
    func register(_ file: File) throws(SystemError) -> BackingID? {
        guard refusal.withLock({ $0 == nil }), let session = session.withLock({ $0 }) else { return nil }
        do throws(SystemError) {
            return try session.registerBacking(file.descriptor)
        } catch {
            switch error.code {
            case EPERM, ELOOP, ENOTTY, EINVAL, EOPNOTSUPP:
                refusePassthrough(Self.explanation(of: error))
                return nil
            default: throw error
            }
        }
    }

    func refusePassthrough(_ reason: String) {
        let isNew = refusal.withLock { refusal in
            defer { refusal = refusal ?? reason }
            return refusal == nil
        }
        if isNew { log("passthrough is off, reads go through lamina: \(reason)") }
    }

    private static func explanation(of error: SystemError) -> String {
        switch error.code {
        case EPERM: "the process lacks CAP_SYS_ADMIN"
        case ELOOP: "the store is on a stacked file system (overlayfs or FUSE); put it on a disk file system"
        default: error.description
        }
    }
}
