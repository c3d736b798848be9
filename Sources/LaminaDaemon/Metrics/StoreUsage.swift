import LaminaSystem

/// Totals of the store, counted now and then: counting a million files takes a second, and a metrics server may ask often.
final class StoreUsage<Value: Sendable>: Sendable {
    private struct State {
        var usage: Value?
        var countedAt = 0.0
        var seconds = 0.0
    }

    /// How many seconds a count is valid, and how many times as long as counting took.
    private static var leastAge: Double { 10 }
    private static var share: Double { 20 }

    private let state = Monitor(State())

    /// The counts. They may be so old that counting takes a twentieth of a processor at most. Blocks while it counts.
    func current(_ count: () throws -> Value) throws -> Value {
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
