import Synchronization

/// Counts the operations that the server works on for its clients, so that it does not end under them.
final class Activity: Sendable {
    private struct State {
        var running = 0
        var everUsed = false
    }

    private let state = Mutex(State())

    func begin() {
        state.withLock {
            $0.running += 1
            $0.everUsed = true
        }
    }

    func end() { state.withLock { $0.running -= 1 } }

    /// How many run now.
    var running: Int { state.withLock { $0.running } }

    /// Whether any ever ran.
    var everUsed: Bool { state.withLock { $0.everUsed } }
}
