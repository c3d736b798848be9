import LaminaStore
import LaminaSystem
import Synchronization

/// Called once, on a thread of the merge, when what was requested has landed or cannot be fetched.
public typealias MergeCompletion = @Sendable (Result<Void, MergeError>) -> Void

/// Takes the bytes of one chunk from memory, verified. They are gone when it returns.
typealias ChunkTaker = @Sendable (UnsafeRawBufferPointer) -> Void

/// The one `MergePlan` of the process, behind its lock: gives its work to the fetchers and its ends to the waiters.
///
/// The lock is held only for steps of the plan: nothing waits, reads or writes under it, and completions are called without it.
final class PlanBoard: Sendable {
    fileprivate struct Reader {
        var completion: MergeCompletion
        var take: ChunkTaker?
    }

    fileprivate struct State {
        var plan: MergePlan
        var readers: [UInt64: Reader] = [:]
        var pulls: [PullID: LayerPull] = [:]
        var memory = ReaderMemory()
    }

    private let state: Monitor<State>
    private let paces: ConnectionPaces
    private let lastNumber = Atomic<UInt64>(0)
    /// Gets what landed, with the lock held: a content's chunks are recorded before it is recorded as merged.
    private let onLanded: @Sendable (MergePlan.Landed, Landing) -> Void

    init(fetchers: Int, paces: ConnectionPaces, onLanded: @escaping @Sendable (MergePlan.Landed, Landing) -> Void) {
        state = Monitor(State(plan: MergePlan(fetchers: fetchers)))
        self.paces = paces
        self.onLanded = onLanded
    }

    // MARK: For those who ask

    func request(
        _ content: ContentID, of layer: LayerID? = nil, origin: Origin = .any, range: Range<Int64>?,
        startsBackground: Bool, take: ChunkTaker? = nil, _ completion: @escaping MergeCompletion
    ) -> MergeTicket {
        let ticket = MergeTicket(content: content, number: nextNumber())
        let request = Request(
            ticket: ticket, origin: origin, layer: layer, range: range, startsBackground: startsBackground,
            isServed: take != nil)
        // One fetcher: it takes the request, or another one that was awake has.
        let isAccepted = state.withLockWakingOne { state in
            guard state.plan.request(request) else { return false }
            state.readers[ticket.number] = Reader(completion: completion, take: take)
            return true
        }
        if !isAccepted { completion(.failure(.stopped)) }
        return ticket
    }

    func leave(_ ticket: MergeTicket) -> Bool {
        state.withLock { state in
            guard state.plan.leave(ticket) else { return false }
            state.readers[ticket.number] = nil
            return true
        }
    }

    /// What is known of a content that is opened; also notes how far readers are.
    func opened(_ content: ContentID) -> MergeEngine.Knowledge {
        let (knowledge, isMark) = state.withLock { $0.plan.opened(content) }
        if isMark { state.withLockWakingOne { _ in } }
        return knowledge
    }

    /// The same for a thread that may not wait: nil while another thread has the plan.
    func openedNow(_ content: ContentID) -> MergeEngine.Knowledge? {
        guard let (knowledge, isMark) = state.withLockIfFree({ $0.plan.opened(content) }) else { return nil }
        if isMark { state.withLockWakingOne { _ in } }
        return knowledge
    }

    /// Whether no thread has the plan now.
    var isFree: Bool { state.withLockIfFree { _ in } != nil }

    func hasLanded(_ range: Range<Int64>, of content: ContentID) -> Bool {
        state.withLock { $0.plan.hasLanded(range, of: content) }
    }

    /// Begins pulls; those that the merge does not take any more are told.
    ///
    /// - Parameter origin: says of a layer for whose images it is.
    func begin(_ pulls: [LayerPull], origin: (LayerID) -> Origin) {
        for pull in pulls { pull.set(id: nextNumber(), origin: origin(pull.layer), board: self) }
        let refused = state.withLock(notify: true) { state in
            pulls.filter { pull in
                guard let planned = pull.planned, state.plan.begin(planned) else { return true }
                state.pulls[planned.id] = pull
                return false
            }
        }
        for pull in refused { pull.ended(.failure(.stopped)) }
    }

    func cancel(_ pull: PullID) { change { $0.cancel(pull) } }

    /// The current time of `recentlyMerged`; take it before rows are read from the index.
    var time: UInt64 { state.withLock { $0.plan.recentlyMerged.clock } }

    var isQuiet: Bool { state.withLock { $0.plan.isQuiet } }

    /// Whether nothing is on its way.
    var isIdle: Bool { state.withLock { $0.plan.contents.isEmpty } }

    var counts: (queued: Int, running: Int) { state.withLock { ($0.plan.queuedCount, $0.plan.contents.count) } }

    // MARK: For the fetchers

    /// Waits for the next work; meanwhile it delivers ends to waiters.
    func next() -> MergePlan.Work {
        while true {
            let (work, ends, wantsHelp) = state.wait { state -> (MergePlan.Work, [() -> Void], Bool)? in
                // Whether readers wait for bytes, or waited a moment ago.
                let besideReaders = state.plan.hasReaders || state.memory.lasts(at: ContinuousClock().now)
                guard let work = state.plan.next(rangeSize: { paces[$0].rangeSize(besideReaders: besideReaders) })
                else { return nil }
                var calls: [() -> Void] = []
                if case .tell(let ends) = work { calls = state.calls(for: ends) }
                return (work, calls, state.plan.wantsMoreFetchers)
            }
            if wantsHelp { state.withLockWakingOne { _ in } }
            guard case .tell = work else { return work }
            for call in ends { call() }
        }
    }

    /// - Parameter isSlow: whether the source brought little; nil: that did not show.
    func fetched(_ job: FetchJob, from source: SourceKey, isSlow: Bool?) {
        state.withLock(notify: true) { state in
            if let isSlow { state.plan.lanes.setSlow(isSlow, source) }
            state.plan.fetched(job, from: source)
            if job.isUrgent { state.memory.lastFetch = ContinuousClock().now }
        }
    }

    /// Notes whether a source brings little just now.
    func setSlow(_ isSlow: Bool, _ source: SourceKey) {
        state.withLock(notify: true) { $0.plan.lanes.setSlow(isSlow, source) }
    }

    /// Whether a fetch of a source that brings little should end for another source.
    func shouldMakeRoom(_ source: SourceKey) -> Bool { state.withLock { $0.plan.lanes.shouldMakeRoom(source) } }

    /// Records where a layer comes from, so that its fetches share that server's lane.
    func setServer(_ server: Int, of layer: LayerID) { state.withLock { $0.plan.lanes.setServer(server, of: layer) } }

    func knowsServer(of layer: LayerID) -> Bool { state.withLock { $0.plan.lanes.knowsServer(of: layer) } }

    func isHealing(_ content: ContentID) -> Bool { state.withLock { $0.plan.healing.contains(content) } }

    func isWanted(_ job: FetchJob) -> Bool { state.withLock { $0.plan.isWanted(job) } }

    /// Makes a step of the plan, and tells the waiters its result.
    func change(_ step: (inout MergePlan) -> PlanEnds) {
        let calls = state.withLock(notify: true) { state in state.calls(for: step(&state.plan)) }
        for call in calls { call() }
    }

    /// Makes a step that has no result for waiters.
    ///
    /// - Parameter notify: whether fetchers may find something to do.
    func with<Result>(notify: Bool = false, _ step: (inout MergePlan) throws -> Result) rethrows -> Result {
        try state.withLock(notify: notify) { try step(&$0.plan) }
    }

    // MARK: For the decoders and the recorder

    /// Reports that parts are in their place: to the recorder, and to the waiters.
    ///
    /// - Parameter landing: what else is to be recorded with them.
    func landed(_ parts: [Part], _ landing: Landing = Landing()) {
        guard !parts.isEmpty || !landing.isEmpty else { return }
        let calls = state.withLock { state in
            var ends = PlanEnds()
            let landed = state.plan.landed(parts, &ends)
            onLanded(landed, landing)
            return state.calls(for: ends)
        }
        for call in calls { call() }
    }

    /// Gives a chunk that is in its place to the readers that wait for it: from memory, because otherwise its file would have
    /// to be read for them.
    func serve(_ part: Part, _ bytes: UnsafeRawBufferPointer) {
        guard part.target.hasReaders.load(ordering: .relaxed) else { return }
        let (takers, wasFirst) = state.withLock { state in
            let (served, wasFirst) = state.plan.takeServed(part)
            let takers = served.compactMap { reader in
                state.readers.removeValue(forKey: reader.number)?.take.map { (reader.range, $0) }
            }
            return (takers, wasFirst)
        }
        for (range, take) in takers {
            let start = Int(range.lowerBound - part.offset)
            take(UnsafeRawBufferPointer(rebasing: bytes[start..<(start + range.count)]))
        }
        // The fetchers can do its background merge now.
        if wasFirst { state.withLock(notify: true) { _ in } }
    }

    /// Reports that parts cannot be fetched.
    ///
    /// - Returns: whether no waiter was told.
    func failed(_ members: [Member], _ error: MergeError) -> Bool {
        let (calls, isHeard) = state.withLock(notify: true) { state in
            let ends = state.plan.failed(members, error)
            return (state.calls(for: ends), ends.isHeard)
        }
        for call in calls { call() }
        return !isHeard
    }

    /// - Returns: whether nothing is on its way any more.
    func recorded(_ landing: Landing) -> Bool {
        let (targets, isIdle) = state.withLock { state in
            let targets = state.plan.recorded(
                merged: landing.merged.map(\.content), chunks: landing.chunks.map(\.content))
            return (targets, state.plan.contents.isEmpty)
        }
        for target in targets { target.recorded() }
        return isIdle
    }

    // MARK: Ending

    /// Tells all waiters that the merge has stopped; the fetchers end.
    func stop() { change { $0.stop() } }

    func forgetAll() { state.withLock { $0.plan.forgetAll() } }

    private func nextNumber() -> UInt64 { lastNumber.add(1, ordering: .relaxed).newValue }
}

extension PlanBoard.State {
    /// What to call for some ends, once the lock is released.
    fileprivate mutating func calls(for ends: PlanEnds) -> [() -> Void] {
        for target in ends.awaited { target.hasReaders.store(true, ordering: .relaxed) }
        var calls: [() -> Void] = []
        for (id, bytes) in ends.landed { pulls[id]?.landed(bytes) }
        for (number, result) in ends.readers {
            guard let reader = readers.removeValue(forKey: number) else { continue }
            calls.append { reader.completion(result) }
        }
        for (id, result) in ends.pulls {
            guard let pull = pulls.removeValue(forKey: id) else { continue }
            calls.append { pull.ended(result) }
        }
        return calls
    }
}

/// When the last fetch for a reader ended: for a moment after it background requests stay short, because it may be the first of
/// many.
struct ReaderMemory {
    private static let length: Duration = .seconds(1)
    var lastFetch: ContinuousClock.Instant?

    func lasts(at now: ContinuousClock.Instant) -> Bool { lastFetch.map { now - $0 < Self.length } ?? false }
}
