import LaminaStore
import LaminaSystem

/// Merges the rest of one content behind its readers' backs, the bytes behind the latest read first.
final class ContentPull: Producer, @unchecked Sendable {
    // @unchecked: `isProducing` is touched with the engine's lock held only.
    var isProducing = false
    var isHeld: Bool { content.isFirstAwaited }
    private let content: ActiveContent

    init(_ content: ActiveContent) { self.content = content }

    func next(_ engine: MergeEngine) -> FetchJob? {
        // Those of one file are of one layer, but for what others have of it.
        guard let layer = content.chunks.first?.source.layer else { return nil }
        let limit = engine.rangeSize(of: layer)
        return engine.state.withLock { _ in
            guard content.background === self else { return nil }
            let count = content.chunks.count
            let start = min(content.cursor, count)
            guard
                let first = (start..<count).first(where: { content.states[$0] == .absent })
                    ?? (0..<start).first(where: { content.states[$0] == .absent })
            else {
                content.background = nil
                return nil
            }
            var job = FetchJob(
                layer: content.chunks[first].source.layer, members: [], isUrgent: false, limit: limit)
            var index = first
            while index < count, content.states[index] == .absent, job.canTake(content, index) {
                content.states[index] = .inFlight
                job.add(content, index)
                index += 1
            }
            content.cursor = index
            return job
        }
    }

    func stop() -> [MergeCompletion] {
        content.background = nil
        return []
    }

    func withdraw(_ state: inout EngineState) -> [MergeCompletion] { [] }

    func ended(_ error: MergeError?) {}
}
