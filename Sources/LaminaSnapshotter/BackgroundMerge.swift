import LaminaMerge
import LaminaStore
import LaminaSystem
import Logging

/// Fetches what is missing of the snapshots' layers, one layer after the other; readers go first.
///
/// It first fetches what is wanted first of each layer; then whole layers, in the order in which they were requested. If a
/// layer comes while another one is fetched whole, what is wanted first of it does not wait: the other fetch goes on
/// afterwards.
final class BackgroundMerge: Sendable {
    private struct Work {
        var layer: LayerID
        var image: SnapshotImage?
        /// Whether it fetches only what is wanted first.
        var isFirst: Bool
        var failures = 0
        var notBefore = ContinuousClock.now

        func isSame(_ other: Work) -> Bool { layer == other.layer && isFirst == other.isFirst }
    }

    private struct State {
        var waiting: [Work] = []
        var isStopping = false

        /// The place of the work that is next.
        var next: Int? {
            let now = ContinuousClock.now
            return waiting.firstIndex { $0.isFirst && $0.notBefore <= now }
                ?? waiting.firstIndex { $0.notBefore <= now }
        }

        /// Whether work of the first kind is due.
        var isFirstWaiting: Bool { next.map { waiting[$0].isFirst } ?? false }
    }

    /// A layer that cannot be fetched is tried again after this time, then after twice as long, up to the limit.
    private static let firstPause = 10.0
    private static let longestPause = 600.0

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
        var new: [Work] = []
        if fetching.first { new.append(Work(layer: layer, image: image, isFirst: true)) }
        if fetching.whole { new.append(Work(layer: layer, image: image, isFirst: false)) }
        state.withLock(notify: true) { state in
            for work in new where !state.waiting.contains(where: work.isSame) { state.waiting.append(work) }
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

    /// Waits for a pull; a pull of a whole layer stops as soon as something is wanted first.
    private func finish(_ pull: LayerPull, _ work: Work) throws {
        var hasStoodBack = false
        while true {
            let result = pull.wait(seconds: 0.25)
            if let result {
                // A cancelled pull also ends without everything having landed.
                if hasStoodBack { return state.withLock { $0.waiting.insert(work, at: 0) } }
                if case .failure(let error) = result, error.code != .interrupted { throw error }
                return
            }
            let (isStopping, isLate) = state.withLock { state in
                (state.isStopping, !work.isFirst && state.isFirstWaiting)
            }
            if isStopping { return pull.cancel() }
            if isLate, !hasStoodBack {
                pull.cancel()
                hasStoodBack = true
            }
        }
    }

    /// The next work that is due; nil at the end.
    private func take() -> Work? {
        while true {
            // Sleeps until a layer is added if none waits, else until the first one is due.
            let pause = state.wait { state -> Double? in
                if state.isStopping { return -1 }
                guard let first = state.waiting.map(\.notBefore).min() else { return nil }
                return max(0, (first - .now) / .seconds(1))
            }
            if pause < 0 { return nil }
            if pause > 0 {
                let count = state.withLock { $0.waiting.count }
                _ = state.wait(seconds: pause) { $0.isStopping || $0.waiting.count > count ? () : nil }
            }
            let next = state.withLock { state in state.next.map { state.waiting.remove(at: $0) } }
            if let next { return next }
        }
    }

    private func retry(_ work: Work, after error: any Error) {
        var work = work
        work.failures += 1
        let pause = min(Self.firstPause * Double(1 << min(work.failures - 1, 10)), Self.longestPause)
        work.notBefore = .now + .seconds(pause)
        log.warning(
            "a layer cannot be fetched for now; what is opened of it is fetched all the same",
            metadata: ["layer": "\(work.layer)", "error": "\(error)", "again in seconds": "\(Int(pause))"])
        state.withLock { [work] in $0.waiting.append(work) }
    }
}
