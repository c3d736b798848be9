import LaminaSQLite

/// How many snapshots containerd has here, and which layers are not lazy.
public struct SnapshotSummary: Sendable, Codable, Equatable {
    /// A layer that was unpacked, although its client offered it for lazy mounting.
    public struct Refusal: Sendable, Codable, Equatable {
        public var name: String
        public var reason: String
        /// RFC 3339.
        public var createdAt: String
    }

    public var snapshots: Int64
    /// Layers that were not downloaded.
    public var lazyLayers: Int64
    /// Layers that were unpacked.
    public var unpackedLayers: Int64
    /// The newest first; not all if there are many.
    public var refusals: [Refusal]
}

extension Index {
    /// What is known of containerd's snapshots; at most `limit` refusals.
    public func snapshotSummary(limit: Int) throws -> SnapshotSummary {
        try read { database in
            let refusals = try database.cached(
                """
                SELECT name, refusal, created_at FROM snapshot_status WHERE refusal IS NOT NULL
                ORDER BY created_at DESC, name LIMIT ?
                """
            ).bind(1, Int64(limit)).map {
                SnapshotSummary.Refusal(name: $0.text(0), reason: $0.text(1), createdAt: $0.text(2))
            }
            let summary = try database.cached(
                "SELECT count(*), count(view), coalesce(sum(kind = 3 AND view IS NULL), 0) FROM snapshot"
            ).first {
                SnapshotSummary(
                    snapshots: $0.integer(0), lazyLayers: $0.integer(1), unpackedLayers: $0.integer(2),
                    refusals: refusals)
            }
            guard let summary else { throw StoreError(.damaged, "the snapshots of \(path) cannot be counted") }
            return summary
        }
    }
}
