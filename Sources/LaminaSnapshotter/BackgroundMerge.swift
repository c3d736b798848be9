import LaminaMerge
import LaminaStore
import LaminaSystem
import Logging

/// Fetches what is missing of the layers that snapshots are of, one layer after the other, while readers go first.
///
/// In the order in which they were asked for; within a layer in the order of its blob, where what was prioritized stands first.
final class BackgroundMerge: Sendable {
    private struct Waiting {
        var layer: LayerID
        var failures = 0
        var notBefore = ContinuousClock.now
    }

    private struct State {
        var waiting: [Waiting] = []
        var isStopping = false
    }

    /// A layer that cannot be fetched is tried again after this long, then after twice as long, up to the limit.
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

    func add(_ layers: [LayerID]) {
        state.withLock(notify: true) { state in
            for layer in layers where !state.waiting.contains(where: { $0.layer == layer }) {
                state.waiting.append(Waiting(layer: layer))
            }
        }
    }

    /// Ends the thread; what has landed stays.
    func stop() {
        state.withLock(notify: true) { $0.isStopping = true }
        thread.withLock { $0.take() }?.join()
    }

    private func work() {
        while let next = take() {
            let pull = merge.pull(next.layer)
            var result: Result<Void, MergeError>?
            while result == nil {
                result = pull.wait(seconds: 0.25)
                if state.withLock({ $0.isStopping }) { return pull.cancel() }
            }
            guard case .failure(let error) = result, error.code != .interrupted else { continue }
            retry(next, after: error)
        }
    }

    /// The next layer whose time has come; nil at the end.
    private func take() -> Waiting? {
        while true {
            // Sleeps until somebody adds a layer where none waits, else until the first one's time.
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
            let next = state.withLock { state -> Waiting? in
                guard let index = state.waiting.firstIndex(where: { $0.notBefore <= .now }) else { return nil }
                return state.waiting.remove(at: index)
            }
            if let next { return next }
        }
    }

    private func retry(_ layer: Waiting, after error: MergeError) {
        var layer = layer
        layer.failures += 1
        let pause = min(Self.firstPause * Double(1 << min(layer.failures - 1, 10)), Self.longestPause)
        layer.notBefore = .now + .seconds(pause)
        log.warning(
            "a layer cannot be fetched for now; what is opened of it is fetched all the same",
            metadata: ["layer": "\(layer.layer)", "error": "\(error)", "again in seconds": "\(Int(pause))"])
        state.withLock { [layer] in $0.waiting.append(layer) }
    }
}
