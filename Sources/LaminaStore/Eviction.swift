import Glibc
import LaminaSQLite
import LaminaSystem

extension Store {
    /// What the store takes on disk, in bytes: the backing files as far as they are recorded, the index, its log and the
    /// reserve. Walks all contents: about 150 ms for a million. Files under several names count several times.
    public func spaceUsed() throws -> Int64 {
        let contents = try index.read { database in
            try database.integer(
                """
                SELECT coalesce(sum((max(0, CASE c.state WHEN 2 THEN c.size - c.holes ELSE
                    (SELECT coalesce(sum(k.size), 0) FROM chunk k WHERE k.content = c.id AND k.landed = 1) END)
                    + 4095) / 4096 * 4096), 0)
                FROM content c WHERE c.state > 0
                """) ?? 0
        }
        var total = contents
        for name in ["index.db", "index.db-wal", "index.db-shm", "reserve"] {
            var status = stat()
            if stat("\(root)/\(name)", &status) == 0 { total += Int64(status.st_blocks) * 512 }
        }
        return total
    }
}

extension Index {
    /// Contents that may be given up, those that were used least recently first: not those of pinned images, and not those
    /// that could not be fetched again.
    public func evictable(limit: Int) throws -> [ContentRecord] {
        try read { database in
            try database.cached(
                """
                SELECT \(Self.contentColumns) FROM content c
                WHERE c.state > 0 AND c.proof < 2
                    AND EXISTS (SELECT 1 FROM chunk_source s WHERE s.content = c.id)
                    AND c.id NOT IN (SELECT s.content FROM image m JOIN image_layer il ON il.image = m.id
                                     JOIN chunk_source s ON s.layer = il.layer WHERE m.pinned = 1)
                ORDER BY c.used_at, c.id LIMIT ?
                """
            ).bind(1, Int64(limit)).map { try Self.content($0) }
        }
    }

    /// The content of an inode; nil for one that has none, or is not there.
    public func content(ofInode inode: Int64) throws -> ContentID? {
        try read { database in
            try database.cached("SELECT content FROM inode WHERE id = ?").bind(1, inode)
                .first { $0.optionalInteger(0).map(ContentID.init) } ?? nil
        }
    }
}
