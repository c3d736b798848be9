import LaminaDigest
import LaminaSQLite
import LaminaTestSupport
import Testing

@testable import LaminaStore

/// The store's totals, compared with counts.
@Suite("Totals")
struct TotalsTests {
    let scratch = Scratch.inMemory()

    private func rows(_ sql: String) throws -> [[String?]] {
        try Connection(path: scratch.index, access: .readOnly).prepare(sql)
            .map { row in (0..<row.columnCount).map { row.optionalText($0) } }
    }

    /// Counts from inodes and contents, as the views did before there were totals, and compares.
    private func expectCounted(_ store: Store, _ words: Comment, _ location: SourceLocation = #_sourceLocation) throws {
        #expect(try store.index.wrongTotals() == 0, words, sourceLocation: location)
        for (kept, counted) in [
            (
                "SELECT layer, content, inodes FROM layer_content WHERE inodes > 0 ORDER BY 1, 2",
                """
                SELECT l.id, i.content, count(*) FROM layer l JOIN inode i ON i.id BETWEEN l.first_inode AND l.last_inode
                WHERE i.content IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
                """
            ),
            (
                "SELECT content_row, files FROM content_status WHERE layers > 0 ORDER BY 1",
                """
                SELECT i.content, count(*) FROM layer l JOIN inode i ON i.id BETWEEN l.first_inode AND l.last_inode
                WHERE i.content IS NOT NULL GROUP BY 1 ORDER BY 1
                """
            ),
            (
                "SELECT content, landed_bytes FROM content_landed ORDER BY 1",
                """
                SELECT id, CASE state WHEN 2 THEN size WHEN 1 THEN
                    (SELECT coalesce(sum(size), 0) FROM chunk WHERE content = c.id AND landed = 1) ELSE 0 END
                FROM content c ORDER BY 1
                """
            ),
            (
                "SELECT reference, contents, merged_contents, bytes, landed_bytes FROM image_status ORDER BY 1",
                """
                SELECT m.reference, count(c.id), coalesce(sum(c.state = 2), 0), coalesce(sum(c.size), 0),
                    coalesce(sum(d.landed_bytes), 0)
                FROM image m LEFT JOIN (
                    SELECT DISTINCT il.image, i.content FROM image_layer il JOIN layer l ON l.id = il.layer
                    JOIN inode i ON i.id BETWEEN l.first_inode AND l.last_inode WHERE i.content IS NOT NULL) x ON x.image = m.id
                LEFT JOIN content c ON c.id = x.content LEFT JOIN content_landed d ON d.content = c.id
                GROUP BY m.id ORDER BY 1
                """
            ),
            (
                "SELECT layer_row, path, coalesce(digest, '') FROM image_file ORDER BY 1, 2, 3",
                """
                WITH RECURSIVE tree (layer, inode, path) AS (
                    SELECT id, root, '' FROM layer WHERE id IN (SELECT layer FROM image_layer)
                    UNION ALL
                    SELECT t.layer, d.inode, t.path || '/' || CAST(d.name AS TEXT) FROM tree t JOIN dirent d ON d.parent = t.inode)
                SELECT t.layer, t.path, CASE WHEN c.id IS NULL THEN '' ELSE 'sha256:' || lower(hex(c.digest)) END FROM tree t JOIN inode i ON i.id = t.inode
                LEFT JOIN content c ON c.id = i.content JOIN image_layer il ON il.layer = t.layer WHERE t.path <> ''
                ORDER BY 1, 2, 3
                """
            ),
            (
                "SELECT contents, merged_contents, allocated_bytes FROM cache_usage",
                """
                SELECT (SELECT count(*) FROM content), (SELECT count(*) FROM content WHERE state = 2),
                    (SELECT coalesce(sum((bytes + 4095) / 4096 * 4096), 0) FROM (
                        SELECT max(d.landed_bytes) AS bytes FROM content c JOIN content_landed d ON d.content = c.id
                        WHERE c.state > 0 GROUP BY c.digest, CASE c.proof WHEN 1 THEN 0 ELSE c.id END))
                """
            ),
            (
                "SELECT layer_row, inode, path FROM content_file ORDER BY 1, 2",
                """
                SELECT f.layer_row, f.inode, min(f.path) FROM file f WHERE f.content_row IS NOT NULL
                AND f.inode NOT IN (SELECT id FROM inode WHERE nlink > 1) GROUP BY 1, 2
                UNION ALL SELECT layer_row, inode, path FROM content_file WHERE inode IN (SELECT id FROM inode WHERE nlink > 1)
                AND (layer_row, path, inode) IN (SELECT layer_row, path, inode FROM file)
                ORDER BY 1, 2
                """
            ),
        ] {
            #expect(try rows(kept) == rows(counted), "\(words): \(kept)", sourceLocation: location)
        }
    }

    @Test(
        "whatever is imported, landed, taken back, evicted and collected, the totals are those that are counted",
        arguments: 1...6)
    func random(seed: UInt64) throws {
        var generator = Seeded(state: seed)
        let store = try scratch.open()
        let contents = (0..<30).map { number in
            number % 4 == 0
                ? FileBytes(chunks: (0...(number % 3)).map { pattern(3000 + number, seed: number * 10 + $0) })
                : FileBytes(pattern(10 + number * 37, seed: number))
        }
        // The same bytes in other chunks: two contents of one digest.
        let twins = contents.filter { $0.chunks.count > 1 }.map { FileBytes($0.bytes) }
        var layers = 0
        for step in 0..<60 {
            let records = try store.index.read { database in
                try database.prepare("SELECT \(Index.contentColumns) FROM content c ORDER BY id").map {
                    try Index.content($0)
                }
            }
            let some = records.isEmpty ? nil : records[generator.below(records.count)]
            switch generator.below(9) {
            case 0, 1:
                layers += 1
                var entries = [Entry("", .directory), Entry("d", .directory), Entry("d/e", .implicit)]
                for number in 0..<generator.below(14) {
                    let pool = generator.below(5) == 0 ? twins : contents
                    let directory = ["", "d/", "d/e/"][generator.below(3)]
                    entries.append(Entry("\(directory)f\(number)", .file(pool[generator.below(pool.count)])))
                }
                if case .file? = entries.last?.kind {
                    entries.append(Entry("hard", .link(entries[entries.count - 1].path)))
                }
                let layer = try store.importLayer("layer \(seed) \(layers)", entries)
                var all = [layer]
                if layers > 1, generator.below(2) == 0,
                    let other = try store.layer(digest("layer \(seed) \(layers - 1)"))
                {
                    all.insert(other, at: 0)
                }
                _ = try store.addImage(
                    reference: "image:\(generator.below(4))", manifest: digest("\(step)"), platform: "linux/amd64",
                    config: [], layers: all, views: try store.views(of: all))
            case 2, 3:
                var landing = Landing()
                for record in records where generator.below(3) == 0 {
                    landing.merged.append(
                        (record.id, record.name.claim == nil || generator.below(2) == 0 ? .proven : .claimed))
                }
                try store.record(landing)
            case 4:
                var landing = Landing()
                for record in records where record.name.claim != nil {
                    for chunk in try store.index.chunks(of: record, preferring: nil) where generator.below(2) == 0 {
                        landing.chunks.append((record.id, chunk.offset))
                    }
                }
                // Some of them twice, and not in their order.
                landing.chunks.shuffle(using: &generator)
                landing.chunks += landing.chunks.prefix(2)
                try store.record(landing)
            case 5:
                if let some { try store.recordProof([.proven, .claimed, .disproven][generator.below(3)], of: some.id) }
            case 6:
                if let some { try store.takeBack(some) }
            case 7:
                try store.evict(records.filter { _ in generator.below(4) == 0 })
            default:
                if generator.below(2) == 0, let image = try store.index.images().first {
                    try store.removeImage(image.reference) { _ in false }
                }
                _ = try store.markGarbage(open: [], dryRun: generator.below(3) == 0)
            }
            try expectCounted(store, "seed \(seed), step \(step)")
        }
        for image in try store.index.images() { try store.removeImage(image.reference) { _ in false } }
        _ = try store.markGarbage(open: [], dryRun: false)
        try expectCounted(store, "seed \(seed), empty")
        #expect(try scratch.integer("SELECT count(*) FROM content") == 0)
        #expect(try scratch.integer("SELECT count(*) FROM content_group") == 1)
        #expect(try scratch.integer("SELECT count(*) FROM directory") == 0)
        #expect(try scratch.integer("SELECT count(*) FROM layer_chain") == 0)
    }

    @Test("a transaction that fails changes no totals, those of the next one are its own")
    func failed() throws {
        let store = try scratch.open()
        struct Stop: Error {}
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        #expect(throws: Stop.self) {
            _ = try store.importLayer(record, inodeCount: 0) { importer in
                var offset: Int64 = 0
                _ = try importer.add(FileBytes(pattern(77)), blobOffset: &offset)
                throw Stop()
            }
        }
        try store.importLayer("b", [Entry("x", .file(FileBytes(pattern(10))))])
        try expectCounted(store, "after the next")
    }

    @Test("totals that are wrong are found, and counted anew")
    func repaired() throws {
        let store = try ExampleStore.make(in: scratch)
        try scratch.sqlite(
            "UPDATE content_group SET landed_bytes = landed_bytes + 1, last_content = 1 WHERE contents > 0")
        #expect(try store.index.wrongTotals() > 0)
        try store.recountTotals()
        #expect(try store.index.wrongTotals() == 0)
        #expect(try store.index.cacheUsage().contents == 3)
    }
}

/// The same numbers for the same seed.
struct Seeded: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        // SplitMix64.
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }
}
