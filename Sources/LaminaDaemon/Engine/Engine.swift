import FoundationEssentials
import Glibc
import LaminaDigest
import LaminaFUSE
import LaminaFilesystem
import LaminaFormats
import LaminaMerge
import LaminaOCI
import LaminaPodman
import LaminaSnapshotter
import LaminaStore
import LaminaSystem
public import Logging
import Synchronization

/// The store, the merge and the file system of one root, in one process.
///
/// All calls block: make them on separate threads, never on Swift's cooperative pool.
public final class Engine: Sendable {
    /// The version of this lamina.
    public static let version = "0.1.0"

    /// How long after a merge its layers are proven, in seconds: when waiting readers have their bytes.
    private static let provingDelay = 5.0

    /// How often opens are recorded, in seconds: a crash loses this much of them.
    private static let useInterval = 15

    /// The store's directory, absolute.
    public let root: String
    let store: Store
    let merge: MergeEngine
    let log: Logger
    let configuration: Configuration
    let startedAt = Date()
    let pullCounters = PullCounters()
    /// Sealed images, which the kernel shows without lamina.
    let seals: SealKeeper
    /// What podman sees; nil if nothing.
    let podman: PodmanKeeper?
    let usage = StoreUsage<CacheUsage>()
    let sealedBytes = StoreUsage<Int64>()
    /// How often a request to a registry was repeated.
    let retries = EventCounter()
    let takeover = Mutex<TakeoverTimes?>(nil)
    /// Asks the mount, to find out whether it answers.
    let prober = Monitor<Prober?>(nil)
    /// What came along with pulls by CRI; nil if nothing of it should be kept.
    let keptCredentials: KeptCredentials?
    private let registries: Registries
    private let spoolRoom = SpoolRoom()
    private let filesystem = Mutex<LayerFilesystem?>(nil)
    let snapshotter = Mutex<Snapshotter?>(nil)
    private let hasEnded = Atomic<Bool>(false)
    private let notifier = Mutex(Notifier(path: nil))
    /// Held for mounting and unmounting, one at a time.
    let mounting = Monitor(())
    /// Whether the log has said what keeps the server from ending.
    let holdersTold = Mutex(false)
    /// Deletes what an earlier process had begun to delete.
    let sweeping = Monitor<[Thread]>([])
    /// Whether this process has looked for files that the index does not know.
    let hasLookedForUnknown = Atomic<Bool>(false)

    /// Opens the store for writing and starts the merge's threads.
    ///
    /// - Throws: `StoreError.locked` if another process has the store.
    public init(root: String, configuration: Configuration, log: Logger) throws {
        self.root = root
        self.configuration = configuration
        self.log = log
        store = try Store(root: root)
        seals = SealKeeper(store: store, mode: configuration.seal.mode, log: log)
        do {
            podman = try configuration.imageStore(store, log: log).map { [store] in
                PodmanKeeper($0, store: store, log: log)
            }
        } catch {
            // What else this process does goes on.
            log.error("podman is shown nothing", metadata: ["error": "\(error)"])
            podman = nil
        }
        GzipInflater.standard = configuration.store.gzip == .zlib ? .zlib : GzipInflater.best
        var options = MergeEngine.Options()
        options.bufferSize = configuration.fuse.mergeBufferSize
        options.workerCount = configuration.fuse.mergeWorkerCount
        keptCredentials = configuration.keptCredentials(root: root, log: log)
        options.registries = configuration.registries(
            spoolDirectory: root, room: spoolRoom, kept: keptCredentials, log: log, retried: retries)
        registries = options.registries
        options.provingDelay = Self.provingDelay
        options.requiresDiffID = configuration.store.require == .diffID
        options.keepsTarSplits = podman != nil
        options.refusesUnproven = configuration.store.verification == .strict
        options.isolates = { [configuration] in configuration.isolates($0) }
        options.maxBytes = configuration.store.maxBytes > 0 ? configuration.store.maxBytes : nil
        options.formatLimits.tocBytes = configuration.store.maxTOCBytes
        options.formatLimits.entries = configuration.store.maxLayerEntries
        options.imageEntries = configuration.store.maxImageEntries
        merge = try MergeEngine(store: store, options: options)
        spoolRoom.set(merge)
        let limiter = LogLimiter()
        merge.setErrorReporter { error in
            limiter.report("merge", error) { more in
                log.error("the merge met an error", metadata: more.merging(["error": "\(error)"]) { $1 })
            }
        }
        if store.openReport.hasUnknownFiles {
            log.warning(
                "the index is new and there are files that it does not know; 'lamina check --repair' takes them in, then pulls fetch none of them"
            )
        }
        if store.openReport.rechecked > 0 {
            log.warning(
                "the machine restarted before all of the store was on disk; what was in doubt was checked",
                metadata: [
                    "checked": "\(store.openReport.rechecked)", "to fetch again": "\(store.openReport.lost)",
                ])
        }
        try healSweep()
    }

    // MARK: Pulling

    /// Looks for the credentials of an image's registry in this file first, as long as this engine lives.
    public func use(credentialsFile: String, for reference: String) throws {
        try registries.use(credentialsFile: credentialsFile, for: try ImageReference(parsing: reference))
    }

    /// Puts an image into the store.
    ///
    /// - Parameters:
    ///   - lazy: stops when the image can be mounted; its files come when they are opened.
    ///   - pin: whether its files stay, however full the store is; nil changes nothing.
    ///   - progress: called for each step and a few times a second while merging, on the calling thread.
    ///   - shouldStop: asked often; true ends the pull with `MergeError.interrupted`. What landed stays.
    public func pull(
        _ reference: String, platform: String?, plainHTTP: Bool, lazy: Bool, pin: Bool? = nil,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> PullResult {
        let parsed = try ImageReference(parsing: reference)
        let name = parsed.description
        let pull = ImagePull(merge, roomCheck: roomCheck(name), shouldStop: shouldStop) {
            progress(PullProgress($0, reference: name))
        }
        let image = try counted {
            let image = try pull.index(
                parsed, platform: try platform.map(Platform.init(parsing:)), plainHTTP: plainHTTP)
            filesystem.withLock { $0 }?.viewsChanged()
            if let pin { try store.setPinned(pin, name, image: image.id) }
            podman?.update()
            if !lazy {
                try pull.merge(image)
                try proveForPodman(image, shouldStop: shouldStop)
                podman?.update()
            }
            return image
        }
        let totals = try store.index.totals(of: image.id)
        return PullResult(
            reference: name, manifestDigest: image.manifestDigest.description, platform: image.platform,
            layers: image.layers.count, bytes: totals.bytes, landedBytes: totals.landedBytes,
            fetchedBytes: pull.current.fetchedBytes, complete: totals.mergedContents == totals.contents,
            podman: podmanRemark(name))
    }

    /// Counts a pull, and failures of registries before there were bytes to fetch.
    func counted<Value>(_ pull: () throws -> Value) throws -> Value {
        try pullCounters.count(pull) { if $0 is OCIError { merge.countFailure($0) } }
    }

    // MARK: The file system

    /// Mounts the file system at `<root>/fs`, and the images that were mounted when the last server ended; or goes on with the
    /// mounts of a dead server.
    func startFilesystem(
        _ notifier: Notifier = Notifier(path: nil), _ held: HeldDescriptors = .none
    ) throws {
        self.notifier.withLock { $0 = notifier }
        let takenOver = try takeOver(held)
        let filesystem = try takenOver ?? mountAfresh(notifier, held)
        self.filesystem.withLock { $0 = filesystem }
        // It is not ready, but callers that wait for the mounts need not wait any longer.
        notifier.alive()
        _ = try Thread("tidy") { [weak self] in
            var seconds = 0
            while let self, !self.hasEnded.load(ordering: .relaxed) {
                filesystem.tidy()
                seconds += 1
                if seconds.isMultiple(of: Self.useInterval) { self.recordUses() }
                sleep(1)
            }
        }
        // Before the mounts, because some are of sealed images.
        try seals.start()
        if takenOver != nil { try adoptMounts() } else { try restoreMounts() }
        try podman?.start()
    }

    func makeFilesystem(_ record: SessionRecord?) throws -> LayerFilesystem {
        var options = FilesystemOptions()
        options.passthrough = configuration.fuse.passthrough
        options.lazyThreshold = configuration.fuse.lazyThreshold
        options.busyWait = configuration.fuse.busyWait
        options.attributeTime = Self.cacheTime(configuration.fuse.attributeTimeout)
        options.entryTime = Self.cacheTime(configuration.fuse.entryTimeout)
        let log = log
        return try LayerFilesystem(store: store, engine: merge, options: options, record: record) {
            log.warning("\($0)")
        }
    }

    private static func cacheTime(_ seconds: Int) -> FUSECacheTime {
        seconds > 0 ? FUSECacheTime(seconds: min(UInt64(seconds), FUSECacheTime.unlimited.seconds)) : .unlimited
    }

    var isServing: Bool { filesystem.withLock { $0?.isRunning ?? false } }

    public var requestProgress: UInt64 { servingFilesystem?.progress ?? 0 }

    /// The file system, as long as it answers.
    var servingFilesystem: LayerFilesystem? { filesystem.withLock { $0 } }

    var isEnding: Bool { hasEnded.load(ordering: .relaxed) }

    /// Records what was opened, and in which order.
    func recordUses() {
        do { try store.recordUses() } catch {
            log.warning("what was opened is not recorded", metadata: ["error": "\(error)"])
        }
    }

    func viewsChanged() { filesystem.withLock { $0 }?.viewsChanged() }

    /// Has the kernel read again what it keeps of these contents.
    func contentsChanged(_ contents: Set<ContentID>) { filesystem.withLock { $0 }?.contentsChanged(contents) }

    /// What answers containerd; it ends with the engine. Needs the file system.
    func makeSnapshotter() throws -> Snapshotter {
        // containerd writes the paths into mount options, and splits them at these.
        guard !root.utf8.contains(where: { $0 == UInt8(ascii: ",") || $0 == UInt8(ascii: ":") }) else {
            throw DaemonError(
                .configuration,
                "the store \(root) has a comma or a colon in its path, which containerd cannot mount from")
        }
        var options = Snapshotter.Options()
        options.fetching = LayerFetching(
            first: configuration.snapshotter.prefetches, whole: configuration.snapshotter.mergesInBackground)
        options.speaksPlainHTTP = { [configuration] in configuration.speaksPlainHTTP($0) }
        options.requiresProof = { [configuration] in configuration.requiresProof($0) }
        options.streamsPlain = { [configuration] in configuration.streamsPlainLayers(of: $1, in: $0) }
        options.vouchForLabels = labelWitness()
        options.viewsChanged = { [weak self] in self?.viewsChanged() }
        if seals.isAutomatic { options.sealing = sealing }
        options.collectGarbage = { [weak self] in try self?.collectGarbageOften() }
        let snapshotter = try Snapshotter(store: store, merge: merge, options: options, log: log)
        self.snapshotter.withLock { $0 = snapshotter }
        return snapshotter
    }

    // MARK: Facts

    public func status() -> ServerStatus {
        let filesystem = filesystem.withLock { $0 }
        return ServerStatus(
            pid: getpid(), version: Self.version, root: root,
            passthrough: filesystem != nil && filesystem?.passthroughRefusal == nil,
            passthroughReason: filesystem?.passthroughRefusal, opens: filesystem?.statistics ?? FilesystemCounters(),
            fetchedBytes: merge.totalFetchedBytes, inFlightBytes: Int64(merge.inFlightBytes),
            startedAt: startedAt.formatted(.iso8601), merge: merge.load, seal: seals.status(),
            podman: podman?.status(), streams: merge.streams)
    }

    // MARK: The end

    /// Ends merges, unmounts what this engine mounted, and closes the store. Nothing that landed is lost. A second call does
    /// nothing.
    ///
    /// - Parameter unmount: whether images and file system are unmounted; the images' records stay, so that the next server
    ///   mounts them again. Otherwise the file system goes on for the next process, but this process still answers for it: end
    ///   the process.
    public func shutdown(unmount: Bool) {
        guard !hasEnded.exchange(true, ordering: .sequentiallyConsistent) else { return }
        snapshotter.withLock { $0.take() }?.stop()
        seals.stop()
        podman?.stop()
        // With the mounts, because they say which image the files belonged to.
        recordUses()
        for thread in sweeping.withLock({ threads in
            defer { threads = [] }
            return threads
        }) { thread.join() }
        let filesystem = filesystem.withLock { unmount ? $0.take() : $0 }
        if unmount { unmountAll() } else { filesystem?.leave() }
        // The merge first: readers that wait for a chunk are told, and no request is left when the connection ends.
        merge.stop()
        spoolRoom.set(nil)
        if unmount, let filesystem { end(filesystem, notifier.withLock { $0 }) }
        if let filesystem {
            filesystem.tidy(settling: true)
        } else {
            do { try store.tidy([], settling: true) } catch {
                log.warning("the index's log stays as it is", metadata: ["error": "\(error)"])
            }
        }
    }
}

extension PullProgress {
    init(_ progress: ImagePull.Progress, reference: String) {
        self.init(
            stage: Stage(rawValue: progress.stage.rawValue) ?? .merging, reference: reference, layers: progress.layers,
            indexedLayers: progress.indexedLayers, bytes: progress.bytes, landedBytes: progress.landedBytes,
            fetchedBytes: progress.fetchedBytes, current: progress.current, neededBytes: progress.room?.missing,
            freeBytes: progress.room?.free)
    }
}
