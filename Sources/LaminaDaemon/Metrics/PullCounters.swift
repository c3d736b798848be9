import LaminaSystem
import Synchronization

/// Counts rare events, on any thread.
final class EventCounter: Sendable {
    private let state = Atomic<UInt64>(0)

    var value: UInt64 { state.load(ordering: .relaxed) }

    func count() { state.add(1, ordering: .relaxed) }
}

/// Counts the pulls of an engine, those of mounts included.
final class PullCounters: Sendable {
    enum Result: String, CaseIterable {
        case success, failure, interrupted
    }

    struct Snapshot {
        var running = 0
        var results: [Result: UInt64] = [:]
    }

    let durations = Histogram(bounds: Histogram.seconds)
    private let state = Mutex(Snapshot())

    var snapshot: Snapshot { state.withLock { $0 } }

    /// Counts what `work` does.
    ///
    /// - Parameter failed: gets the error that it throws, unless it was asked to stop.
    func count<Value>(_ work: () throws -> Value, failed: (any Error) -> Void) throws -> Value {
        let started = monotonicSeconds()
        state.withLock { $0.running += 1 }
        var result = Result.success
        defer {
            state.withLock {
                $0.running -= 1
                $0.results[result, default: 0] += 1
            }
            durations.record(monotonicSeconds() - started)
        }
        do {
            return try work()
        } catch {
            if ExitStatus.code(of: error) == ExitStatus.interrupted.rawValue {
                result = .interrupted
            } else {
                result = .failure
                failed(error)
            }
            throw error
        }
    }
}
