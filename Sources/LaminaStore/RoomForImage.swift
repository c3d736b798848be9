import LaminaSQLite
import LaminaSystem

/// What an image needs, and what there is; on disk, in bytes, in whole blocks.
public struct RoomForImage: Sendable, Equatable {
    /// All of its files.
    public var total: Int64
    /// Those of them that the store does not have.
    public var missing: Int64
    /// What other images that are pinned keep.
    public var pinned: Int64
    /// What the index takes, with its log and what is kept for a full disk.
    public var index: Int64
    /// What the disk has free; nil if it does not say.
    public var free: Int64?

    /// Where something is short, and how much is left there, in bytes.
    public enum Shortage: Sendable, Equatable {
        case disk(free: Int64)
        case limit(left: Int64)
    }

    /// What of the disk or the store's limit is short; nil: there is room.
    public func shortage(limit: Int64?) -> Shortage? {
        if let free, missing > free { return .disk(free: free) }
        if let limit, total > limit - index - pinned { return .limit(left: max(0, limit - index - pinned)) }
        return nil
    }
}

extension Store {
    /// How much room an indexed image needs at most, from one look at its totals.
    public func roomAtMost(for totals: ImageTotals) -> RoomForImage {
        RoomForImage(
            total: totals.bytes + Int64(totals.contents) * 4095,
            missing: totals.bytes - totals.landedBytes + Int64(totals.contents - totals.mergedContents) * 4095,
            pinned: 0, index: indexSpace(), free: files.diskSpace()?.free)
    }

    /// How much room an indexed image needs. Looks at each of its contents: half a second for 100,000, a tenth of that if all
    /// of it is here.
    public func room(for image: ImageID) throws -> RoomForImage {
        let (total, missing) = try index.read { database in
            if let total = try database.spaceOfMerged(image) { return (total, Int64(0)) }
            return try database.cached(
                """
                WITH wanted (id, has_holes) AS MATERIALIZED (
                    SELECT s.content, max(s.blob_size = 0) FROM chunk_source s
                    WHERE s.layer IN (SELECT layer FROM image_layer WHERE image = ?1) GROUP BY s.content),
                sized (id, digest, state, bytes) AS (
                    SELECT c.id, c.digest, c.state, (max(0, c.size - CASE w.has_holes WHEN 0 THEN c.holes ELSE
                        max(c.holes, coalesce((
                            SELECT sum(coalesce(k.size, c.size)) FROM chunk_source h
                            LEFT JOIN chunk k ON k.content = h.content AND k.offset = h.offset
                            WHERE h.content = c.id AND h.blob_size = 0
                                AND h.layer IN (SELECT layer FROM image_layer WHERE image = ?1)), 0)) END)
                        + 4095) / 4096 * 4096
                    FROM wanted w CROSS JOIN content c ON c.id = w.id)
                SELECT coalesce(sum(bytes), 0),
                    coalesce(sum(CASE
                        WHEN state = 2 THEN 0
                        WHEN EXISTS (SELECT 1 FROM content t WHERE t.digest = z.digest AND t.state = 2) THEN 0
                        ELSE max(0, bytes - (SELECT c.landed FROM content c WHERE c.id = z.id)) END), 0)
                FROM sized z
                """
            ).bind(1, image.row).first { ($0.integer(0), $0.integer(1)) } ?? (0, 0)
        }
        return RoomForImage(
            total: total, missing: missing, pinned: try pinnedSpace(besides: image), index: indexSpace(),
            free: files.diskSpace()?.free)
    }

    /// What a layer that the index does not know yet finds: what pinned images keep, what the index takes, and what is free.
    public func roomForStream(of bytes: Int64) throws -> RoomForImage {
        RoomForImage(
            total: bytes, missing: bytes, pinned: try pinnedSpace(besides: nil), index: indexSpace(),
            free: files.diskSpace()?.free)
    }

    private func pinnedSpace(besides image: ImageID?) throws -> Int64 {
        try index.read { database in
            let statement = try database.cached(
                """
                SELECT coalesce(sum((c.size - c.holes + 4095) / 4096 * 4096), 0) FROM content c
                WHERE c.state > 0 AND c.id IN (
                    SELECT s.content FROM image m JOIN image_layer il ON il.image = m.id
                    JOIN chunk_source s ON s.layer = il.layer WHERE m.pinned = 1 AND m.id <> ?1)
                """)
            return try statement.bind(1, image?.row ?? -1).first { $0.integer(0) } ?? 0
        }
    }
}

extension Connection {
    /// What the files of an image take on disk, if all of it is here; nil if something is missing.
    fileprivate func spaceOfMerged(_ image: ImageID) throws -> Int64? {
        let isMissing = try cached(
            """
            SELECT 1 FROM image_layer il JOIN layer_group lg ON lg.layer = il.layer
            JOIN content_group g ON g.id = lg.content_group
            WHERE il.image = ? AND g.merged < g.contents LIMIT 1
            """
        ).bind(1, image.row).first { _ in true }
        guard isMissing == nil else { return nil }
        return try cached(
            """
            SELECT coalesce(sum((max(0, c.size - c.holes) + 4095) / 4096 * 4096), 0)
            FROM (SELECT DISTINCT lg.content_group AS id FROM image_layer il JOIN layer_group lg ON lg.layer = il.layer
                  WHERE il.image = ?) AS x
            CROSS JOIN content_group g ON g.id = x.id
            CROSS JOIN content c ON c.id BETWEEN g.first_content AND g.last_content AND +c.content_group = g.id
            """
        ).bind(1, image.row).first { $0.integer(0) } ?? 0
    }
}
