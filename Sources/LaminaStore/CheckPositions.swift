import Glibc
import LaminaSQLite

/// How far the reading of all bytes has come, over several checks.
public struct CheckPosition: Sendable, Equatable {
    /// The last content that was read; nil: none yet in this round.
    public var content: ContentID?
    /// When all bytes were last read: seconds since 1970.
    public var finishedAt: Int64?
}

/// How much there is to check.
public struct CheckTotals: Sendable, Equatable {
    public var contents: Int64 = 0
    /// Bytes that have landed.
    public var bytes: Int64 = 0
}

extension Store {
    /// Records where the next check goes on.
    ///
    /// - Parameters:
    ///   - scope: the reference of the image that is checked; empty: the whole store.
    ///   - content: the last that was read; nil: the round is finished, the next one begins.
    public func setCheckPosition(_ content: ContentID?, scope: String) throws {
        try write { writer in
            let now = Int64(time(nil))
            try writer.connection.cached(
                """
                INSERT INTO check_position (scope, content, round_started_at, round_finished_at)
                VALUES (?1, ?2, ?3, iif(?2 = 0, ?3, NULL))
                ON CONFLICT (scope) DO UPDATE SET content = ?2,
                    round_started_at = iif(content = 0, ?3, round_started_at),
                    round_finished_at = iif(?2 = 0, ?3, round_finished_at)
                """
            ).bind(1, text: scope).bind(2, content?.row ?? 0).bind(3, now).run()
        }
    }
}

extension Index {
    /// Where the last check of this scope stopped.
    public func checkPosition(scope: String) throws -> CheckPosition {
        try read { database in
            try database.cached("SELECT content, round_finished_at FROM check_position WHERE scope = ?")
                .bind(1, text: scope)
                .first { row in
                    CheckPosition(
                        content: row.integer(0) == 0 ? nil : ContentID(row.integer(0)),
                        finishedAt: row.optionalInteger(1))
                } ?? CheckPosition()
        }
    }

    /// The condition that a content belongs to an image, for any platform; parameter ?1 is its reference, NULL for the whole
    /// store.
    private static let ofImage = """
        (?1 IS NULL OR c.content_group IN (SELECT lg.content_group FROM image m JOIN image_layer il ON il.image = m.id
                                           JOIN layer_group lg ON lg.layer = il.layer WHERE m.reference = ?1))
        """

    /// Contents of which something has landed, by number, except those that are refused because their layer lied.
    ///
    /// - Parameter image: the reference of an image: only what is in it; nil: all.
    public func landedContents(
        of image: String?, after content: ContentID?, limit: Int
    ) throws -> [ContentRecord] {
        try read { database in
            try database.cached(
                """
                SELECT \(Self.contentColumns) FROM content c
                WHERE c.id > ?2 AND c.state > 0 AND c.proof < 2 AND \(Self.ofImage) ORDER BY c.id LIMIT ?3
                """
            ).bind(1, text: image).bind(2, content?.row ?? 0).bind(3, Int64(limit)).map { try Self.content($0) }
        }
    }

    /// How much there is to check. Looks at every content: tens of milliseconds for 100,000.
    public func checkTotals(of image: String?) throws -> CheckTotals {
        try read { database in
            try database.cached(
                """
                SELECT count(*), coalesce(sum(iif(c.state = 2, c.size, c.landed)), 0)
                FROM content c WHERE c.state > 0 AND c.proof < 2 AND \(Self.ofImage)
                """
            ).bind(1, text: image).first { CheckTotals(contents: $0.integer(0), bytes: $0.integer(1)) }
        } ?? CheckTotals()
    }

    /// The inodes that show these contents. Walks all inodes: about 100 ms for a million.
    public func inodes(of contents: Set<ContentID>) throws -> [Int64] {
        try read { database in
            var inodes: [Int64] = []
            try database.cached("SELECT id, content FROM inode WHERE content IS NOT NULL").forEach { row in
                if contents.contains(ContentID(row.integer(1))) { inodes.append(row.integer(0)) }
            }
            return inodes
        }
    }

    /// What SQLite finds wrong with the index, at most 20 sentences; empty: nothing. Reads all of it.
    public func problems() throws -> [String] {
        do {
            return try read { database in try Self.problems(of: database) }
        } catch let error as StoreError where error.code == .damaged {
            return ["\(error.cause ?? error)"]
        }
    }

    /// What is inconsistent in the rows of an image, a sentence for each kind; empty: nothing. Reads these rows, not the whole
    /// index, and checks that every name has its inode, every file its content, and that every content is found by its digest.
    public func problems(of image: ImageRecord) throws -> [String] {
        do {
            return try read { database in try image.layers.flatMap { try Self.problems(of: $0, database) } }
        } catch let error as StoreError where error.code == .damaged {
            return ["\(error.cause ?? error)"]
        }
    }

    private static func problems(of layer: LayerID, _ database: Connection) throws -> [String] {
        let range = try database.cached("SELECT first_inode, last_inode FROM layer WHERE id = ?").bind(1, layer.row)
            .first { ($0.integer(0), $0.integer(1)) }
        guard let (first, last) = range else { return ["\(layer) of the image is not there"] }
        let questions = [
            (
                "inodes are missing",
                "SELECT (?2 - ?1 + 1) - count(*) FROM inode WHERE id BETWEEN ?1 AND ?2"
            ),
            (
                "names have no inode",
                """
                SELECT count(*) FROM dirent d LEFT JOIN inode i ON i.id = d.inode
                WHERE d.parent BETWEEN ?1 AND ?2 AND i.id IS NULL
                """
            ),
            (
                "names are in no directory",
                """
                SELECT count(*) FROM dirent d LEFT JOIN directory p ON p.inode = d.parent
                WHERE d.parent BETWEEN ?1 AND ?2 AND p.inode IS NULL
                """
            ),
            (
                "files have no content, or one that is not found by its digest",
                """
                SELECT count(*) FROM inode i LEFT JOIN content c ON c.id = i.content
                LEFT JOIN content x INDEXED BY sqlite_autoindex_content_1 ON x.digest = c.digest AND x.claim = c.claim
                WHERE i.id BETWEEN ?1 AND ?2 AND i.content IS NOT NULL AND x.id IS NOT c.id
                """
            ),
        ]
        return try questions.compactMap { what, sql in
            let count = try database.cached(sql).bind(1, first).bind(2, last).first { $0.integer(0) } ?? 0
            return count == 0 ? nil : "\(layer): \(count) \(what)"
        }
    }

    static func problems(of database: Connection) throws -> [String] {
        let found = try database.prepare("PRAGMA integrity_check(20)").map { $0.text(0) }.filter { $0 != "ok" }
        guard found.isEmpty else { return found }
        return try database.prepare("PRAGMA foreign_key_check").map { row in
            "\(row.text(0)) \(row.integer(1)) refers to a row of \(row.text(2)) that is not there"
        }.prefix(20).map { $0 }
    }
}
