import LaminaDigest
import LaminaSQLite
import LaminaSystem
import Synchronization

/// What a collection of garbage removed, or would remove.
public struct GarbageReport: Sendable, Codable, Equatable {
    public var layers = 0
    /// Views that are neither mounted nor in an image any more, including those of the layers.
    public var views = 0
    /// Layers without a table of contents whose pull was given up.
    public var streams = 0
    public var contents = 0
    /// Backing files, including those without a content.
    public var files = 0
    /// On disk.
    public var bytes: Int64 = 0

    public init() {}
}

/// What was marked, and what other code must forget with it.
public struct MarkedGarbage: Sendable {
    public var report = GarbageReport()
    /// Directories at the top of the mount that were removed.
    public var views: [ViewID] = []
    /// Inode numbers that were removed.
    public var inodes: [ClosedRange<Int64>] = []
}

// What nothing holds is deleted. The view layer_holder says what holds a layer; the layers that are held in memory
// (`Store.hold`) and those of open files stay too. One transaction deletes all rows and notes the names of their files; when it
// is on disk, the files are unlinked (`Removals.swift`). A process that is killed in between leaves the notes.

extension Store {
    /// Deletes from the index what nothing holds, and notes which files to unlink; `sweep` unlinks them.
    ///
    /// - Parameters:
    ///   - open: inodes that the kernel has open; their layers stay.
    ///   - dryRun: reports what would be deleted, and deletes nothing.
    public func markGarbage(open: [Int64], dryRun: Bool) throws -> MarkedGarbage {
        try holds.withHeld { held in
            var marked = MarkedGarbage()
            do {
                try reserve.lending {
                    try writeDurably { writer in
                        marked = try writer.deleteUnheld(held, open: open)
                        guard dryRun else { return }
                        for name in try Writer.garbageNames(limit: .max, writer.connection) {
                            let size = files.allocatedSize(name.path)
                            marked.report.files += files.exists(name) ? 1 : 0
                            marked.report.bytes += size
                        }
                        throw DryRun()
                    }
                }
            } catch is DryRun {}
            return marked
        }
    }

    /// Whether the index may have something that nothing holds. Looks at layers, views and streams, not at contents, and does
    /// not know what is held in memory alone.
    public func mayHaveGarbage() throws -> Bool {
        try index.read { database in
            try database.integer(
                """
                SELECT EXISTS (SELECT 1 FROM garbage)
                    OR EXISTS (SELECT 1 FROM layer WHERE id NOT IN (SELECT layer FROM layer_holder))
                    OR EXISTS (SELECT 1 FROM layer_view
                               WHERE id NOT IN (SELECT view FROM layer_holder WHERE view IS NOT NULL))
                    OR EXISTS (SELECT 1 FROM stream WHERE state IS NOT NULL OR digest NOT IN (SELECT digest FROM layer))
                    OR EXISTS (SELECT 1 FROM content_group g WHERE g.contents > 0
                               AND NOT EXISTS (SELECT 1 FROM layer_group lg WHERE lg.content_group = g.id))
                """) == 1
        }
    }

    /// Whether files are left that a collection has marked.
    public func hasMarkedFiles() throws -> Bool {
        try index.read { try $0.integer("SELECT 1 FROM garbage LIMIT 1") != nil }
    }

    private struct DryRun: Error {}
}

extension Writer {
    /// A new content's number, as an SQL expression: numbers are never used again.
    static let nextContent = "(SELECT max(coalesce((SELECT max(id) FROM content), 0), last_content) + 1 FROM store)"

    fileprivate func deleteUnheld(_ held: Set<Digest>, open: [Int64]) throws -> MarkedGarbage {
        try findUnheld(held, open: open)
        var marked = MarkedGarbage()
        marked.views = try connection.cached("SELECT id FROM unheld_view").map { ViewID($0.integer(0)) }
        marked.inodes = try connection.cached(
            """
            SELECT l.first_inode, l.last_inode FROM layer l JOIN unheld_layer u ON u.id = l.id
            UNION ALL
            SELECT v.first_inode, v.last_inode FROM layer_view v JOIN unheld_view u ON u.id = v.id
            WHERE v.first_inode IS NOT NULL AND v.last_inode >= v.first_inode
            """
        ).map { $0.integer(0)...$0.integer(1) }
        try countOutUnheldLayers()
        marked.report.layers = Int(try connection.integer("SELECT count(*) FROM unheld_layer") ?? 0)
        marked.report.views = marked.views.count
        for range in marked.inodes { try delete(inodes: range) }
        for view in marked.views {
            try connection.cached("DELETE FROM dirent WHERE parent = 1 AND name = ?")
                .bind(1, blob: Array(view.description.utf8)).run()
        }
        try connection.execute(
            """
            UPDATE store SET last_layer = max(last_layer, (SELECT coalesce(max(id), 0) FROM layer))
            WHERE EXISTS (SELECT 1 FROM unheld_layer);
            DELETE FROM sealed WHERE id IN (SELECT sealed FROM sealed_view WHERE view IN (SELECT id FROM unheld_view));
            DELETE FROM layer_view WHERE id IN (SELECT id FROM unheld_view);
            DELETE FROM layer WHERE id IN (SELECT id FROM unheld_layer);
            """)
        // Those of the layers were deleted with them. The remaining ones have not ended, whatever another repository has of the blob:
        // their pulls were given up.
        try connection.execute(
            """
            DELETE FROM stream WHERE (state IS NOT NULL OR digest NOT IN (SELECT digest FROM layer))
                AND digest NOT IN (SELECT digest FROM held_layer)
            """)
        marked.report.streams = connection.changes
        try connection.cached(
            """
            INSERT INTO unheld_content
            SELECT c.id FROM content_group g CROSS JOIN content c
                ON c.id BETWEEN g.first_content AND g.last_content AND +c.content_group = g.id
            WHERE g.contents > 0 AND NOT EXISTS (SELECT 1 FROM layer_group lg WHERE lg.content_group = g.id)
                AND c.id NOT IN (SELECT content FROM stream_content)
            """
        ).run()
        try connection.cached(
            """
            UPDATE store SET last_content = max(last_content, (SELECT coalesce(max(id), 0) FROM content))
            WHERE EXISTS (SELECT 1 FROM unheld_content)
            """
        ).run()
        try connection.cached(
            """
            INSERT OR IGNORE INTO garbage
            SELECT c.digest, c.claim FROM content c WHERE c.id IN (SELECT id FROM unheld_content)
            """
        ).run()
        marked.report.contents = try deleteUnheldContents()
        // Contents that have lost their layers, or never had one.
        try connection.execute(
            """
            DELETE FROM content_group WHERE contents = 0 AND id <> 0 AND id NOT IN
                (SELECT content_group FROM stream WHERE content_group IS NOT NULL)
            """)
        return marked
    }

    /// Subtracts the files of deleted layers from the totals of contents that other layers have too.
    private func countOutUnheldLayers() throws {
        try connection.execute(
            """
            CREATE TEMP TABLE IF NOT EXISTS counted_out (content INTEGER PRIMARY KEY, inodes INTEGER NOT NULL);
            DELETE FROM counted_out
            """)
        try connection.cached(
            """
            INSERT INTO counted_out
            SELECT c.id, sum(coalesce((SELECT r.inodes FROM repeated_content r
                                       WHERE r.layer = u.id AND r.content = c.id), 1))
            FROM unheld_layer u CROSS JOIN layer_group lg ON lg.layer = u.id
                CROSS JOIN content_group g ON g.id = lg.content_group
                CROSS JOIN content c ON c.id BETWEEN g.first_content AND g.last_content AND +c.content_group = g.id
            WHERE EXISTS (SELECT 1 FROM layer_group k WHERE k.content_group = g.id
                          AND k.layer NOT IN (SELECT id FROM unheld_layer))
            GROUP BY c.id
            """
        ).run()
        try connection.cached(
            """
            UPDATE content SET files = files - (SELECT inodes FROM counted_out WHERE content = content.id)
            WHERE id IN (SELECT content FROM counted_out)
            """
        ).run()
        try connection.cached(
            """
            SELECT c.content_group, sum(c.size * o.inodes),
                sum(o.inodes * CASE c.state WHEN 2 THEN c.size WHEN 1 THEN c.landed ELSE 0 END)
            FROM counted_out o CROSS JOIN content c ON c.id = o.content GROUP BY c.content_group
            """
        ).forEach {
            groups.add(-GroupTotals(fileBytes: $0.integer(1), landedFileBytes: $0.integer(2)), to: $0.integer(0))
        }
        try connection.execute("DELETE FROM counted_out")
    }

    /// - Returns: how many there were.
    private func deleteUnheldContents() throws -> Int {
        try connection.cached(
            """
            SELECT content_group, count(*), sum(state = 2), sum(size), sum(here), sum((here + 4095) / 4096 * 4096),
                sum(size * files), sum(here * files)
            FROM (SELECT c.*, CASE c.state WHEN 2 THEN c.size WHEN 1 THEN c.landed ELSE 0 END AS here
                  FROM unheld_content u CROSS JOIN content c ON c.id = u.id)
            GROUP BY content_group
            """
        ).forEach {
            groups.add(
                -GroupTotals(
                    contents: $0.integer(1), merged: $0.integer(2), bytes: $0.integer(3), landedBytes: $0.integer(4),
                    allocatedBytes: $0.integer(5), fileBytes: $0.integer(6), landedFileBytes: $0.integer(7)),
                to: $0.integer(0))
        }
        let twins = try connection.cached(
            """
            SELECT digest FROM proven_twin WHERE digest IN
                (SELECT c.digest FROM unheld_content u CROSS JOIN content c ON c.id = u.id)
            """
        ).map { $0.digest(0) }
        try connection.cached("DELETE FROM content WHERE id IN (SELECT id FROM unheld_content)").run()
        let count = connection.changes
        for case let digest? in twins { try countTwins(digest) }
        try settleGroups()
        return count
    }

    /// Fills the temporary tables `unheld_layer` and `unheld_view`.
    private func findUnheld(_ held: Set<Digest>, open: [Int64]) throws {
        try connection.execute(
            """
            CREATE TEMP TABLE IF NOT EXISTS held_layer (digest BLOB PRIMARY KEY) WITHOUT ROWID;
            CREATE TEMP TABLE IF NOT EXISTS open_inode (id INTEGER PRIMARY KEY);
            CREATE TEMP TABLE IF NOT EXISTS unheld_layer (id INTEGER PRIMARY KEY);
            CREATE TEMP TABLE IF NOT EXISTS unheld_view (id INTEGER PRIMARY KEY);
            CREATE TEMP TABLE IF NOT EXISTS unheld_content (id INTEGER PRIMARY KEY);
            DELETE FROM held_layer; DELETE FROM open_inode;
            DELETE FROM unheld_layer; DELETE FROM unheld_view; DELETE FROM unheld_content;
            """)
        let hold = try connection.prepare("INSERT OR IGNORE INTO held_layer VALUES (?)")
        for digest in held { try hold.bind(1, digest: digest).run() }
        let keep = try connection.prepare("INSERT OR IGNORE INTO open_inode VALUES (?)")
        for inode in open { try keep.bind(1, inode).run() }
        try connection.execute(
            """
            INSERT INTO held_layer SELECT l.digest FROM layer l
            WHERE l.digest NOT IN (SELECT digest FROM held_layer)
                AND EXISTS (SELECT 1 FROM open_inode o WHERE o.id BETWEEN l.first_inode AND l.last_inode);
            INSERT INTO unheld_layer SELECT id FROM layer
            WHERE id NOT IN (SELECT layer FROM layer_holder) AND digest NOT IN (SELECT digest FROM held_layer);
            INSERT INTO unheld_view SELECT v.id FROM layer_view v JOIN layer l ON l.id = v.layer
            WHERE v.id NOT IN (SELECT view FROM layer_holder WHERE view IS NOT NULL)
                AND l.digest NOT IN (SELECT digest FROM held_layer);
            """)
    }

    private func delete(inodes range: ClosedRange<Int64>) throws {
        for sql in [
            "DELETE FROM dirent WHERE parent BETWEEN ? AND ?", "DELETE FROM xattr WHERE inode BETWEEN ? AND ?",
            "DELETE FROM implicit_directory WHERE inode BETWEEN ? AND ?",
            "DELETE FROM directory WHERE inode BETWEEN ? AND ?", "DELETE FROM inode WHERE id BETWEEN ? AND ?",
        ] {
            try connection.cached(sql).bind(1, range.lowerBound).bind(2, range.upperBound).run()
        }
    }

    static func garbageNames(limit: Int64, _ database: Connection) throws -> [BackingName] {
        try database.cached("SELECT digest, claim FROM garbage LIMIT ?").bind(1, limit).map { row in
            guard let digest = row.digest(0) else {
                throw StoreError(.damaged, "the index marks a file without a digest")
            }
            return BackingName(digest: digest, claim: row.digest(1))
        }
    }
}

extension Statement {
    /// Binds a claim as it is stored: no bytes if there is none.
    @discardableResult
    func bind(_ index: Int32, claim: Digest?) -> Statement {
        if let claim { bind(index, digest: claim) } else { bind(index, blob: [UInt8]()) }
    }
}
