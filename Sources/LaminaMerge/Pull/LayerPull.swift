import LaminaStore
import LaminaSystem
import Synchronization

/// Merges everything of one layer that the store does not have, in the order of its blob, or some contents of it; what readers wait
/// for goes first.
///
/// It is the caller's handle of a pull; `PlannedPull` is what the plan knows of it.
public final class LayerPull: Sendable {
    private struct State {
        var result: Result<Void, MergeError>?
        var landedBytes: Int64 = 0
        /// What is to be pulled; given to the plan once.
        var chosen: (contents: [UnmergedContent], time: UInt64)?
        var id: PullID?
        var origin = Origin.any
        weak var board: PlanBoard?
    }

    let layer: LayerID
    private let state: Monitor<State>

    init(layer: LayerID) {
        self.layer = layer
        state = Monitor(State())
    }

    /// Merges only some contents, in about this order.
    ///
    /// - Parameter time: the plan's time before they were read from the index.
    init(layer: LayerID, first contents: [UnmergedContent], readAt time: UInt64) {
        self.layer = layer
        var state = State()
        state.chosen = (contents, time)
        self.state = Monitor(state)
    }

    /// Uncompressed bytes that this pull has landed so far.
    public var landedBytes: Int64 { state.withLock { $0.landedBytes } }

    /// Asks for nothing more.
    public func cancel() {
        let (id, board) = state.withLock { ($0.id, $0.board) }
        if let id { board?.cancel(id) }
    }

    /// Waits at most `seconds`.
    ///
    /// - Returns: nil while it goes on; then the first error, or success.
    public func wait(seconds: Double) -> Result<Void, MergeError>? {
        state.wait(seconds: seconds) { $0.result }
    }

    // MARK: For the board

    func set(id: PullID, origin: Origin, board: PlanBoard) {
        state.withLock { state in
            state.id = id
            state.origin = origin
            state.board = board
        }
    }

    /// What the plan takes; nil before it has an id.
    var planned: PlannedPull? {
        state.withLock { state in
            guard let id = state.id else { return nil }
            guard let (contents, time) = state.chosen else {
                return PlannedPull(id: id, layer: layer, origin: state.origin)
            }
            state.chosen = nil
            return PlannedPull(id: id, layer: layer, origin: state.origin, first: contents, readAt: time)
        }
    }

    func landed(_ bytes: Int) { state.withLock { $0.landedBytes += Int64(bytes) } }

    func ended(_ result: Result<Void, MergeError>) {
        state.withLock(notify: true) { if $0.result == nil { $0.result = result } }
    }
}
