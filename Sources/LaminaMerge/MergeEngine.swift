import Glibc
import LaminaDigest
public import LaminaFormats
public import LaminaOCI
public import LaminaStore
import LaminaSystem
import Synchronization

/// Makes contents whole, for whole images and for single reads alike: the front of the merge, and the owner of its threads.
///
/// - `MergePlan`, behind `PlanBoard`, decides what is done next.
/// - Fetchers (threads) do that: they read ranges of blobs, and have the `Preparer` look for what the store has already.
/// - Decoders (a thread for each core, and one more) decompress, verify and write to the backing files.
/// - The recorder (one thread) writes what has landed into the index, in batches.
/// - The `Prover` and the `SpaceKeeper` have a thread each; the `Healer` works for those who call it.
public final class MergeEngine: Sendable {
    public struct Options: Sendable {
        /// Bytes in flight of the whole process, compressed and decompressed; see `inFlightLimit`.
        public var bufferSize = 419_430_400
        /// The most fetches at once, of which one server has half at most; more than ``fetcherLimit`` bring nothing.
        public var workerCount = 10
        /// How the registries are reached that layers come from.
        public var registries = Registries()
        /// Threads that decode: one more than there are cores, as one or the other waits for the disk that it writes to; no more
        /// than 32 cores' worth, as what is in flight does not keep more of them busy.
        public var decoderCount = min(max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))), 32) + 1
        /// Seconds after a merge that layers are proven; nil: only what a pull proves.
        public var provingDelay: Double?
        /// Whether a layer is only indexed once its diff ID is known: its whole blob is read for it, if need be.
        public var requiresDiffID = false
        /// Whether the files of a layer from this place (a source's location) are its repository's alone.
        public var isolates: @Sendable (_ location: String) -> Bool = { _ in false }
        /// Whether a layer is refused whose table of contents has no digests of chunks.
        public var refusesUnproven = false
        /// What the store may take, in bytes; nil: as much as there is.
        public var maxBytes: Int64?
        /// How much of anything a layer's table of contents may bring.
        public var formatLimits = FormatLimits()
        /// How many entries all layers of an image may bring together.
        public var imageEntries = 1_500_000

        public init() {}
    }

    /// More bytes in flight than this bring little: each decoder has a chunk, and one more is on its way. What is in flight when
    /// the process is killed has to be fetched again.
    static let inFlightLimit = 32 << 20
    /// Half of them fill any connection, and each costs a thread.
    static let fetcherLimit = 12

    public let store: Store
    let options: Options
    let context: MergeContext
    let recorder: Recorder
    let prover: Prover
    let healer: Healer
    /// The layers that are being streamed.
    let streaming = Monitor<Set<Digest>>([])
    /// For the tables of contents that are being read.
    let tocMemory: TOCMemory
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
        tocMemory = TOCMemory(limit: options.formatLimits.tocBytes)
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
            stop: StopFlag(), holders: ContentHolders())
        self.recorder = recorder
        prover = Prover(context)
        healer = Healer(context, prover: prover, recorder: recorder)
        fetcher = Fetcher(context, preparer: Preparer(context, prover: prover), decodeQueue: decodeQueue)
        decoder = Decoder(context, queue: decodeQueue)
        wiring.set { [prover] landing, bytes in
            if board.recorded(landing) { prover.wake() }
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
                    threads.recorders.append(try Thread("prove") { self.prover.loop(delay: delay) })
                }
            }
        } catch {
            stop()
            throw error
        }
    }

    var sources: SourceCache { context.sources }
    /// Keeps the store below its limit, where it has one.
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

    /// Leaves a request; the merge goes on for the others.
    ///
    /// - Returns: whether the completion will not be called any more.
    public func leave(_ ticket: MergeTicket) -> Bool { context.board.leave(ticket) }

    /// What the engine knows of a content's bytes, which may be newer than what the index says. Asked at each open, it also
    /// says how far readers are.
    public enum Knowledge: Sendable {
        /// Nobody is merging it: the index is right.
        case none
        case merging
        case merged
    }

    public func knowledge(of content: ContentID) -> Knowledge { context.board.opened(content) }

    /// The same for a thread that may wait for nobody: nil while somebody has the plan.
    public func knowledgeNow(of content: ContentID) -> Knowledge? { context.board.openedNow(content) }

    /// Whether nobody has the plan just now: then asking something of it does not wait.
    public var isPlanFree: Bool { context.board.isFree }

    /// Whether a range of a content that is being merged has landed.
    public func hasLanded(_ range: Range<Int64>, of content: ContentID) -> Bool {
        context.board.hasLanded(range, of: content)
    }

    /// Compressed bytes fetched since the start.
    public var totalFetchedBytes: UInt64 { context.counters.fetchedBytes.load(ordering: .relaxed) }

    /// Bytes in flight now.
    public var inFlightBytes: Int { context.pool.used }

    /// What is at work, and the most that ever was.
    public struct Load: Sendable, Codable, Equatable {
        /// Chunk jobs: ranges of blobs that are being fetched.
        public var jobs = 0
        public var peakJobs = 0
        /// Compressed and decompressed bytes between source and store; `Options.bufferSize` bounds them, but for a single chunk
        /// that is larger.
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

    /// Says who is to be asked before a content is given up.
    public func setHolders(_ holders: Holders?) { context.holders.set(holders) }

    /// Tells of errors that nobody waits for.
    public func setErrorReporter(_ report: @escaping @Sendable (any Error) -> Void) { context.reporter.set(report) }

    // MARK: Putting right

    /// Looks at a content once more, while nobody merges it; nil while somebody does.
    ///
    /// Without that, what is merged or given up in the middle of a look may pass for damage.
    public func confirm(_ found: Examination, shouldStop: () -> Bool) throws -> Examination? {
        try healer.confirm(found, shouldStop: shouldStop)
    }

    /// Puts a content right: what is damaged is taken back and fetched, nothing else is.
    ///
    /// - Throws: `MergeError`, `StoreError`, `SystemError`; what could not be had stays taken back, and is fetched when somebody
    ///   asks for it.
    public func heal(_ damaged: Examination, shouldStop: () -> Bool) throws -> Healing {
        try healer.heal(damaged, shouldStop: shouldStop)
    }

    /// Runs `body` while nobody merges a content, and those who ask for it wait.
    ///
    /// - Returns: nil, with `body` not run, while somebody merges it.
    public func exclusively<Result>(_ content: ContentID, _ body: () throws -> Result) rethrows -> Result? {
        try context.board.exclusively(content, body)
    }

    // MARK: Ending

    /// Stops fetching, lets the decoders finish what they have, records all that has landed and makes it durable.
    ///
    /// Whoever waits is answered with an error. Nothing that landed is lost.
    public func stop() {
        context.stop.set()
        context.board.stop()
        space?.stop()
        context.pool.close()
        // With the lock held: who calls a second time waits for the end too.
        threads.withLock { threads in
            for thread in threads.fetchers { thread.join() }
            // Only now, so that what a fetcher delivered last is decoded all the same.
            decodeQueue.withLock(notify: true) { $0.isStopping = true }
            for thread in threads.decoders { thread.join() }
            recorder.stop()
            prover.stop()
            for thread in threads.recorders { thread.join() }
            threads = Threads()
        }
        // Those whose content a fetcher was preparing when the others were told.
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

    /// Gives the buffers back when nothing was merged for a while; sooner, each pause of a reader would cost their pages anew.
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

    /// Breaks the circle, when the recorder has ended.
    func clear() { onRecorded.withLock { $0 = nil } }

    func recorded(_ landing: Landing, _ bytes: Int) { onRecorded.withLock { $0 }?(landing, bytes) }
}

extension Landing {
    /// With what the plan says has landed.
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
    static let stopped = MergeError(.interrupted, "the merge was stopped")
}
