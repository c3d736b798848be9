import LaminaSystem

/// How far the fetching of a stream may be ahead of what is recorded: that is what a kill costs.
///
/// It requests ranges that end within the window. If it requested all the rest, the server would send as much as the sockets on
/// the way take, and a kill would lose these megabytes unread.
final class FetchWindow: Sendable {
    private struct State {
        /// Up to here, in the blob, a later process need not fetch.
        var recorded: Int64
        /// Up to here everything was placed.
        var placed: Int64
        var isClosed = false
    }

    /// How many bytes beyond what is recorded.
    private let size: Int64
    /// No request is smaller, while there is something to do without it.
    private let leastRequest: Int64
    private let state: Monitor<State>

    init(size: Int64, leastRequest: Int64, recorded: Int64) {
        self.size = size
        self.leastRequest = leastRequest
        state = Monitor(State(recorded: recorded, placed: recorded))
    }

    /// Waits until something may be fetched.
    ///
    /// - Returns: where the next request ends; nil if the stream has ended.
    func end(from position: Int64, blobSize: Int64, minimum: Int64) -> Int64? {
        let end = state.wait { state -> Int64?? in
            if state.isClosed { return .some(nil) }
            let limit = min(state.recorded + size, blobSize)
            if limit == blobSize || limit - position >= leastRequest { return max(limit, position) }
            // All is placed and nothing could be recorded: the next checkpoint needs more bytes than the window has.
            if state.placed >= position { return max(limit, min(position + minimum, blobSize)) }
            return nil
        }
        return end
    }

    /// Notes what has been done.
    func advance(placed: Int64, recorded: Int64?) {
        state.withLock(notify: true) { state in
            state.placed = max(state.placed, placed)
            if let recorded { state.recorded = max(state.recorded, recorded) }
        }
    }

    /// Lets the fetching end.
    func close() { state.withLock(notify: true) { $0.isClosed = true } }
}
