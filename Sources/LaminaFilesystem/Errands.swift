import LaminaSystem

/// Does what a FUSE thread may not do itself, because it may wait: for a disk, for an ioctl, or for a lock whose holder waits.
/// Its threads start when there is something to do, and end when there was nothing for a while.
///
/// Errands begin in the order in which they were given; with more than one thread they may end in another order.
final class Errands: Sendable {
    typealias Errand = @Sendable () -> Void

    private struct State {
        var waiting: [Errand] = []
        var threads = 0
        /// How many of the threads wait for errands.
        var idle = 0
    }

    private let name: String
    private let limit: Int
    private let state = Monitor(State())
    /// Seconds after which a thread that has nothing to do ends.
    private static let patience = 10.0

    /// - Parameters:
    ///   - name: of the threads; 15 bytes of it are kept.
    ///   - limit: threads at once.
    init(_ name: String, limit: Int) {
        self.name = name
        self.limit = limit
    }

    /// Has something done, and does not wait for it. If no thread can be started, it is done here: late is better than never.
    func run(_ errand: @escaping Errand) {
        let needsThread = state.withLock(notify: true) { state in
            state.waiting.append(errand)
            guard state.waiting.count > state.idle, state.threads < limit else { return false }
            state.threads += 1
            return true
        }
        guard needsThread else { return }
        do throws(SystemError) {
            try startDetached(name) { [self] in loop(patience: Self.patience) }
        } catch {
            loop(patience: 0)
        }
    }

    /// Waits until all errands that were given so far, and the errands that these gave, are done.
    func finish() { state.wait { $0.waiting.isEmpty && $0.threads == $0.idle ? () : nil } }

    private func loop(patience: Double) {
        while true {
            state.withLock(notify: true) { $0.idle += 1 }
            let next = state.wait(seconds: patience) { state -> Errand? in
                guard !state.waiting.isEmpty else { return nil }
                state.idle -= 1
                return state.waiting.removeFirst()
            }
            if let next {
                next()
                continue
            }
            let hasEnded = state.withLock(notify: true) { state in
                state.idle -= 1
                // An errand came between the end of the wait and here, and found a thread idle.
                guard state.waiting.isEmpty else { return false }
                state.threads -= 1
                return true
            }
            if hasEnded { return }
        }
    }
}
