import Glibc
import LaminaDigest
public import LaminaFormats
public import LaminaOCI
public import LaminaStore
import LaminaSystem
import Synchronization

/// Makes contents whole, both for whole images and for single reads. It is the front of the merge, and owns its threads.
///
/// - `MergePlan`, behind `PlanBoard`, decides what is done next.
/// - Fetchers (threads) do it: they read ranges of blobs, and have the `Preparer` look for what the store already has.
/// - Decoders (a thread for each core, and one more) decompress, verify and write to the backing files.
/// - The recorder (one thread) writes what has landed into the index, in batches.
/// - The `Prover` and the `SpaceKeeper` have a thread each; the `Healer` works on its caller's thread.
public final class MergeEngine: Sendable {
    public struct Options: Sendable {
        /// Bytes in flight of the whole process, compressed and decompressed; see `inFlightLimit`.
        public var bufferSize = 419_430_400
        /// The most fetches at once; one server has at most half of them. More than ``fetcherLimit`` bring nothing.
        public var workerCount = 10
        /// How to reach the registries that layers come from.
        public var registries = Registries()
        /// Threads that decode. One more than there are cores, because one or the other waits for the disk that it writes to;
        /// at most as many as for 32 cores, because what is in flight does not keep more of them busy.
        public var decoderCount = min(max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))), 32) + 1
        /// How many seconds after a merge layers are proven; nil: only by a pull.
        public var provingDelay: Double?
        /// How many seconds layers wait for other merges to end at most, before they are proven beside them.
        var provingPatience = 30.0
        /// Whether a layer is indexed only when its diff ID is known: if necessary, its whole blob is read for that.
        public var requiresDiffID = false
        /// Whether the files of a layer from this place (a source's location) are its repository's alone.
        public var isolates: @Sendable (_ location: String) -> Bool = { _ in false }
        /// Whether the tar-split of each tar that is hashed is kept, for those who want the tar again.
        public var keepsTarSplits = false
        /// Whether a layer is refused whose table of contents has no digests of chunks.
        public var refusesUnproven = false
        /// What the store may take, in bytes; nil: no limit.
        public var maxBytes: Int64?
        /// How much a layer's table of contents may contain.
        public var formatLimits = FormatLimits()
        /// How many entries all layers of an image may bring together.
        public var imageEntries = 1_500_000

        public init() {}
    }

    /// More bytes in flight bring little: each decoder has a chunk, and one more is on its way. What is in flight when the
    /// process is killed must be fetched again.
    static let inFlightLimit = 32 << 20
    /// Half of them fill any connection, and each costs a thread.
    static let fetcherLimit = 12

    public let store: Store
    let options: Options
    let context: MergeContext
    let recorder: Recorder
    let prover: Prover
    let healer: Healer
    /// The plain layers that are being streamed.
    let streaming: RunningStreams
    /// For the tables of contents that are being read.
    var tocMemory: TOCMemory { context.tocMemory }
    let decodeQueue = Monitor(DecodeQueue())
    private let fetcher: Fetcher
    private let decoder: Decoder
    private let threads = Monitor(Threads())
    private let wiring = Wiring()

    private struct Threads {
        var fetchers: [Thread] = []
        var decoders: [Thread] = []
        var recorders: [Thread] = []
    }

    /// Starts the threads.
    public init(store: Store, options: Options) throws {
        self.store = store
        self.options = options
        streaming = RunningStreams(memory: min(options.bufferSize, Self.inFlightLimit))
        let (paces, counters, reporter) = (ConnectionPaces(), MergeCounters(), ErrorReporter())
        let pool = BufferPool(limit: min(max(options.bufferSize, 1), Self.inFlightLimit))
        let recorder = Recorder(
            store: store, reporter: reporter, onRecorded: { [wiring] in wiring.recorded($0, $1) },
            onRefused: { pool.refuse($0) })
        let board = PlanBoard(fetchers: min(options.workerCount, Self.fetcherLimit), paces: paces) { landed, landing in
            pool.landed(landed.bytes)
            recorder.add(landing.adding(landed), bytes: landed.bytes)
            counters.landedBytes.add(UInt64(landed.bytes), ordering: .relaxed)
            for target in landed.merged {
                target.close()
                counters.durations.record(monotonicSeconds() - target.startedAt)
            }
        }
        context = MergeContext(
            store: store, options: options, board: board,
            sources: SourceCache(index: store.index, registries: options.registries), paces: paces, pool: pool,
            space: options.maxBytes.map { SpaceKeeper(limit: $0) }, counters: counters, reporter: reporter,
            stop: StopFlag(), holders: ContentHolders(),
            tocMemory: TOCMemory(options.formatLimits))
        self.recorder = recorder
        prover = Prover(context)
        healer = Healer(context, prover: prover, recorder: recorder)
        fetcher = Fetcher(context, preparer: Preparer(context, prover: prover), decodeQueue: decodeQueue)
        decoder = Decoder(context, queue: decodeQueue)
        wiring.set { [prover] landing, bytes in
            let isIdle = board.recorded(landing)
            if isIdle || !landing.merged.isEmpty { prover.wake() }
            pool.recorded(bytes)
        }
        try start()
    }

    private func start() throws {
        do {
            try threads.withLock { threads in
                for number in 0..<max(1, min(options.workerCount, Self.fetcherLimit)) {
                    threads.fetchers.append(try Thread("fetch-\(number)") { self.fetcher.loop() })
                }
                for number in 0..<max(1, options.decoderCount) {
                    threads.decoders.append(try Thread("decode-\(number)") { self.decoder.loop() })
                }
                threads.recorders.append(try Thread("record") { self.recorder.loop() })
                threads.recorders.append(try Thread("sync") { self.recorder.syncLoop(onInterval: self.rest) })
                if let space { threads.recorders.append(try Thread("space") { space.loop(self) }) }
                if let delay = options.provingDelay {
                    let patience = options.provingPatience
                    threads.recorders.append(
                        try Thread("prove") { self.prover.loop(delay: delay, patience: patience) })
                }
            }
        } catch {
            stop()
            throw error
        }
    }

    var sources: SourceCache { context.sources }
    /// Keeps the store below its limit, if it has one.
    var space: SpaceKeeper? { context.space }

    // MARK: Asking

    /// Merges a whole content; for files small enough to wait for.
    ///
    /// - Parameter layer: that the file is of: its source is asked, and no source of another repository's images.
    @discardableResult
    public func whole(
        _ content: ContentID, of layer: LayerID? = nil, _ completion: @escaping MergeCompletion
    ) -> MergeTicket {
        context.board.request(
            content, of: layer, origin: origin(layer), range: nil, startsBackground: false, completion)
    }

    private func origin(_ layer: LayerID?) -> Origin { layer.map { context.sources.origin(of: $0) } ?? .any }

    /// Merges the chunks that hold a range of the file, and goes on with the rest behind it.
    ///
    /// - Parameters:
    ///   - layer: that the file is of: its source is asked, and no source of another repository's images.
    ///   - take: called in the place of `completion` where the range is of one chunk that was fetched for it: with its bytes,
    ///     verified. They are gone when it returns.
    @discardableResult
    public func range(
        _ range: Range<Int64>, of content: ContentID, in layer: LayerID? = nil,
        take: (@Sendable (UnsafeRawBufferPointer) -> Void)? = nil, _ completion: @escaping MergeCompletion
    ) -> MergeTicket {
        context.board.request(
            content, of: layer, origin: origin(layer), range: range, startsBackground: true, take: take, completion)
    }

    /// Merges a content while nobody waits for it.
    public func background(_ content: ContentID, of layer: LayerID? = nil) {
        _ = context.board.request(
            content, of: layer, origin: origin(layer), range: 0..<0, startsBackground: true
        ) { [context] result in
            if case .failure(let error) = result, error.code != .interrupted { context.reporter.report(error) }
        }
    }

    /// Withdraws a request; the merge goes on for the others.
    ///
    /// - Returns: whether the completion will not be called any more.
    public func leave(_ ticket: MergeTicket) -> Bool { context.board.leave(ticket) }

    /// What the engine knows of a content's bytes, which may be newer than what the index says. It is asked at each open, and
    /// notes from that how far readers are.
    public enum Knowledge: Sendable {
        /// It is not being merged: the index is right.
        case none
        case merging
        case merged
    }

    public func knowledge(of content: ContentID) -> Knowledge { context.board.opened(content) }

    /// The same for a thread that may not wait: nil while another thread has the plan.
    public func knowledgeNow(of content: ContentID) -> Knowledge? { context.board.openedNow(content) }

    /// Whether no thread has the plan now: then asking something of it does not wait.
    public var isPlanFree: Bool { context.board.isFree }

    /// Whether a range of a content that is being merged has landed.
    public func hasLanded(_ range: Range<Int64>, of content: ContentID) -> Bool {
        context.board.hasLanded(range, of: content)
    }

    /// Compressed bytes fetched since the start.
    public var totalFetchedBytes: UInt64 { context.counters.fetchedBytes.load(ordering: .relaxed) }

    /// Bytes in flight now.
    public var inFlightBytes: Int { context.pool.used }

    /// What is running now, and the maximum since the start.
    public struct Load: Sendable, Codable, Equatable {
        /// Chunk jobs: ranges of blobs that are being fetched.
        public var jobs = 0
        public var peakJobs = 0
        /// Compressed and decompressed bytes between source and store; `Options.bufferSize` bounds them, except for a single
        /// chunk that is larger.
        public var bytes = 0
        public var peakBytes = 0

        public init() {}
    }

    public var load: Load {
        var load = Load()
        (load.jobs, load.peakJobs) = fetcher.load
        (load.bytes, load.peakBytes) = context.pool.usage
        return load
    }

    /// Sets what is asked before a content is given up.
    public func setHolders(_ holders: Holders?) { context.holders.set(holders) }

    /// Sets what gets errors that no caller waits for.
    public func setErrorReporter(_ report: @escaping @Sendable (any Error) -> Void) { context.reporter.set(report) }

    // MARK: Putting right

    /// Examines a content once more, while no merge of it runs; nil if one runs.
    ///
    /// Without that, a content that is merged or given up during the examination may look damaged.
    public func confirm(_ found: Examination, shouldStop: () -> Bool) throws -> Examination? {
        try healer.confirm(found, shouldStop: shouldStop)
    }

    /// Heals a content: takes back and fetches what is damaged, and nothing else.
    ///
    /// - Throws: `MergeError`, `StoreError`, `SystemError`; what could not be fetched stays taken back, and is fetched when a
    ///   reader asks for it.
    public func heal(_ damaged: Examination, shouldStop: () -> Bool) throws -> Healing {
        try healer.heal(damaged, shouldStop: shouldStop)
    }

    /// Runs `body` while no merge of a content runs; requests for the content wait.
    ///
    /// - Returns: nil if a merge of it is running; `body` is then not run.
    public func exclusively<Result>(_ content: ContentID, _ body: () throws -> Result) rethrows -> Result? {
        try context.board.exclusively(content, body)
    }

    // MARK: Ending

    /// Stops fetching, lets the decoders finish what they have, records all that has landed and makes it durable.
    ///
    /// All waiters get an error. Nothing that landed is lost.
    public func stop() {
        context.stop.set()
        context.board.stop()
        space?.stop()
        context.pool.close()
        // With the lock held: a second caller waits for the end too.
        threads.withLock { threads in
            for thread in threads.fetchers { thread.join() }
            // Only now, so that what a fetcher delivered last is still decoded.
            decodeQueue.withLock(notify: true) { $0.isStopping = true }
            for thread in threads.decoders { thread.join() }
            recorder.stop()
            prover.stop()
            for thread in threads.recorders { thread.join() }
            threads = Threads()
        }
        // Waiters whose content a fetcher was preparing when the others were told.
        context.board.stop()
        do {
            try recorder.flush()
            try store.recordUses()
            try store.makeDurable()
        } catch {
            recorder.report(error)
        }
        context.board.forgetAll()
        wiring.clear()
        do { try store.settleGivenUp() } catch { recorder.report(error) }
    }

    /// Gives the buffers back when nothing was merged for a while; if it were sooner, each pause of a reader would cost their
    /// pages again.
    private func rest() {
        do { try store.settleGivenUp() } catch { recorder.report(error) }
        if context.board.isIdle { context.pool.trim() }
    }
}

/// Ties the recorder to the board, which is made after it.
private final class Wiring: Sendable {
    private let onRecorded = Mutex<(@Sendable (Landing, Int) -> Void)?>(nil)

    func set(_ onRecorded: @escaping @Sendable (Landing, Int) -> Void) {
        self.onRecorded.withLock { $0 = onRecorded }
    }

    /// Breaks the reference cycle, when the recorder has ended.
    func clear() { onRecorded.withLock { $0 = nil } }

    func recorded(_ landing: Landing, _ bytes: Int) { onRecorded.withLock { $0 }?(landing, bytes) }
}

extension Landing {
    /// Adds what the plan says has landed.
    fileprivate func adding(_ landed: MergePlan.Landed) -> Landing {
        var landing = self
        landing.chunks += landed.chunks
        for target in landed.merged {
            landing.merged.append((target.record.id, target.chunkCount == 1 ? .proven : .claimed))
        }
        return landing
    }
}

extension MergeError {
    /// What ends because its caller, or the whole merge, stops.
    public static let stopped = MergeError(.interrupted, "the merge was stopped")
}
