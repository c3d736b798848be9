import Glibc
import LaminaStore
import LaminaSystem
import Synchronization

/// Merges everything of one layer that the store does not have, in the order of its blob.
public final class LayerPull: Producer, @unchecked Sendable {
    // @unchecked: `isProducing` is touched with the engine's lock held only; what is about rows by the
    // one fetcher that produces; everything else is in `progress`, behind its own lock.
    var isProducing = false
    let layer: LayerID
    /// Names what this pull waits for; set before it is started.
    var ticketNumber: UInt64 = 0

    private var rows: [UnmergedContent] = []
    /// The clock of `EngineState.recentlyMerged` before `rows` were read, and before the first of `deferred` was.
    private var rowsTime: UInt64 = 0
    private var deferredTime: UInt64?
    private var head = 0
    /// The next chunk of the content at `head`.
    private var chunk = 0
    /// Whether this pull waits for the content at `head`.
    private var isWaiting = false
    /// Where the next rows of the index begin.
    private var position: ChunkPlace?
    /// Contents that somebody else was preparing when their turn came.
    private var deferred: [UnmergedContent] = []

    private struct Progress {
        var landedBytes: Int64 = 0
        /// Contents that are not merged yet, of those that were met so far.
        var waiting = 0
        var isExhausted = false
        /// The first error.
        var failure: MergeError?
        /// Whether there was an error that the other contents would meet too.
        var isBroken = false
        var isDone: Bool { isExhausted && waiting == 0 }
    }

    private let progress = Monitor(Progress())
    private let isCancelled = Atomic<Bool>(false)

    /// Some contents alone, instead of all of the layer.
    private var chosen: ArraySlice<UnmergedContent>?
    private var chosenTime: UInt64 = 0

    init(layer: LayerID) { self.layer = layer }

    /// Merges some contents alone, about in this order: those that stand side by side in the blob are fetched as one, as
    /// far as it does not take the order too far apart.
    ///
    /// - Parameter time: the clock of `EngineState.recentlyMerged` before they were read from the index.
    init(layer: LayerID, first contents: [UnmergedContent], readAt time: UInt64) {
        self.layer = layer
        chosen = contents[...]
        chosenTime = time
    }

    /// Contents that are sorted by their places.
    private static let chosenAtOnce = 256

    /// Uncompressed bytes that this pull has landed so far.
    var landedBytes: Int64 { progress.withLock { $0.landedBytes } }

    func landed(_ bytes: Int) { progress.withLock { $0.landedBytes += Int64(bytes) } }

    /// Asks for nothing more.
    public func cancel() { isCancelled.store(true, ordering: .relaxed) }

    /// Waits at most `seconds`.
    ///
    /// - Returns: nil while it goes on; then the first error, or success.
    public func wait(seconds: Double) -> Result<Void, MergeError>? {
        progress.wait(seconds: seconds) { progress in
            guard progress.isDone else { return nil }
            return progress.failure.map { .failure($0) } ?? .success(())
        }
    }

    func next(_ engine: MergeEngine) throws -> FetchJob? {
        var job = FetchJob(layer: layer, members: [], isUrgent: false, limit: engine.rangeSize(of: layer))
        while true {
            if endsEarly { return job.members.isEmpty ? nil : job }
            if head == rows.count {
                do {
                    let hasDeferred = !deferred.isEmpty
                    if try readRows(engine) { continue }
                    // What is in the job is on its way for whoever waits for it: it does not wait for others.
                    guard job.members.isEmpty else { return job }
                    guard hasDeferred else { return nil }
                    takeDeferred()
                } catch {
                    // The same goes here; the next call meets the error again.
                    guard job.members.isEmpty else { return job }
                    throw error
                }
            }
            switch engine.state.withLock({ take(&job, &$0) }) {
            case .full: return job
            case .empty: continue
            case .prepare(let active):
                prepare(active, engine)
                // Otherwise it is a lie, or not to be had: this pull has been told.
                guard engine.state.withLock({ _ in active.isPrepared }) else {
                    skip()
                    continue
                }
                prepareNeighbours(within: job.limit, engine)
            }
        }
    }

    private func prepare(_ active: ActiveContent, _ engine: MergeEngine) {
        if let urgent = engine.prepare(active, preferring: layer) {
            engine.state.withLock(notify: true) { $0.jobs.append(urgent) }
        }
    }

    private var endsEarly: Bool { isCancelled.load(ordering: .relaxed) || progress.withLock { $0.isBroken } }

    /// Reads the next rows from the index.
    ///
    /// - Returns: false when there are none left.
    private func readRows(_ engine: MergeEngine) throws -> Bool {
        let time = engine.state.withLock { $0.recentlyMerged.clock }
        if let chosen {
            let next = chosen.prefix(Self.chosenAtOnce)
            guard !next.isEmpty else { return false }
            self.chosen = chosen.dropFirst(next.count)
            rows = next.sorted {
                ($0.firstChunk.blobOffset, $0.firstChunk.innerOffset)
                    < ($1.firstChunk.blobOffset, $1.firstChunk.innerOffset)
            }
            (rowsTime, head) = (chosenTime, 0)
            return true
        }
        let next = try engine.store.index.unmerged(in: layer, after: position, limit: 1024)
        guard let last = next.last else { return false }
        (rows, rowsTime, head, position) = (next, time, 0, last.firstChunk)
        return true
    }

    /// Takes those contents up again that somebody else was preparing.
    private func takeDeferred() {
        (rows, rowsTime, head) = (deferred, deferredTime ?? 0, 0)
        (deferred, deferredTime) = ([], nil)
        // Preparing takes a few milliseconds at most, unless bytes are copied or hashed.
        usleep(5000)
    }

    private enum Step {
        /// The job has what it can take.
        case full
        /// The rows at hand are used up.
        case empty
        /// The content at `head` has to be read from the index first.
        case prepare(ActiveContent)
    }

    /// Adds contents to the job, with the engine's lock held.
    private func take(_ job: inout FetchJob, _ state: inout EngineState) -> Step {
        if state.isStopping { return .full }
        while head < rows.count {
            let row = rows[head]
            guard let active = state.active[row.content.id] ?? activate(row, &state) else {
                // Merged meanwhile, or failed and was given up; then this pull, which waited, has been told.
                if isWaiting || state.recentlyMerged.contains(row.content.id, since: rowsTime) {
                    skip()
                    continue
                }
                if !job.members.isEmpty { return .full }
                return .prepare(announce(row, &state))
            }
            guard active.isPrepared else {
                deferred.append(row)
                deferredTime = deferredTime ?? rowsTime
                skip()
                continue
            }
            if !isWaiting, !active.isMerged { wait(for: active) }
            while chunk < active.chunks.count {
                if active.states[chunk] == .absent {
                    guard job.canTake(active, chunk) else { return .full }
                    active.states[chunk] = .inFlight
                    job.add(active, chunk)
                }
                chunk += 1
            }
            skip()
        }
        return .empty
    }

    /// Makes a content known as one that is being prepared.
    private func announce(_ row: UnmergedContent, _ state: inout EngineState) -> ActiveContent {
        let new = ActiveContent(id: row.content.id)
        state.active[new.id] = new
        new.early.append(
            Request(
                content: new.id, range: 0..<0, startsBackground: false,
                ticket: MergeTicket(content: new.id, number: ticketNumber), completion: completion()))
        return new
    }

    /// Prepares what stands behind the content at `head` in the range that its job may become: now, while the job is empty and
    /// nobody waits for it. A range that ended before each of them would be a request for each.
    private func prepareNeighbours(within limit: Int, _ engine: MergeEngine) {
        let end = rows[head].firstChunk.blobOffset + Int64(limit)
        for row in rows[(head + 1)...].prefix(while: { $0.firstChunk.blobOffset < end }) {
            if endsEarly { return }
            if !row.needsPreparation { continue }
            let new = engine.state.withLock { state -> ActiveContent? in
                guard !state.isStopping, state.active[row.content.id] == nil,
                    !state.recentlyMerged.contains(row.content.id, since: rowsTime)
                else { return nil }
                return announce(row, &state)
            }
            if let new { prepare(new, engine) }
        }
    }

    private func activate(_ row: UnmergedContent, _ state: inout EngineState) -> ActiveContent? {
        guard !isWaiting, !row.needsPreparation, !state.recentlyMerged.contains(row.content.id, since: rowsTime)
        else { return nil }
        let active = ActiveContent(single: row)
        state.active[active.id] = active
        return active
    }

    private func skip() {
        head += 1
        chunk = 0
        isWaiting = false
    }

    private func wait(for active: ActiveContent) {
        isWaiting = true
        if active.pull == nil { active.pull = self }
        active.waiters.append(
            Waiter(
                ticket: MergeTicket(content: active.id, number: ticketNumber), chunks: 0..<active.chunks.count,
                missing: active.missing, completion: completion()))
    }

    private func completion() -> MergeCompletion {
        progress.withLock { $0.waiting += 1 }
        return { result in
            self.progress.withLock(notify: true) { progress in
                progress.waiting -= 1
                guard case .failure(let error) = result else { return }
                if progress.failure == nil { progress.failure = error }
                if !error.concernsOneContent { progress.isBroken = true }
            }
        }
    }

    /// Contents of which not every chunk was asked for would never be merged.
    func withdraw(_ state: inout EngineState) -> [MergeCompletion] {
        guard endsEarly || head < rows.count || !deferred.isEmpty else { return [] }
        var completions: [MergeCompletion] = []
        for content in Array(state.active.values) {
            completions += content.early.filter { $0.ticket.number == ticketNumber }.map(\.completion)
            content.early.removeAll { $0.ticket.number == ticketNumber }
            completions += content.waiters.filter { $0.ticket.number == ticketNumber }.map(\.completion)
            content.waiters.removeAll { $0.ticket.number == ticketNumber }
            state.forgetIfIdle(content)
        }
        return completions
    }

    func stop() -> [MergeCompletion] {
        [{ self.ended(if: $0) }]
    }

    private func ended(if result: Result<Void, MergeError>) {
        if case .failure(let error) = result { ended(error) } else { ended(nil) }
    }

    func ended(_ error: MergeError?) {
        progress.withLock(notify: true) { progress in
            progress.isExhausted = true
            if let error, progress.failure == nil { progress.failure = error }
        }
    }
}
