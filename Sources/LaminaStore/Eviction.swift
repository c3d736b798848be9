import Glibc
import LaminaSQLite
import LaminaSystem

extension Store {
    /// What the store takes on disk, in bytes: the backing files as far as they are recorded, the spools, the images of sealed
    /// chains, the tar-splits, the index, its log and the reserve. Walks all contents: about 150 ms for a million. Files under several names count several times.
    public func spaceUsed() throws -> Int64 {
        let contents = try index.read { database in
            try database.integer(
                """
                SELECT coalesce(sum((max(0, iif(c.state = 2, c.size, c.landed) - c.holes) + 4095) / 4096 * 4096), 0)
                FROM content c WHERE c.state > 0
                """) ?? 0
        }
        let images = try index.read { try $0.integer("SELECT coalesce(sum(bytes), 0) FROM sealed") ?? 0 }
        // A spool with a second name is counted as the content that it has become. Space for the spool of a file that comes
        // again alone was reserved.
        return try files.names(in: ContentFiles.spoolDirectory).filter { !$0.hasPrefix("restream-") }.reduce(
            contents + indexSpace() + images + tarSplitSpace()
        ) {
            $0 + files.allocatedSize(ContentFiles.path(ofSpool: $1))
        }
    }

    /// What the index takes on disk, with its log and the reserve.
    func indexSpace() -> Int64 {
        ["index.db", "index.db-wal", "index.db-shm", "reserve", "content"].reduce(0) { sum, name in
            var status = stat()
            return stat("\(root)/\(name)", &status) == 0 ? sum + Int64(status.st_blocks) * 512 : sum
        }
    }
}

/// Where a walk through what may be given up goes on.
public struct EvictionPosition: Sendable {
    var usedAt: Int64
    var content: Int64
}

extension Index {
    /// Contents that may be given up, the least recently used first: not those of pinned images, not those of sealed chains in
    /// use, and not those that could not be fetched again. Walks all contents: some 30 ms for 200,000.
    public func evictable(
        after position: EvictionPosition? = nil, limit: Int
    ) throws -> (contents: [ContentRecord], end: EvictionPosition?) {
        try read { database in
            var end = position
            let contents = try database.cached(
                """
                SELECT \(Self.contentColumns), c.used_at FROM content c
                WHERE c.state > 0 AND c.proof < 2 AND (c.used_at, c.id) > (?1, ?2)
                    AND (EXISTS (SELECT 1 FROM chunk_source s WHERE s.content = c.id)
                         OR c.id IN (SELECT content FROM stream_content))
                    AND c.id NOT IN (SELECT s.content FROM image m JOIN image_layer il ON il.image = m.id
                                     JOIN chunk_source s ON s.layer = il.layer WHERE m.pinned = 1)
                    AND c.id NOT IN (SELECT content FROM sealed_content)
                ORDER BY c.used_at, c.id LIMIT ?3
                """
            ).bind(1, position?.usedAt ?? .min).bind(2, position?.content ?? 0).bind(3, Int64(limit)).map { row in
                end = EvictionPosition(usedAt: row.integer(6), content: row.integer(0))
                return try Self.content(row)
            }
            return (contents, end)
        }
    }

    /// The content of an inode; nil if it has none, or is not there.
    public func content(ofInode inode: Int64) throws -> ContentID? {
        try read { database in
            try database.cached("SELECT content FROM inode WHERE id = ?").bind(1, inode)
                .first { $0.optionalInteger(0).map(ContentID.init) } ?? nil
        }
    }
}
