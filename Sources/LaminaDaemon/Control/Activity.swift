import Synchronization

/// Counts the operations that the server runs for its clients, so that it does not end during one.
final class Activity: Sendable {
    private struct State {
        var running = 0
        var everUsed = false
        var isClosed = false
    }

    private let state: Mutex<State>

    /// - Parameter wasUsed: whether a process before this one had clients.
    init(wasUsed: Bool = false) {
        state = Mutex(State(everUsed: wasUsed))
    }

    /// Begins work for a client.
    ///
    /// - Returns: false if the server is about to end: the client must go to another one.
    func begin() -> Bool {
        state.withLock { state in
            guard !state.isClosed else { return false }
            state.running += 1
            state.everUsed = true
            return true
        }
    }

    /// Lets no more work begin.
    ///
    /// - Returns: false if something runs; then it goes on, and new work may begin.
    func close() -> Bool {
        state.withLock { state in
            guard state.running == 0 else { return false }
            state.isClosed = true
            return true
        }
    }

    /// Takes `close` back.
    func reopen() { state.withLock { $0.isClosed = false } }

    func end() { state.withLock { $0.running -= 1 } }

    /// How many run now.
    var running: Int { state.withLock { $0.running } }

    /// Whether any ever ran.
    var everUsed: Bool { state.withLock { $0.everUsed } }
}
