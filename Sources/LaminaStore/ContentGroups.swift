import LaminaDigest
import LaminaSQLite

// The totals of `content_group`. They change in the transaction that changes a content, and are summed up there: a batch of
// thousands of contents that have landed is one UPDATE. Triggers would do the same at 1.5 µs a content, several percent of the
// cost of a small file.

/// The totals of a group of contents.
struct GroupTotals: Equatable {
    var contents: Int64 = 0
    var merged: Int64 = 0
    var bytes: Int64 = 0
    var landedBytes: Int64 = 0
    /// In whole blocks.
    var allocatedBytes: Int64 = 0
    /// Each content counted as many times as files have it.
    var fileBytes: Int64 = 0
    var landedFileBytes: Int64 = 0

    static func += (left: inout Self, right: Self) {
        left.contents += right.contents
        left.merged += right.merged
        left.bytes += right.bytes
        left.landedBytes += right.landedBytes
        left.allocatedBytes += right.allocatedBytes
        left.fileBytes += right.fileBytes
        left.landedFileBytes += right.landedFileBytes
    }

    static prefix func - (totals: Self) -> Self {
        Self(
            contents: -totals.contents, merged: -totals.merged, bytes: -totals.bytes, landedBytes: -totals.landedBytes,
            allocatedBytes: -totals.allocatedBytes, fileBytes: -totals.fileBytes,
            landedFileBytes: -totals.landedFileBytes)
    }
}

/// What the totals need of a content.
struct CountedContent {
    var id: ContentID
    var group: Int64
    var size: Int64
    /// Inodes that have it.
    var files: Int64
    var state: Int64
    /// For a partial content: the bytes of its landed chunks.
    var landed: Int64
    var isProven: Bool
    /// Whether it has several chunks, and therefore a claim in its name.
    var hasClaim: Bool
    /// Whether another content may have its digest.
    var mayHaveTwin: Bool

    var totals: GroupTotals {
        let isMerged = state == ContentRecord.State.merged.rawValue
        let here = isMerged ? size : state == ContentRecord.State.partial.rawValue ? landed : 0
        return GroupTotals(
            contents: 1, merged: isMerged ? 1 : 0, bytes: size, landedBytes: here,
            allocatedBytes: (here + 4095) / 4096 * 4096, fileBytes: size * files, landedFileBytes: here * files)
    }

    /// Whether it is one of several files that may have the same digest.
    fileprivate var countsAsTwin: Bool { mayHaveTwin && isProven && state > 0 }
}

/// What a transaction has changed in the groups and not written yet.
struct GroupChanges {
    fileprivate struct Change {
        var totals = GroupTotals()
        var first: Int64?
        var last: Int64?
    }

    fileprivate var groups: [Int64: Change] = [:]
    /// Contents whose digest must be looked at: several proven contents may have it now, or had it before.
    fileprivate var twins: Set<ContentID> = []

    mutating func add(_ totals: GroupTotals, to group: Int64) { groups[group, default: Change()].totals += totals }

    /// Notes that contents of a group have numbers in this range too.
    mutating func extend(_ group: Int64, _ contents: ClosedRange<Int64>) {
        var change = groups[group, default: Change()]
        change.first = min(change.first ?? .max, contents.lowerBound)
        change.last = max(change.last ?? .min, contents.upperBound)
        groups[group] = change
    }

    /// Notes a content that changed; nil: it was not there before.
    mutating func note(_ before: CountedContent?, _ after: CountedContent) {
        if let before { add(-before.totals, to: before.group) }
        add(after.totals, to: after.group)
        if before?.group != after.group { extend(after.group, after.id.row...after.id.row) }
        if before?.countsAsTwin == true || after.countsAsTwin { twins.insert(after.id) }
    }
}

extension Writer {
    /// A content as it is now; nil if there is none. About 0.5 µs.
    func counted(_ content: ContentID) throws -> CountedContent? {
        try connection.cached(
            """
            SELECT content_group, size, files, state, landed, proof = 1, claim <> x'',
                   EXISTS (SELECT 1 FROM content t INDEXED BY content_claimed WHERE t.digest = c.digest AND t.claim <> x'')
            FROM content c WHERE id = ?
            """
        ).bind(1, content.row).first { row in
            CountedContent(
                id: content, group: row.integer(0), size: row.integer(1), files: row.integer(2), state: row.integer(3),
                landed: row.integer(4), isProven: row.integer(5) == 1, hasClaim: row.integer(6) == 1,
                mayHaveTwin: row.integer(7) == 1)
        }
    }

    /// Runs `body`, which changes one content, and updates the totals.
    func counting<Result>(_ content: ContentID, _ body: () throws -> Result) throws -> Result {
        let before = try counted(content)
        let result = try body()
        if let after = try counted(content) { groups.note(before, after) }
        return result
    }

    /// Runs `body`, which adds a content or changes it, and updates the totals.
    ///
    /// - Parameter body: returns its number.
    /// - Returns: the number.
    @discardableResult
    func counting(named name: BackingName, _ body: () throws -> ContentID?) throws -> ContentID? {
        let known = try connection.cached("SELECT id FROM content WHERE digest = ? AND claim = ?")
            .bind(1, digest: name.digest).bind(2, claim: name.claim).first { ContentID($0.integer(0)) }
        let before = try known.flatMap { try counted($0) }
        guard let content = try body() else { return nil }
        if let after = try counted(content) { groups.note(before, after) }
        return content
    }

    /// A new group that belongs to no layer.
    func addGroup() throws -> Int64 {
        try connection.cached("INSERT INTO content_group DEFAULT VALUES").run()
        return connection.lastInsertedRow
    }

    /// Writes what the transaction has changed of the totals: its last step.
    func settleGroups() throws {
        guard !groups.groups.isEmpty || !groups.twins.isEmpty else { return }
        defer { groups = GroupChanges() }
        let update = try connection.cached(
            """
            UPDATE content_group SET contents = contents + ?2, merged = merged + ?3, bytes = bytes + ?4,
                landed_bytes = landed_bytes + ?5, allocated_bytes = allocated_bytes + ?6, file_bytes = file_bytes + ?7,
                landed_file_bytes = landed_file_bytes + ?8,
                first_content = min(coalesce(first_content, ?9), coalesce(?9, first_content)),
                last_content = max(coalesce(last_content, ?10), coalesce(?10, last_content))
            WHERE id = ?1
            """)
        // A group without contents is not needed, except the first and those of streams.
        let remove = try connection.cached(
            """
            DELETE FROM content_group WHERE id = ?1 AND contents = 0 AND id <> 0
                AND NOT EXISTS (SELECT 1 FROM stream WHERE content_group = ?1)
            """)
        for (group, change) in groups.groups {
            let totals = change.totals
            try update.bind(1, group).bind(2, totals.contents).bind(3, totals.merged).bind(4, totals.bytes)
                .bind(5, totals.landedBytes).bind(6, totals.allocatedBytes).bind(7, totals.fileBytes)
                .bind(8, totals.landedFileBytes).bind(9, change.first).bind(10, change.last).run()
            if totals.contents <= 0 { try remove.bind(1, group).run() }
        }
        for content in groups.twins {
            let digest =
                try connection.cached("SELECT digest FROM content WHERE id = ?").bind(1, content.row)
                .first { $0.digest(0) } ?? nil
            if let digest { try countTwins(digest) }
        }
    }

    /// Records what several proven contents of one digest count too much.
    func countTwins(_ digest: Digest) throws {
        try connection.cached("DELETE FROM proven_twin WHERE digest = ?").bind(1, digest: digest).run()
        try connection.cached(
            """
            INSERT INTO proven_twin
            SELECT digest, sum(here) - max(here), sum((here + 4095) / 4096 * 4096) - max((here + 4095) / 4096 * 4096)
            FROM (SELECT digest, CASE state WHEN 2 THEN size ELSE landed END AS here FROM content
                  WHERE digest = ? AND proof = 1 AND state > 0)
            GROUP BY digest HAVING count(*) > 1
            """
        ).bind(1, digest: digest).run()
    }
}

extension Store {
    /// Counts all totals of contents again. Reads every content: about a second for a million.
    public func recountTotals() throws {
        try write { writer in
            try writer.connection.execute(
                """
                UPDATE content_group SET first_content = NULL, last_content = NULL, contents = 0, merged = 0, bytes = 0,
                    landed_bytes = 0, allocated_bytes = 0, file_bytes = 0, landed_file_bytes = 0;
                UPDATE content_group SET (first_content, last_content, contents, merged, bytes, landed_bytes,
                                          allocated_bytes, file_bytes, landed_file_bytes) =
                    (x.first, x.last, x.contents, x.merged, x.bytes, x.landed, x.allocated, x.file_bytes,
                     x.landed_file_bytes)
                FROM (
                    SELECT c.content_group AS id, min(c.id) AS first, max(c.id) AS last, count(*) AS contents,
                        sum(c.state = 2) AS merged, sum(c.size) AS bytes, sum(c.here) AS landed,
                        sum((c.here + 4095) / 4096 * 4096) AS allocated, sum(c.size * c.files) AS file_bytes,
                        sum(c.here * c.files) AS landed_file_bytes
                    FROM (SELECT *, CASE state WHEN 2 THEN size WHEN 1 THEN landed ELSE 0 END AS here FROM content) AS c
                    GROUP BY c.content_group
                ) AS x WHERE x.id = content_group.id;
                DELETE FROM proven_twin;
                INSERT INTO proven_twin
                SELECT digest, sum(here) - max(here),
                    sum((here + 4095) / 4096 * 4096) - max((here + 4095) / 4096 * 4096)
                FROM (SELECT digest, CASE state WHEN 2 THEN size ELSE landed END AS here FROM content
                      WHERE proof = 1 AND state > 0)
                GROUP BY digest HAVING count(*) > 1;
                """)
        }
    }
}

extension Index {
    /// How many totals are wrong; 0: all are right. Reads every content.
    public func wrongTotals() throws -> Int { try read { try Self.wrongTotals($0) } }

    /// How many groups have wrong totals, and how many digests have a wrong count of twins; 0: none. Reads every content: half
    /// a second for a million.
    static func wrongTotals(_ database: Connection) throws -> Int {
        let groups =
            try database.integer(
                """
                WITH counted AS MATERIALIZED (
                    SELECT content_group AS id, count(*) AS contents, sum(state = 2) AS merged, sum(size) AS bytes,
                        sum(here) AS landed, sum((here + 4095) / 4096 * 4096) AS allocated, sum(size * files) AS file_bytes,
                        sum(here * files) AS landed_file_bytes, min(c.id) AS first, max(c.id) AS last
                    FROM (SELECT *, CASE state WHEN 2 THEN size WHEN 1 THEN landed ELSE 0 END AS here FROM content) AS c
                    GROUP BY content_group
                )
                SELECT (SELECT count(*) FROM content_group AS g LEFT JOIN counted AS c ON c.id = g.id
                        WHERE (g.contents, g.merged, g.bytes, g.landed_bytes, g.allocated_bytes, g.file_bytes,
                               g.landed_file_bytes)
                            IS NOT (coalesce(c.contents, 0), coalesce(c.merged, 0), coalesce(c.bytes, 0),
                                    coalesce(c.landed, 0), coalesce(c.allocated, 0), coalesce(c.file_bytes, 0),
                                    coalesce(c.landed_file_bytes, 0))
                            OR c.first < coalesce(g.first_content, 9e18) OR c.last > coalesce(g.last_content, -1))
                    + (SELECT count(*) FROM counted WHERE id NOT IN (SELECT id FROM content_group))
                """) ?? 0
        let twins =
            try database.integer(
                """
                WITH counted AS MATERIALIZED (
                    SELECT digest, sum(here) - max(here) AS landed,
                        sum((here + 4095) / 4096 * 4096) - max((here + 4095) / 4096 * 4096) AS allocated
                    FROM (SELECT digest, CASE state WHEN 2 THEN size ELSE landed END AS here FROM content
                          WHERE proof = 1 AND state > 0
                              AND digest IN (SELECT digest FROM content WHERE claim <> x'' AND proof = 1 AND state > 0))
                    GROUP BY digest HAVING count(*) > 1
                )
                SELECT count(*) FROM (
                    SELECT * FROM (SELECT digest, landed, allocated FROM counted EXCEPT SELECT * FROM proven_twin)
                    UNION ALL
                    SELECT * FROM (SELECT * FROM proven_twin EXCEPT SELECT digest, landed, allocated FROM counted))
                """) ?? 0
        return Int(groups + twins)
    }
}
