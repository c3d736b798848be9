public import LaminaStore
import LaminaSystem
import Synchronization

/// Keeps a store below a size: what was used least recently is given up, and fetched again when it is wanted.
///
/// What is about to be fetched is counted before it is: the fetcher that would go over the limit waits until room was made,
/// or nothing is left that could go. A thread of its own makes room, before the limit is reached where it can.
final class SpaceKeeper: Sendable {
    private struct State {
        /// What the store takes, with what is on its way.
        var used: Int64 = 0
        var isKnown = false
        /// Whether something was counted since the store's size was taken from the index.
        var isEstimate = false
        /// Rounds of eviction that have ended.
        var rounds: UInt64 = 0
        var isWanted = true
        var isStopping = false
        /// After a round that found nothing to give up: not again at once.
        var isExhausted = false
    }

    /// Contents that are given up in one transaction.
    private static let batch = 256
    /// Candidates of one round. More than these are open only where nearly everything is.
    private static let candidateLimit = 2048
    /// Seconds after which the size is counted anew where nothing happens; and after which it is looked again where
    /// nothing could be given up, in which nobody waits.
    private static let patience = (idle: 1.0, exhausted: 0.1)

    private let limit: Int64
    /// How far below the limit room is made before it is asked for; two of them below is where a round ends.
    private let margin: Int64
    private let state = Monitor(State())

    init(limit: Int64) {
        self.limit = limit
        margin = min(limit / 8, 64 << 20)
    }

    /// Counts bytes that are about to be written; waits, once, until room was made for them.
    func makeRoom(for bytes: Int64) {
        let round = state.withLock(notify: true) { state -> UInt64? in
            state.used += bytes
            state.isEstimate = true
            guard !state.isStopping, !state.isExhausted, !state.isKnown || state.used > limit - margin else {
                return nil
            }
            state.isWanted = true
            return !state.isKnown || state.used > limit ? state.rounds : nil
        }
        // Who has come while a round was under way waits for the next one.
        guard let round else { return }
        _ = state.wait { $0.rounds > round || $0.isStopping || $0.isExhausted ? true : nil }
    }

    /// Has the store's size counted anew: somebody else took something away.
    func forget() {
        state.withLock(notify: true) { state in
            (state.isKnown, state.used) = (false, 0)
            state.isWanted = true
        }
    }

    func stop() { state.withLock(notify: true) { $0.isStopping = true } }

    func loop(_ engine: MergeEngine) {
        while true {
            let seconds = state.withLock { $0.isExhausted ? Self.patience.exhausted : Self.patience.idle }
            let isWanted = state.wait(seconds: seconds) { state -> Bool? in
                if state.isStopping { return false }
                return state.isWanted && !state.isExhausted ? true : nil
            }
            if isWanted == false { return }
            do {
                try settle(engine)
                if isWanted == true || state.withLock({ $0.isExhausted }) { try round(engine) }
            } catch {
                engine.recorder.report(MergeError(.index, "no room can be made in the store", cause: error))
                endRound(isExhausted: true)
            }
        }
    }

    /// Counts anew what the store takes, when nothing is on its way: what failed was counted too.
    private func settle(_ engine: MergeEngine) throws {
        let (isKnown, isEstimate, before) = state.withLock { ($0.isKnown, $0.isEstimate, $0.used) }
        guard !isKnown || (isEstimate && engine.state.withLock { $0.active.isEmpty }) else { return }
        let used = try engine.store.spaceUsed()
        state.withLock { state in
            // What was counted meanwhile is on its way; of what was counted before anything was known, some may be.
            let underWay = isKnown ? state.used - before : state.used
            state.isEstimate = underWay != 0
            state.used = used + max(0, underWay)
            state.isKnown = true
            if state.used > limit - margin { state.isWanted = true }
        }
    }

    private func round(_ engine: MergeEngine) throws {
        try engine.recorder.flush()
        try engine.store.recordUses()
        let goal = limit - 2 * margin
        var isShort = true
        var candidates = try engine.store.index.evictable(limit: Self.candidateLimit)[...]
        while state.withLock({ $0.used > goal && !$0.isStopping }) {
            let goes = state.withLock { $0.used } - goal
            var sum: Int64 = 0
            let batch = candidates.prefix(Self.batch).prefix { content in
                defer { sum += content.size }
                return sum < goes
            }
            candidates = candidates.dropFirst(batch.count)
            guard !batch.isEmpty else { break }
            let freed = try engine.evictUnopened(Array(batch))
            guard freed.contents > 0 else { continue }
            isShort = false
            state.withLock { $0.used -= freed.bytes }
        }
        let isOver = state.withLock { $0.used > limit }
        endRound(isExhausted: isShort && isOver)
    }

    private func endRound(isExhausted: Bool) {
        state.withLock(notify: true) { state in
            state.rounds += 1
            state.isExhausted = isExhausted
            state.isWanted = state.used > limit - margin && isExhausted
        }
    }
}

extension MergeEngine {
    /// Says that files went out of the store without this engine.
    public func spaceChanged() { space?.forget() }

    /// Who reads contents without this engine: the file system.
    public struct Holders: Sendable {
        /// Lets go of what is only kept for the next open of these contents, and says which of them are open.
        public var release: @Sendable (Set<ContentID>) -> Set<ContentID>

        public init(release: @escaping @Sendable (Set<ContentID>) -> Set<ContentID>) { self.release = release }
    }

    /// Gives up those contents that nobody has open and nobody merges just now.
    ///
    /// - Returns: how many it gave up, and what that freed on disk.
    func evictUnopened(_ contents: [ContentRecord]) throws -> (contents: Int, bytes: Int64) {
        let open = holders.withLock { $0 }?.release(Set(contents.map(\.id))) ?? []
        return try evict(contents.filter { !open.contains($0.id) })
    }
}
