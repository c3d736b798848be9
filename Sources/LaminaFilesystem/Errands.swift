import LaminaSystem

/// Does what a FUSE thread may not do itself, because it may wait: for a disk, for a lock that somebody holds while waiting, for
/// an ioctl. Its threads are started when there is something to do, and end when there was nothing for a while.
///
/// Errands begin in the order in which they were given; where there is more than one thread they need not end in it.
final class Errands: Sendable {
    typealias Errand = @Sendable () -> Void

    private struct State {
        var waiting: [Errand] = []
        var threads = 0
        /// Of the threads, those that wait for errands.
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

    /// Has something done, and does not wait for it. Where no thread can be had at all it is done here: late is better than never.
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

    /// Waits until everything that was given so far, and what came of it, is done.
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
                // One came between the end of the wait and here, and found a thread idle.
                guard state.waiting.isEmpty else { return false }
                state.threads -= 1
                return true
            }
            if hasEnded { return }
        }
    }
}
