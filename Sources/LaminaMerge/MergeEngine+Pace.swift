import LaminaOCI
import LaminaStore
import LaminaSystem

// How long background requests are.

extension MergeEngine {
    /// The compressed bytes of the next background request for a layer.
    func rangeSize(of layer: LayerID) -> Int {
        let hasReaders = state.withLock { $0.hasReaders(at: ContinuousClock().now) }
        return pace(of: layer).rangeSize(besideReaders: hasReaders)
    }

    /// What is known of the place that a layer is fetched from.
    func pace(of layer: LayerID) -> ConnectionPace {
        guard let location = try? sources.sources(of: layer).sources.first?.location else { return ConnectionPace() }
        return paces[location]
    }
}

extension EngineState {
    /// How long after a reader's fetch background requests are still kept short: it may be the first of many.
    private static let readerMemory: Duration = .seconds(1)

    /// Whether readers wait for bytes, or did a moment ago.
    func hasReaders(at now: ContinuousClock.Instant) -> Bool {
        urgentRunning > 0 || !jobs.isEmpty || lastUrgent.map { now - $0 < Self.readerMemory } ?? false
    }
}
