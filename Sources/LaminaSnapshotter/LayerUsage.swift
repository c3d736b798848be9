import LaminaStore
import LaminaSystem
import Synchronization

/// How much lazy layers take on disk. CRI asks for every snapshot each 10 s, so a figure is kept as long as nothing has changed
/// in the store, and for a while when something has.
final class LayerUsage: Sendable {
    private struct Known {
        var usage: SnapshotUsage
        var version: UInt64
        var time: ContinuousClock.Instant
    }

    /// How old a figure may be while bytes come in. kubelet asks each 10 s, and sees one that is at most a minute old.
    private static let age = Duration.seconds(30)

    private let store: Store
    private let known = Mutex<[LayerID: Known]>([:])

    init(store: Store) { self.store = store }

    /// What a snapshot of a layer adds: nothing if there is an older snapshot of the same layer.
    func usage(of layer: LayerID, for snapshot: SnapshotID) throws -> SnapshotUsage {
        guard try store.index.isFirst(snapshot, of: layer) else { return SnapshotUsage(bytes: 0, inodes: 0) }
        let (version, now) = (store.index.contentVersion, ContinuousClock.now)
        if let known = known.withLock({ $0[layer] }), known.version == version || now - known.time < Self.age {
            return known.usage
        }
        let usage = try store.index.usage(of: layer)
        known.withLock { known in
            // Figures of deleted layers may be left: they are forgotten with the rest.
            if known.count > 10_000 { known = [:] }
            known[layer] = Known(usage: usage, version: version, time: now)
        }
        return usage
    }
}
