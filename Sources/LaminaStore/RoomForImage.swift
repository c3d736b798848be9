import LaminaSQLite
import LaminaSystem

/// What an image needs, and what there is; all on disk, in bytes, in whole blocks.
public struct RoomForImage: Sendable, Equatable {
    /// All of its files.
    public var total: Int64
    /// Those of them that the store does not have.
    public var missing: Int64
    /// What other images that are pinned keep.
    public var pinned: Int64
    /// What the index takes, with its log and what is kept for a full disk.
    public var index: Int64
    /// What the disk has free; nil where it does not say.
    public var free: Int64?
}

extension Store {
    /// Says how much room an image needs that is indexed. Walks its files: about a second for a million.
    public func room(for image: ImageID) throws -> RoomForImage {
        let (total, missing) = try index.read { database in
            try database.cached(
                """
                WITH wanted (id) AS MATERIALIZED (
                    SELECT DISTINCT s.content FROM chunk_source s
                    WHERE s.layer IN (SELECT layer FROM image_layer WHERE image = ?1)),
                sized (id, digest, state, bytes) AS MATERIALIZED (
                    SELECT c.id, c.digest, c.state, (max(0, c.size - max(c.holes, coalesce((
                        SELECT sum(coalesce(k.size, c.size)) FROM chunk_source h
                        LEFT JOIN chunk k ON k.content = h.content AND k.offset = h.offset
                        WHERE h.content = c.id AND h.blob_size = 0
                            AND h.layer IN (SELECT layer FROM image_layer WHERE image = ?1)), 0))) + 4095) / 4096 * 4096
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
        let pinned = try index.read { database in
            try database.cached(
                """
                SELECT coalesce(sum((c.size - c.holes + 4095) / 4096 * 4096), 0) FROM content c
                WHERE c.state > 0 AND c.id IN (
                    SELECT s.content FROM image m JOIN image_layer il ON il.image = m.id
                    JOIN chunk_source s ON s.layer = il.layer WHERE m.pinned = 1 AND m.id <> ?1)
                """
            ).bind(1, image.row).first { $0.integer(0) } ?? 0
        }
        return RoomForImage(
            total: total, missing: missing, pinned: pinned, index: indexSpace(), free: files.diskSpace()?.free)
    }
}
