public import LaminaDigest
import LaminaSQLite

extension Index {
    /// A snapshot by its key; nil if there is none.
    public func snapshot(_ key: SnapshotKey) throws -> SnapshotRecord? { try read { try $0.snapshot(key) } }

    /// A page of snapshots in the order in which they were made: those after `after`, at most `limit`.
    ///
    /// - Parameter chain: only those with this chain ID.
    public func snapshots(after: SnapshotID?, limit: Int, chain: String? = nil) throws -> [SnapshotRecord] {
        try read { database in
            let rows: [Int64]
            if let chain {
                rows = try database.cached(
                    """
                    SELECT snapshot FROM snapshot_label WHERE name = 'containerd.io/snapshot.ref' AND value = ? AND snapshot > ?
                    ORDER BY snapshot LIMIT ?
                    """
                ).bind(1, text: chain).bind(2, after?.row ?? 0).bind(3, Int64(limit)).map { $0.integer(0) }
            } else {
                rows = try database.cached("SELECT id FROM snapshot WHERE id > ? ORDER BY id LIMIT ?")
                    .bind(1, after?.row ?? 0).bind(2, Int64(limit)).map { $0.integer(0) }
            }
            return try rows.compactMap { row in
                try database.cached(snapshotColumns + "WHERE s.id = ?").bind(1, row).first { try $0.snapshot(database) }
            }
        }
    }

    /// A snapshot with the places of its parents, for its mounts; nil if there is none.
    public func snapshotChain(_ key: SnapshotKey) throws -> SnapshotChain? {
        try read { database in
            let found = try database.cached("SELECT id, kind, parent, sealed FROM snapshot WHERE key = ?")
                .bind(1, blob: key.bytes)
                .first {
                    (
                        $0.integer(0), SnapshotKind(rawValue: $0.integer(1)), $0.integer(2),
                        $0.optionalInteger(3).map(SealedID.init)
                    )
                }
            guard let (id, kind, parent, sealed) = found, let kind else { return nil }
            return SnapshotChain(
                id: SnapshotID(id), kind: kind,
                parents: try database.places(from: parent == 0 ? nil : SnapshotID(parent)), sealed: sealed)
        }
    }

    /// The chain ID of a lazy layer; nil if the key names no lazy layer.
    public func lazyChain(of key: SnapshotKey) throws -> String? {
        guard let record = try snapshot(key), record.layer != nil else { return nil }
        return record.labels[snapshotChainLabel]
    }

    /// What the root directory of a view shows as its owner.
    public func owner(of view: ViewID) throws -> SnapshotOwner? {
        try read { database in
            try database.cached("SELECT i.uid, i.gid FROM layer_view v JOIN inode i ON i.id = v.root WHERE v.id = ?")
                .bind(1, view.row).first {
                    SnapshotOwner(
                        user: UInt32(truncatingIfNeeded: $0.integer(0)),
                        group: UInt32(truncatingIfNeeded: $0.integer(1)))
                }
        }
    }

    /// The plain layers that have come, or of which a part has, and that nothing holds yet: what a pull that ended with its
    /// process can go on from.
    public func unheldPlainLayers() throws -> [Digest] {
        try read { database in
            try database.cached(
                """
                SELECT digest FROM layer WHERE toc_digest IS NULL AND toc_checksum IS NULL AND toc_proof = 3
                    AND id NOT IN (SELECT layer FROM layer_holder)
                UNION SELECT digest FROM stream WHERE state IS NOT NULL OR digest NOT IN (SELECT digest FROM layer)
                """
            ).map { $0.digest(0) }.compactMap(\.self)
        }
    }

    /// How much the files of a lazy layer take on disk, except those that an older layer has too: what its snapshot adds to the
    /// store.
    ///
    /// Reads a row for each content that the layer was the first to have.
    public func usage(of layer: LayerID) throws -> SnapshotUsage {
        let usage = try read { database in
            try database.cached(
                """
                SELECT coalesce(sum((max(0, iif(c.state = 2, c.size, c.landed) - c.holes) + 4095) / 4096 * 4096), 0),
                       count(*)
                FROM layer_group lg
                CROSS JOIN content_group g ON g.id = lg.content_group
                CROSS JOIN content c ON c.id BETWEEN g.first_content AND g.last_content AND +c.content_group = g.id
                WHERE lg.layer = ?1 AND c.state > 0
                AND NOT EXISTS (SELECT 1 FROM layer_group o WHERE o.content_group = g.id AND o.layer < ?1)
                """
            ).bind(1, layer.row).first { SnapshotUsage(bytes: $0.integer(0), inodes: $0.integer(1)) }
        }
        return usage ?? SnapshotUsage(bytes: 0, inodes: 0)
    }

    /// Whether a layer's bytes are counted for this snapshot: for the oldest of those that are this layer.
    public func isFirst(_ id: SnapshotID, of layer: LayerID) throws -> Bool {
        try read { database in
            try database.cached("SELECT min(id) FROM snapshot WHERE layer = ?").bind(1, layer.row)
                .first { $0.integer(0) == id.row } ?? false
        }
    }

    /// The layers of lazy snapshots that have not landed completely, the newest snapshot last.
    public func unmergedSnapshotLayers() throws -> [UnmergedSnapshotLayer] {
        try read { database in
            // For columns outside an aggregate, SQLite takes the values of the row with the minimum.
            let found = try database.cached(
                """
                SELECT s.layer, min(s.id), s.reference, s.manifest_digest FROM snapshot s
                WHERE EXISTS (SELECT 1 FROM layer_group lg JOIN content_group g ON g.id = lg.content_group
                              WHERE lg.layer = s.layer AND g.merged < g.contents)
                GROUP BY s.layer ORDER BY min(s.id)
                """
            ).map { row in
                let image = row.digest(3).map { SnapshotImage(reference: row.text(2), manifest: $0) }
                return (
                    UnmergedSnapshotLayer(layer: LayerID(row.integer(0)), image: image, labels: [:]), row.integer(1)
                )
            }
            return try found.map { layer, snapshot in
                var layer = layer
                layer.labels = try database.snapshotLabels(snapshot)
                return layer
            }
        }
    }
}

private let snapshotColumns = """
    SELECT s.id, s.key, p.key, s.kind, s.layer, s.bytes, s.inodes, s.created_at, s.updated_at, s.parent, s.view
    FROM snapshot s LEFT JOIN snapshot p ON p.id = s.parent

    """

extension Statement {
    fileprivate func snapshot(_ database: Connection) throws -> SnapshotRecord {
        let id = integer(0)
        guard let kind = SnapshotKind(rawValue: integer(3)) else {
            throw StoreError(.damaged, "snapshot \(id) of the index has the kind \(integer(3))")
        }
        let isLazy = integer(10) != 0
        var record = SnapshotRecord(
            id: SnapshotID(id), key: SnapshotKey(blob(1)), parent: integer(9) == 0 ? nil : SnapshotKey(blob(2)),
            kind: kind, layer: isLazy ? LayerID(integer(4)) : nil, view: isLazy ? ViewID(integer(10)) : nil,
            usage: kind == .committed && !isLazy ? SnapshotUsage(bytes: integer(5), inodes: integer(6)) : nil,
            createdAt: integer(7), updatedAt: integer(8), labels: [:])
        record.labels = try database.snapshotLabels(id)
        return record
    }
}

extension Connection {
    fileprivate func snapshotLabels(_ snapshot: Int64) throws -> [String: String] {
        var labels: [String: String] = [:]
        try cached("SELECT name, value FROM snapshot_label WHERE snapshot = ?").bind(1, snapshot).forEach {
            labels[$0.text(0)] = $0.text(1)
        }
        return labels
    }

    func snapshot(_ key: SnapshotKey) throws -> SnapshotRecord? {
        try cached(snapshotColumns + "WHERE s.key = ?").bind(1, blob: key.bytes).first { try $0.snapshot(self) }
    }

    /// The places of a snapshot and all below it, the nearest first.
    func places(from snapshot: SnapshotID?) throws -> [SnapshotPlace] {
        guard let snapshot else { return [] }
        return try cached(
            """
            WITH RECURSIVE chain (id, view, parent, depth) AS (
                SELECT id, view, parent, 0 FROM snapshot WHERE id = ?
                UNION ALL
                SELECT s.id, s.view, s.parent, c.depth + 1 FROM chain c JOIN snapshot s ON s.id = c.parent
            )
            SELECT id, view FROM chain ORDER BY depth
            """
        ).bind(1, snapshot.row).map {
            $0.integer(1) == 0 ? .directory(SnapshotID($0.integer(0))) : .layer(ViewID($0.integer(1)))
        }
    }
}
