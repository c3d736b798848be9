import LaminaStore
import LaminaSystem

/// What the store holds, counted now and then: with a million files it takes a second, and whoever asks may ask often.
final class StoreUsage: Sendable {
    private struct State {
        var usage: CacheUsage?
        var countedAt = 0.0
        var seconds = 0.0
    }

    /// Seconds for which a count is good, and how many times longer than it took.
    private static let leastAge = 10.0
    private static let share = 20.0

    private let state = Monitor(State())

    /// The counts, at most so old that counting takes a twentieth of a processor. Blocks while it counts.
    func current(_ count: () throws -> CacheUsage) throws -> CacheUsage {
        try state.withLock { state in
            let now = monotonicSeconds()
            if let usage = state.usage, now - state.countedAt < max(Self.leastAge, state.seconds * Self.share) {
                return usage
            }
            let usage = try count()
            state = State(usage: usage, countedAt: now, seconds: monotonicSeconds() - now)
            return usage
        }
    }
}
