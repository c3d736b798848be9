import Glibc
import LaminaDigest
public import LaminaFormats
public import LaminaOCI
public import LaminaStore
import LaminaSystem
import Synchronization

/// Makes contents whole: plan, fetch, decode, verify, place, record, for whole images and for single reads alike.
///
/// - Fetchers (threads) take what readers wait for first, then background work, and read long ranges from the source.
/// - Decoders (a thread for each core, and one more) decompress, verify and write to the backing files.
/// - The recorder (one thread) writes what has landed into the index, in batches.
///
/// One content is merged once, whoever asks: `states` of `ActiveContent` says which chunks are on their way.
public final class MergeEngine: Sendable {
    public struct Options: Sendable {
        /// Bytes in flight of the whole process, compressed and decompressed; see `inFlightLimit`.
        public var bufferSize = 419_430_400
        /// The most fetches at once; more than ``fetcherLimit`` bring nothing.
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
        /// Whether a layer is refused whose table of contents has no digests of chunks.
        public var refusesUnproven = false
        /// What the store may take, in bytes; nil: as much as there is.
        public var maxBytes: Int64?
        /// How much of anything a layer's table of contents may bring.
        public var formatLimits = FormatLimits()

        public init() {}
    }

    /// More bytes in flight than this bring little: each decoder has a chunk, and one more is on its way. What is in flight when
    /// the process is killed has to be fetched again.
    static let inFlightLimit = 32 << 20
    /// The compressed bytes of one request of a reader's: somebody waits for all of them. Background requests are as long as
    /// `rangeSize(of:)` says.
    static let jobSize = 8 << 20
    /// Contents of one chunk up to this size are not searched for as parts of others.
    static let smallSize: Int64 = 64 << 10

    /// So many long ranges at once fill any connection, and each costs a thread.
    static let fetcherLimit = 6
    /// Contents of this size and more are written past the page cache even while they are read: the kernel keeps what was
    /// read as that of the mount, and a gigabyte of it twice is in nobody's interest.
    static let largeSize: Int64 = 64 << 20

    public let store: Store
    let pool: BufferPool
    let sources: SourceCache
    let recorder: Recorder
    /// One decoder at a time takes more memory than it has reserved.
    let decoderGate = DecoderGate()
    let paces = ConnectionPaces()
    let state: Monitor<EngineState>
    let decodeQueue = Monitor(DecodeQueue())
    let proofs = Monitor(ProofQueue(isWanted: true))
    /// Held while a layer is proven.
    let proving = Monitor(())
    /// Sees to it that the store stays below its limit, where it has one.
    let space: SpaceKeeper?
    let holders = Monitor<Holders?>(nil)
    /// The layers that are being streamed.
    let streaming = Monitor<Set<Digest>>([])
    let ticketCount = Atomic<UInt64>(0)
    let counters = MergeCounters()
    let jobCount = Atomic<Int>(0)
    let jobPeak = Atomic<Int>(0)
    let isStopping = Atomic<Bool>(false)
    let options: Options
    private let threads = Monitor(Threads())

    private struct Threads {
        var fetchers: [Thread] = []
        var decoders: [Thread] = []
        var recorders: [Thread] = []
    }

    /// Starts the threads.
    public init(store: Store, options: Options) throws {
        self.store = store
        self.options = options
        pool = BufferPool(limit: min(max(options.bufferSize, 1), Self.inFlightLimit))
        sources = SourceCache(index: store.index, registries: options.registries)
        state = Monitor(EngineState())
        recorder = Recorder(
            store: store,
            onRecorded: { [state, proofs, pool] landing, bytes in
                if state.withLock({ $0.forget(landing) }) { proofs.withLock(notify: true) { $0.isWanted = true } }
                pool.recorded(bytes)
            }, onRefused: { [pool] in pool.refuse($0) })
        space = options.maxBytes.map { SpaceKeeper(limit: $0) }
        try start()
    }

    private func start() throws {
        let fetchers = max(1, min(options.workerCount, Self.fetcherLimit))
        state.withLock { $0.backgroundLimit = min(2, max(1, options.workerCount - 1)) }
        do {
            try threads.withLock { threads in
                for number in 0..<fetchers {
                    threads.fetchers.append(try Thread("fetch-\(number)") { self.fetchLoop() })
                }
                for number in 0..<max(1, options.decoderCount) {
                    threads.decoders.append(try Thread("decode-\(number)") { self.decodeLoop() })
                }
                threads.recorders.append(try Thread("record") { self.recorder.loop() })
                threads.recorders.append(try Thread("sync") { self.recorder.syncLoop(onInterval: self.rest) })
                if let space { threads.recorders.append(try Thread("space") { space.loop(self) }) }
                if let delay = options.provingDelay {
                    threads.recorders.append(try Thread("prove") { self.proveLoop(delay: delay) })
                }
            }
        } catch {
            stop()
            throw error
        }
    }

    // MARK: Asking

    /// Merges a whole content; for files small enough to wait for.
    @discardableResult
    public func whole(_ content: ContentID, _ completion: @escaping MergeCompletion) -> MergeTicket {
        enqueue(content, range: nil, startsBackground: false, completion)
    }

    /// Merges the chunks that hold a range of the file, and goes on with the rest behind it.
    ///
    /// - Parameter take: called in the place of `completion` where the range is of one chunk that was fetched for it: with its bytes,
    ///   verified. They are gone when it returns.
    @discardableResult
    public func range(
        _ range: Range<Int64>, of content: ContentID, take: (@Sendable (UnsafeRawBufferPointer) -> Void)? = nil,
        _ completion: @escaping MergeCompletion
    ) -> MergeTicket {
        enqueue(
            content, range: range, startsBackground: true, serving: take.map { Serving(range: range, take: $0) },
            completion)
    }

    /// Merges the chunks that hold a range of the file, and no others.
    @discardableResult
    func only(_ range: Range<Int64>, of content: ContentID, _ completion: @escaping MergeCompletion) -> MergeTicket {
        enqueue(content, range: range, startsBackground: false, completion)
    }

    /// Merges a content while nobody waits for it.
    public func background(_ content: ContentID) {
        enqueue(content, range: 0..<0, startsBackground: true) { [recorder] result in
            if case .failure(let error) = result, error.code != .interrupted { recorder.report(error) }
        }
    }

    /// Leaves a request; the merge goes on for the others.
    ///
    /// - Returns: whether the completion will not be called any more.
    public func leave(_ ticket: MergeTicket) -> Bool {
        state.withLock { state in
            let waiting = state.requests.removeFirst { $0.ticket == ticket }
            if waiting { return true }
            guard let active = state.active[ticket.content] else { return false }
            if let index = active.early.firstIndex(where: { $0.ticket == ticket }) {
                active.early.remove(at: index)
                return true
            }
            guard let index = active.waiters.firstIndex(where: { $0.ticket == ticket }) else { return false }
            active.waiters.remove(at: index)
            return true
        }
    }

    /// What the engine knows of a content's bytes, which may be newer than what the index says. Asked at each open, it also
    /// says how far readers are.
    public enum Knowledge: Sendable {
        /// Nobody is merging it: the index is right.
        case none
        case merging
        case merged
    }

    public func knowledge(of content: ContentID) -> Knowledge {
        let (knowledge, marked) = state.withLock { $0.knowledge(of: content) }
        if let marked { state.withLockWakingOne { $0.ahead.append(marked) } }
        return knowledge
    }

    /// The same for a thread that may wait for nobody: nil while somebody has the plan.
    public func knowledgeNow(of content: ContentID) -> Knowledge? {
        guard let (knowledge, marked) = state.withLockIfFree({ $0.knowledge(of: content) }) else { return nil }
        if let marked { state.withLockWakingOne { $0.ahead.append(marked) } }
        return knowledge
    }

    /// Whether nobody has the plan just now: then asking something of it does not wait.
    public var isPlanFree: Bool { state.withLockIfFree { _ in } != nil }

    /// Whether a range of a content that is being merged has landed.
    public func hasLanded(_ range: Range<Int64>, of content: ContentID) -> Bool {
        state.withLock { state in
            guard let active = state.active[content], active.isPrepared else { return false }
            return active.indices(holding: range).allSatisfy { active.states[$0] == .landed }
        }
    }

    /// Compressed bytes fetched since the start.
    public var totalFetchedBytes: UInt64 { counters.fetchedBytes.load(ordering: .relaxed) }

    /// Bytes in flight now.
    public var inFlightBytes: Int { pool.used }

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
        load.jobs = jobCount.load(ordering: .relaxed)
        load.peakJobs = jobPeak.load(ordering: .relaxed)
        (load.bytes, load.peakBytes) = pool.usage
        return load
    }

    @discardableResult
    private func enqueue(
        _ content: ContentID, range: Range<Int64>?, startsBackground: Bool, serving: Serving? = nil,
        _ completion: @escaping MergeCompletion
    ) -> MergeTicket {
        let ticket = MergeTicket(content: content, number: ticketCount.add(1, ordering: .relaxed).newValue)
        let request = Request(
            content: content, range: range, startsBackground: startsBackground, ticket: ticket, serving: serving,
            completion: completion)
        // One fetcher: it takes the request, or another one that was awake has.
        let refused = state.withLockWakingOne { state in
            if state.isStopping { return true }
            state.requests.append(request)
            return false
        }
        if refused { completion(.failure(.stopped)) }
        return ticket
    }

    /// Says who is to be asked before a content is given up.
    public func setHolders(_ holders: Holders?) { self.holders.withLock { $0 = holders } }

    /// Tells of errors that nobody waits for.
    public func setErrorReporter(_ report: @escaping @Sendable (any Error) -> Void) { recorder.setReporter(report) }

    // MARK: Ending

    /// Stops fetching, lets the decoders finish what they have, records all that has landed and makes it durable.
    ///
    /// Whoever waits is answered with an error. Nothing that landed is lost.
    public func stop() {
        isStopping.store(true, ordering: .sequentiallyConsistent)
        answerWaiting()
        space?.stop()
        pool.close()
        // With the lock held: who calls a second time waits for the end too.
        threads.withLock { threads in
            for thread in threads.fetchers { thread.join() }
            // Only now, so that what a fetcher delivered last is decoded all the same.
            decodeQueue.withLock(notify: true) { $0.isStopping = true }
            for thread in threads.decoders { thread.join() }
            recorder.stop()
            proofs.withLock(notify: true) { $0.isStopping = true }
            for thread in threads.recorders { thread.join() }
            threads = Threads()
        }
        // Those whose request a fetcher had in hand when the others were answered.
        answerWaiting()
        do {
            try recorder.flush()
            try store.recordUses()
            try store.makeDurable()
        } catch {
            recorder.report(error)
        }
        state.withLock { $0.active = [:] }
        do { try store.settleGivenUp() } catch { recorder.report(error) }
    }

    private func answerWaiting() {
        let waiting = state.withLock(notify: true) { state in state.stop() }
        for completion in waiting { completion(.failure(.stopped)) }
    }

    /// Gives the buffers back when nothing was merged for a while; sooner, each pause of a reader would cost their pages anew.
    private func rest() {
        do { try store.settleGivenUp() } catch { recorder.report(error) }
        if state.withLock({ $0.active.isEmpty }) { pool.trim() }
    }
}

extension MergeError {
    static let stopped = MergeError(.interrupted, "the merge was stopped")
}
