import LaminaSystem
import Synchronization

// A reader's request that hangs, and that nobody waits for any more, is given up.

extension MergeEngine {
    /// Whether nobody waits for anything of a job any more.
    func isUnwanted(_ job: FetchJob) -> Bool {
        state.withLock { _ in !job.members.contains { $0.isWanted } }
    }

    /// Takes members back that nobody waited for when their read was given up: who wants them asks anew. Those that
    /// somebody has asked for in this very moment are fetched at once, by another request.
    func withdraw(_ members: [Member], of job: FetchJob) {
        state.withLock(notify: true) { state in
            var rest = members
            if let first = members.firstIndex(where: \.isWanted), let last = members.lastIndex(where: \.isWanted) {
                var again = job
                // All in between: a job's members stand side by side.
                again.members = Array(members[first...last])
                state.jobs.append(again)
                rest.removeSubrange(first...last)
            }
            for part in rest.flatMap(\.parts) where part.content.states[part.index] == .inFlight {
                part.content.states[part.index] = .absent
            }
            for part in rest.flatMap(\.parts) {
                part.content.isFirstAwaited = false
                state.forgetIfIdle(part.content)
            }
        }
    }
}

extension Member {
    /// Whether somebody waits for a part of it; with the engine's lock.
    fileprivate var isWanted: Bool {
        parts.contains { part in part.content.waiters.contains { $0.chunks.contains(part.index) } }
    }
}

/// Tells when a read has brought nothing for a while that nobody waits for: a server that hangs holds no chunk, and no
/// fetcher, longer than anybody has patience.
final class ReadWatch: Sendable {
    /// What a connection that is well does not take for its next bytes.
    private static let limit: Duration = .seconds(1)
    private let lastBytes = Mutex(ContinuousClock().now)
    private let givenUp = Atomic<Bool>(false)

    var hasGivenUp: Bool { givenUp.load(ordering: .relaxed) }

    func progressed() { lastBytes.withLock { $0 = ContinuousClock().now } }

    /// Asked again and again while nothing comes.
    ///
    /// - Parameter isUnwanted: asked when it has lasted long enough; may take a lock.
    func shouldGiveUp(_ isUnwanted: () -> Bool) -> Bool {
        if hasGivenUp { return true }
        let last = lastBytes.withLock { $0 }
        guard ContinuousClock().now - last > Self.limit, isUnwanted() else { return false }
        givenUp.store(true, ordering: .relaxed)
        return true
    }
}
