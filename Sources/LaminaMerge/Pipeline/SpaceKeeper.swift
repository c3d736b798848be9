import Glibc
public import LaminaStore
import LaminaSystem
import Synchronization

/// Keeps a store below a size: it gives up what was used least recently, and what was given up is fetched again when a reader
/// wants it.
///
/// A writer to the store reserves room when it has the bytes, so nothing is evicted for bytes that never come. A writer that
/// finds no room waits until there is some; if nothing is left that could be given up, it gets an error. So the store is never
/// larger than its limit and what is in flight. A separate thread makes room, if possible before the limit is reached.
final class SpaceKeeper: Sendable {
    private struct State {
        /// What the store takes, including what is reserved.
        var used: Int64 = 0
        /// What is reserved and neither landed nor given back.
        var pending: Int64 = 0
        /// What is reserved for files beside the store's, which are not in its size: blobs of servers without ranges. They stay as long as
        /// somebody reads them, so no round waits for them to land.
        var beside: Int64 = 0
        var isKnown = false
        /// Whether something was counted since the store's size was taken from the index.
        var isEstimate = false
        /// How many bytes the waiters want.
        var wanted: Int64 = 0
        /// What the waiters have reserved themselves: this part of what is pending does not land before they go on.
        var stuck: Int64 = 0
        /// Rounds that have ended.
        var rounds: UInt64 = 0
        /// Since when every round has found nothing to give up, and when the last one did so.
        var exhausted: (since: ContinuousClock.Instant, last: ContinuousClock.Instant)?
        var isWanted = true
        var isStopping = false
    }

    /// Contents that are given up in one transaction, which is synced to the disk.
    private static let batch = 1024
    /// Candidates that are asked for at once.
    private static let candidates = 2048
    /// After how many seconds without activity the size is counted again.
    private static let idle = 0.5
    /// How long a writer waits for room while nothing can be given up: open files may be closed. Rounds come this often then,
    /// in seconds.
    private static let patience = Duration.seconds(2)
    private static let breath = 0.05
    /// How long no round is begun only for the margin, if nothing could be given up.
    private static let pause = Duration.seconds(5)

    let limit: Int64
    /// How far below the limit room is made in advance; a round ends at twice that distance.
    private let margin: Int64
    private let state = Monitor(State())

    init(limit: Int64) {
        self.limit = limit
        margin = min(limit / 8, 64 << 20)
    }

    /// What a file of this many bytes takes on disk, approximately: whole blocks.
    static func onDisk(_ bytes: Int64) -> Int64 { (bytes + 4095) & ~4095 }

    /// Reserves room for bytes that are about to be written, and waits until there is some. Call it without any lock held.
    ///
    /// - Throws: `MergeError` with ENOSPC if nothing is left that could be given up.
    /// - Parameter own: what the caller has reserved and not landed. While the caller waits, that does not land either.
    func reserve(_ bytes: Int64, holding own: Int64 = 0) throws(MergeError) {
        guard bytes > 0 else { return }
        // Nothing is given up for bytes that can never fit.
        try requireWithinLimit(bytes)
        let start = state.withLock(notify: true) { state -> UInt64? in
            if state.isStopping || (state.isKnown && state.used + bytes <= limit) {
                take(bytes, &state)
                return nil
            }
            state.wanted += bytes
            state.stuck += own
            state.isWanted = true
            return state.rounds
        }
        guard let start else { return }
        let isTaken = state.wait { state -> Bool? in
            if state.isStopping || (state.isKnown && state.used + bytes <= limit) {
                state.wanted -= bytes
                state.stuck -= own
                take(bytes, &state)
                return true
            }
            guard let exhausted = state.exhausted, state.rounds > start,
                exhausted.last - exhausted.since >= Self.patience
            else { return nil }
            state.wanted -= bytes
            state.stuck -= own
            return false
        }
        if !isTaken { throw full(bytes) }
    }

    /// - Throws: `MergeError` with ENOSPC for what can never fit.
    func requireWithinLimit(_ bytes: Int64) throws(MergeError) {
        if bytes > limit { throw full(bytes) }
    }

    private func take(_ bytes: Int64, _ state: inout State) {
        state.used += bytes
        state.pending += bytes
        state.isEstimate = true
        if state.used > limit - margin { state.isWanted = true }
    }

    private func full(_ bytes: Int64) -> MergeError {
        MergeError(
            .write,
            "the store is at its limit of \(limit) bytes ([store] max_bytes), and nothing is left that could be given up "
                + "for \(bytes) more: raise the limit, or 'lamina rm', 'lamina unpin' or 'lamina umount' what is not needed",
            cause: SystemError(code: ENOSPC, operation: "make room in", subject: "the store"))
    }

    /// Counts reserved bytes as landed.
    func landed(_ bytes: Int64) { state.withLock { $0.pending -= bytes } }

    /// Gives back reserved bytes that will not come.
    func giveBack(_ bytes: Int64) {
        guard bytes > 0 else { return }
        state.withLock(notify: true) { state in
            state.used -= bytes
            state.pending -= bytes
        }
    }

    /// Reserves room for bytes of a file that is not one of the store's, as `reserve` does, until `giveBackBeside`.
    ///
    /// - Parameter whole: how large the file becomes: nothing is given up for one that can never fit.
    func reserveBeside(_ bytes: Int64, of whole: Int64) throws(MergeError) {
        try requireWithinLimit(whole)
        try reserve(bytes)
        state.withLock(notify: true) { state in
            state.pending -= bytes
            state.beside += bytes
        }
    }

    func giveBackBeside(_ bytes: Int64) {
        guard bytes > 0 else { return }
        state.withLock(notify: true) { state in
            state.used -= bytes
            state.beside -= bytes
        }
    }

    /// Counts bytes that are written at once, if there is room for them: for what the store can do without. Nobody waits for it.
    func takeIfRoom(_ bytes: Int64) -> Bool {
        state.withLock { state in
            guard state.used + bytes <= limit else { return false }
            state.used += bytes
            state.isEstimate = true
            if state.used > limit - margin { state.isWanted = true }
            return true
        }
    }

    /// Counts bytes out that were on disk, and were removed.
    func removed(_ bytes: Int64) {
        guard bytes > 0 else { return }
        state.withLock(notify: true) { $0.used -= bytes }
    }

    /// Has the store's size counted again: other code removed something.
    func forget() {
        state.withLock(notify: true) { state in
            state.isKnown = false
            state.isWanted = true
        }
    }

    func stop() { state.withLock(notify: true) { $0.isStopping = true } }

    // MARK: Making room

    func loop(_ engine: MergeEngine) {
        while true {
            let isWanted = state.wait(seconds: Self.idle) { state -> Bool? in
                if state.isStopping { return false }
                return state.isWanted ? true : nil
            }
            if isWanted == false { return }
            do {
                try settle(engine)
                if isWanted == true { try round(engine) }
            } catch {
                engine.recorder.report(MergeError(.index, "no room can be made in the store", cause: error))
                endRound(isExhausted: true)
            }
            if state.withLock({ $0.exhausted != nil }) {
                _ = state.wait(seconds: Self.breath) { $0.isStopping ? true : nil }
            }
        }
    }

    /// Counts again what the store takes.
    private func settle(_ engine: MergeEngine) throws {
        let (isDue, before, pending, beside) = state.withLock { state in
            (!state.isKnown || (state.isEstimate && state.pending == 0), state.used, state.pending, state.beside)
        }
        guard isDue else { return }
        try engine.recorder.flush()
        let counted = try engine.store.spaceUsed()
        state.withLock(notify: true) { state in
            // What was reserved or given back meanwhile, and what is on its way.
            let since = state.isKnown ? state.used - before : state.pending
            state.used = counted + since + (state.isKnown ? beside : state.beside)
            state.isEstimate = since != 0 || pending != 0
            state.isKnown = true
            // If everything is open or pinned, the next look is delayed.
            let isHopeless = state.exhausted.map { ContinuousClock.now - $0.last < Self.pause } ?? false
            if state.used + state.wanted > limit - margin, !isHopeless { state.isWanted = true }
        }
    }

    /// How much must be given up before there is room again.
    private var excess: Int64 {
        state.withLock { state in
            guard !state.isStopping, state.used + state.wanted > limit - margin else { return 0 }
            return state.used + max(state.wanted, margin) - (limit - margin)
        }
    }

    private func round(_ engine: MergeEngine) throws {
        // What lands during a pass may be given up in the next one: nothing is left only if a pass found nothing while nothing
        // was on its way.
        while excess > 0 {
            let isQuiet = state.withLock { $0.pending <= $0.stuck }
            let freed = try pass(engine)
            if freed == 0, state.withLock({ $0.used + $0.wanted > limit && !$0.isStopping }) {
                if isQuiet, try !shrinkLog(engine) { return endRound(isExhausted: true) }
                // What is on its way is being decoded: that takes some milliseconds.
                _ = state.wait(seconds: 0.02) { $0.pending <= $0.stuck || $0.isStopping ? true : nil }
            } else if freed == 0 {
                break
            }
        }
        endRound(isExhausted: false)
    }

    /// Goes once through everything that may be given up.
    ///
    /// - Returns: how many contents were given up.
    private func pass(_ engine: MergeEngine) throws -> Int {
        try engine.recorder.flush()
        try engine.store.recordUses()
        // The index and its log grow too.
        try recount(engine)
        var freed = 0
        var position: EvictionPosition?
        while excess > 0 {
            let found = try engine.store.index.evictable(after: position, limit: Self.candidates)
            position = found.end
            var candidates = found.contents[...]
            while excess > 0, !candidates.isEmpty {
                let goes = excess
                var sum: Int64 = 0
                let batch = candidates.prefix(Self.batch).prefix { content in
                    defer { sum += Self.onDisk(content.size) }
                    return sum < goes
                }
                candidates = candidates.dropFirst(batch.count)
                let given = try engine.evictUnopened(Array(batch))
                freed += given.contents
                if given.contents > 0 { state.withLock(notify: true) { $0.used -= given.bytes } }
            }
            if found.contents.count < Self.candidates { break }
        }
        return freed
    }

    /// Cuts the index's log, as far as no reader needs it.
    ///
    /// - Returns: whether there is room then.
    private func shrinkLog(_ engine: MergeEngine) throws -> Bool {
        try engine.store.tidy([], settling: true)
        try recount(engine)
        return state.withLock { $0.used + $0.wanted <= limit }
    }

    private func recount(_ engine: MergeEngine) throws {
        let (before, pending) = state.withLock { ($0.used, $0.pending + $0.beside) }
        let counted = try engine.store.spaceUsed()
        // Some of what is pending may have been recorded already: it is counted twice until nothing is pending.
        state.withLock { state in state.used = counted + pending + (state.used - before) }
    }

    private func endRound(isExhausted: Bool) {
        state.withLock(notify: true) { state in
            state.rounds += 1
            state.exhausted = isExhausted ? (state.exhausted?.since ?? .now, .now) : nil
            state.isWanted = state.wanted > 0 && state.used + state.wanted > limit
        }
    }
}

extension MergeEngine {
    /// Runs the import of a layer, if there is room for its part of the index.
    ///
    /// - Throws: `MergeError` with ENOSPC if there is none.
    func importing(_ bytes: Int64, _ body: () throws -> LayerID) throws -> LayerID {
        try space?.reserve(bytes)
        defer {
            // From here on it is counted with the file that it is in.
            space?.giveBack(bytes)
            space?.forget()
        }
        return try body()
    }

    /// Makes room for bytes of a blob that are kept beside the store's files while they are read.
    ///
    /// - Throws: `MergeError` with ENOSPC where there is none.
    ///
    /// - Parameter whole: the size of the blob. If that can never fit, nothing is given up for its beginning.
    public func reserveSpool(_ bytes: Int64, of whole: Int64) throws {
        try space?.reserveBeside(bytes, of: whole)
    }

    public func releaseSpool(_ bytes: Int64) { space?.giveBackBeside(bytes) }

    /// Says that files went out of the store without this engine.
    public func spaceChanged() { space?.forget() }

    /// What reads contents without this engine: the file system.
    public struct Holders: Sendable {
        /// Gives up what is only kept for the next open of these contents, and returns which of them are open.
        public var release: @Sendable (Set<ContentID>) -> Set<ContentID>

        public init(release: @escaping @Sendable (Set<ContentID>) -> Set<ContentID>) { self.release = release }
    }

    /// Gives up those contents that are neither open nor being merged.
    ///
    /// - Returns: how many it gave up, and how much that freed on disk.
    func evictUnopened(_ contents: [ContentRecord]) throws -> (contents: Int, bytes: Int64) {
        let open = context.holders.release(Set(contents.map(\.id)))
        return try evict(contents.filter { !open.contains($0.id) })
    }
}
