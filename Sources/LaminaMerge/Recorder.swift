import LaminaStore
import LaminaSystem
import Synchronization

/// Writes what has landed into the index: one transaction for what came within some milliseconds, so that neither a
/// commit per file costs, nor a kill loses much. A thread of its own, and another for syncfs, which may take seconds.
final class Recorder: Sendable {
    private struct State {
        var landing = Landing()
        var bytes = 0
        var isStopping = false
        var hasVolatile = false
    }

    /// How long a batch is gathered, in seconds.
    private static let gathering = 0.02
    /// Landed bytes that end the gathering: what a kill may cost.
    private static let batchBytes = 4 << 20
    /// How often what has landed is made durable, in seconds.
    private static let syncInterval = 5.0

    private let store: Store
    private let state = Monitor(State())
    private let recording = Monitor(())
    /// Told which contents the index has recorded as merged; set once, before the threads start.
    nonisolated(unsafe) var onRecorded: (@Sendable ([ContentID]) -> Void)?
    /// Told of errors that nobody waits for.
    private let reporter = Mutex<(@Sendable (any Error) -> Void)?>(nil)

    init(store: Store) { self.store = store }

    func setReporter(_ report: @escaping @Sendable (any Error) -> Void) { reporter.withLock { $0 = report } }

    func report(_ error: any Error) { reporter.withLock { $0 }?(error) }

    func add(_ landing: Landing, bytes: Int) {
        state.withLock(notify: true) { state in
            state.landing.chunks += landing.chunks
            state.landing.merged += landing.merged
            state.bytes += bytes
        }
    }

    func loop() {
        while true {
            let goesOn = state.wait { state -> Bool? in
                if !state.landing.isEmpty { return true }
                return state.isStopping ? false : nil
            }
            guard goesOn else { return }
            _ = state.wait(seconds: Self.gathering) { state -> Bool? in
                state.isStopping || state.bytes >= Self.batchBytes ? true : nil
            }
            flush()
        }
    }

    /// Records everything that has been added so far. On any thread.
    func flush() {
        // One at a time: a batch that was taken later must not be committed before an earlier one.
        recording.withLock { _ in
            let landing = state.withLock { state in
                defer {
                    state.landing = Landing()
                    state.bytes = 0
                }
                return state.landing
            }
            guard !landing.isEmpty else { return }
            do {
                try store.record(landing)
                state.withLock { $0.hasVolatile = true }
                onRecorded?(landing.merged.map(\.content))
            } catch {
                // The bytes stand in the files; the index does not know and they will be fetched again.
                report(error)
            }
        }
    }

    func syncLoop() {
        while true {
            let stopping = state.wait(seconds: Self.syncInterval) { $0.isStopping ? true : nil }
            if stopping == true { return }
            sync()
        }
    }

    /// Makes durable what was recorded, if anything was since the last time.
    func sync() {
        let isNeeded = state.withLock { state in
            defer { state.hasVolatile = false }
            return state.hasVolatile
        }
        guard isNeeded else { return }
        do { try store.makeDurable() } catch { report(error) }
    }

    func stop() { state.withLock(notify: true) { $0.isStopping = true } }
}
