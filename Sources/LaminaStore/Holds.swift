public import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// Layers that code in this process works with, and which the index has no reason to keep yet: those of a running pull. By
/// digest, because they are held before they are looked up.
final class LayerHolds: Sendable {
    private let counts = Monitor<[Digest: Int]>([:])

    func hold(_ digests: [Digest]) { counts.withLock { for digest in digests { $0[digest, default: 0] += 1 } } }

    func release(_ digests: [Digest]) {
        counts.withLock { counts in
            for digest in digests {
                let left = (counts[digest] ?? 1) - 1
                counts[digest] = left > 0 ? left : nil
            }
        }
    }

    /// Runs `body` with the layers that are held; meanwhile no hold can begin.
    func withHeld<Result>(_ body: (Set<Digest>) throws -> Result) rethrows -> Result {
        try counts.withLock { try body(Set($0.keys)) }
    }
}

/// Keeps layers from `Store.collectGarbage` as long as it lives, even if the index does not have them yet.
public final class LayerHold: Sendable {
    private let holds: LayerHolds
    private let digests: [Digest]

    init(_ holds: LayerHolds, _ digests: [Digest]) {
        self.holds = holds
        self.digests = digests
        holds.hold(digests)
    }

    deinit { holds.release(digests) }
}

extension Store {
    /// Holds layers as long as the result lives. Call it before the index is asked for them; it waits while garbage is marked.
    public func hold(_ layers: [Digest]) -> LayerHold { LayerHold(holds, layers) }
}

extension Index {
    /// The layers of views; those that are gone are left out.
    public func layers(of views: Set<ViewID>) throws -> [Digest] {
        try read { database in
            let statement = try database.cached(
                "SELECT l.digest FROM layer_view v JOIN layer l ON l.id = v.layer WHERE v.id = ?")
            return try views.compactMap { view in
                try statement.bind(1, view.row).first { $0.digest(0) } ?? nil
            }
        }
    }
}
