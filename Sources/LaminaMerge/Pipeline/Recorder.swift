import LaminaStore
import LaminaSystem
import Synchronization

/// Writes into the index what has landed. One transaction records what came within some milliseconds, so that neither a commit
/// per file costs much, nor a kill. It has its own thread, and another for syncfs, which may take seconds.
final class Recorder: Sendable {
    private struct State {
        var landing = Landing()
        var bytes = 0
        var isStopping = false
        var isSyncWanted = false
    }

    /// How long it gathers a batch, in seconds.
    private static let gathering = 0.03
    /// How many landed bytes end the gathering: what a kill may cost, besides what is in flight. Each transaction writes the
    /// pages that it touches to the log again, so smaller batches write more.
    private static let batchBytes = 8 << 20
    /// How often what has landed is made durable, in seconds.
    private static let syncInterval = 5.0
    /// How long after an error of the index it tries again, in seconds.
    private static let patience = 1.0

    private let store: Store
    private let state = Monitor(State())
    private let recording = Monitor(())
    private let syncing = Monitor(())
    private let onRecorded: @Sendable (Landing, _ bytes: Int) -> Void
    private let onRefused: @Sendable (any Error) -> Void
    private let reporter: ErrorReporter

    /// - Parameters:
    ///   - onRecorded: gets what the index has recorded, on the thread that recorded it.
    ///   - onRefused: gets the reason why the index records nothing now.
    init(
        store: Store, reporter: ErrorReporter, onRecorded: @escaping @Sendable (Landing, _ bytes: Int) -> Void,
        onRefused: @escaping @Sendable (any Error) -> Void
    ) {
        self.store = store
        self.reporter = reporter
        self.onRecorded = onRecorded
        self.onRefused = onRefused
    }

    func report(_ error: any Error) { reporter.report(error) }

    func add(_ landing: Landing, bytes: Int) {
        state.withLock(notify: true) { state in
            state.landing.chunks += landing.chunks
            state.landing.merged += landing.merged
            state.landing.tarParts += landing.tarParts
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
            do {
                try flush()
            } catch {
                report(error)
                if state.wait(seconds: Self.patience, { $0.isStopping ? true : nil }) == true { return }
            }
        }
    }

    /// Records everything that has been added so far. May be called on any thread.
    ///
    /// - Throws: `StoreError`; what was not recorded is tried again with the next batch.
    func flush() throws {
        // One at a time: a later batch must not be committed before an earlier one.
        try recording.withLock { _ in
            let (landing, bytes) = state.withLock { state in
                defer {
                    state.landing = Landing()
                    state.bytes = 0
                }
                return (state.landing, state.bytes)
            }
            guard !landing.isEmpty else { return }
            do {
                try store.record(landing)
                onRecorded(landing, bytes)
            } catch {
                // The bytes are in the files; only the index does not know it.
                state.withLock { state in
                    state.landing.chunks = landing.chunks + state.landing.chunks
                    state.landing.merged = landing.merged + state.landing.merged
                    state.landing.tarParts = landing.tarParts + state.landing.tarParts
                    state.bytes += bytes
                }
                onRefused(error)
                throw error
            }
        }
    }

    /// - Parameter onInterval: called every few seconds.
    func syncLoop(onInterval: () -> Void) {
        while true {
            let stopping = state.wait(seconds: Self.syncInterval) { state -> Bool? in
                if state.isStopping { return true }
                defer { state.isSyncWanted = false }
                return state.isSyncWanted ? false : nil
            }
            if stopping == true { return }
            do { try sync() } catch { report(error) }
            onInterval()
        }
    }

    /// Has the sync thread make durable what is recorded now; does not wait for it.
    func requestSync() { state.withLock(notify: true) { $0.isSyncWanted = true } }

    /// Makes durable what was recorded, by any code, if anything was since the last time.
    func sync() throws {
        // One at a time: a caller that finds nothing left to do must not return before it is done.
        try syncing.withLock { _ in _ = try store.makeDurable() }
    }

    func stop() { state.withLock(notify: true) { $0.isStopping = true } }
}
