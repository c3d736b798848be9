import Synchronization

/// Counts values by ranges: what remains of a distribution if only sums are kept. For any thread; a value costs one short lock.
public final class Histogram: Sendable {
    /// What was counted so far.
    public struct Snapshot: Sendable, Equatable {
        /// How many values were at most as large as the bound at the same place; one more for all of them.
        public var cumulativeCounts: [UInt64]
        public var sum: Double

        public var count: UInt64 { cumulativeCounts.last ?? 0 }
    }

    private struct State: Sendable {
        var counts: [UInt64]
        var sum = 0.0
    }

    /// Upper bounds, ascending.
    public let bounds: [Double]
    private let state: Mutex<State>

    public init(bounds: [Double]) {
        self.bounds = bounds
        state = Mutex(State(counts: [UInt64](repeating: 0, count: bounds.count + 1)))
    }

    /// Bounds in seconds for what may take between a millisecond and half an hour.
    public static let seconds: [Double] = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800]

    public func record(_ value: Double) {
        let place = bounds.firstIndex { value <= $0 } ?? bounds.count
        state.withLock {
            $0.counts[place] += 1
            $0.sum += value
        }
    }

    public var snapshot: Snapshot {
        let state = state.withLock { $0 }
        var total: UInt64 = 0
        let counts = state.counts.map { count in
            total += count
            return total
        }
        return Snapshot(cumulativeCounts: counts, sum: state.sum)
    }
}
