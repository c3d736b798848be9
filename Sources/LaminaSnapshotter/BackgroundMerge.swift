import LaminaMerge
import LaminaStore
import LaminaSystem
import Logging

/// Fetches what is missing of the snapshots' layers, one layer after the other; readers go first.
///
/// It first fetches what is wanted first of each layer; then whole layers, in the order in which they were requested. If a
/// layer comes while another one is fetched whole, what is wanted first of it does not wait: the other fetch goes on
/// afterwards. A layer whose source brings nothing does not keep the others waiting: it goes behind them.
final class BackgroundMerge: Sendable {
    private typealias Work = BackgroundQueue.Work

    private struct State {
        var queue = BackgroundQueue()
        var isStopping = false
    }

    private let merge: MergeEngine
    private let log: Logger
    private let state = Monitor(State())
    private let thread = Monitor<Thread?>(nil)

    init(merge: MergeEngine, log: Logger) throws {
        self.merge = merge
        self.log = log
        let thread = try Thread("background") { [self] in work() }
        self.thread.withLock { $0 = thread }
    }

    func add(_ layer: LayerID, of image: SnapshotImage?, _ fetching: LayerFetching) {
        state.withLock(notify: true) { state in
            let now = ContinuousClock.now
            if fetching.first { state.queue.add(Work(layer: layer, image: image, isFirst: true, notBefore: now)) }
            if fetching.whole { state.queue.add(Work(layer: layer, image: image, isFirst: false, notBefore: now)) }
        }
    }

    /// Ends the thread; what has landed stays.
    func stop() {
        state.withLock(notify: true) { $0.isStopping = true }
        thread.withLock { $0.take() }?.join()
    }

    private func work() {
        while let next = take() {
            do {
                let pull = try next.isFirst ? merge.pullFirst(next.layer, of: next.image) : merge.pull(next.layer)
                if let pull { try finish(pull, next) }
            } catch {
                retry(next, after: error)
            }
        }
    }

    /// Waits for a pull; a pull of a whole layer stops as soon as something is wanted first, and each as soon as it brings nothing
    /// while others wait.
    private func finish(_ pull: LayerPull, _ work: Work) throws {
        var watch = LandingWatch(at: .now)
        var hasStoodBack = false
        while true {
            let result = pull.wait(seconds: 0.25)
            if let result {
                // A cancelled pull also ends without everything having landed.
                if hasStoodBack { return state.withLock { $0.queue.putBack(work) } }
                if case .failure(let error) = result, error.code != .interrupted { throw error }
                return
            }
            let now = ContinuousClock.now
            watch.note(landed: pull.landedBytes, at: now)
            let (isStopping, isLate, isAwaited) = state.withLock { state in
                (
                    state.isStopping, !work.isFirst && state.queue.isFirstWaiting(at: now),
                    state.queue.isWaiting(at: now)
                )
            }
            if isStopping { return pull.cancel() }
            if isLate, !hasStoodBack {
                pull.cancel()
                hasStoodBack = true
            }
            guard watch.isStalled, isAwaited || hasStoodBack else { continue }
            // What it has asked for may never come.
            pull.cancel()
            let hasLanded = watch.hasLanded
            return state.withLock { $0.queue.putBehind(work, hasLanded: hasLanded, at: now) }
        }
    }

    /// The next work that is due; nil at the end.
    private func take() -> Work? {
        while true {
            // Sleeps until a layer is added if none waits, else until the first one is due.
            let pause = state.wait { state -> Double? in
                if state.isStopping { return -1 }
                guard let first = state.queue.firstDue else { return nil }
                return max(0, (first - .now) / .seconds(1))
            }
            if pause < 0 { return nil }
            if pause > 0 {
                _ = state.wait(seconds: pause) { $0.isStopping || $0.queue.isWaiting(at: .now) ? () : nil }
            }
            let next = state.withLock { $0.queue.take(at: .now) }
            if let next { return next }
        }
    }

    private func retry(_ work: Work, after error: any Error) {
        let pause = state.withLock { $0.queue.retry(work, at: .now) }
        log.warning(
            "a layer cannot be fetched for now; what is opened of it is fetched all the same",
            metadata: ["layer": "\(work.layer)", "error": "\(error)", "again in seconds": "\(Int(pause))"])
    }
}
