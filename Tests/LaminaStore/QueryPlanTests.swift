import Foundation
import LaminaDigest
import LaminaSQLite
import LaminaSchema
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaStore

/// What SQLite does for a statement: which tables it goes through from one end to the other.
///
/// Taken from the program that SQLite makes (EXPLAIN), because EXPLAIN QUERY PLAN names tables by the aliases of the query and
/// does not say from which table an automatic index is made.
private struct QueryPlan {
    /// Tables of which every row, or every entry of one of their indexes, is looked at.
    var scanned: Set<String> = []

    init(_ sql: String, _ database: Connection) throws {
        let tables = Dictionary(
            try database.prepare("SELECT rootpage, tbl_name FROM sqlite_schema WHERE rootpage > 0")
                .map { ($0.integer(0), $0.text(1)) }, uniquingKeysWith: { first, _ in first })
        var cursors: [Int64: String] = [:]
        var before = ""
        try database.prepare("EXPLAIN " + sql).forEach { step in
            let (address, operation, cursor) = (step.integer(0), step.text(1), step.integer(2))
            // What a trigger or a foreign key does is a separate program, with its own cursors.
            if address == 0 { cursors = [:] }
            switch operation {
            case "OpenRead", "OpenWrite":
                // Database 0 is the index; 1 has the temporary tables.
                cursors[cursor] = step.integer(4) == 0 ? tables[step.integer(3)] : nil
            case "OpenEphemeral", "OpenAutoindex", "OpenPseudo", "SorterOpen": cursors[cursor] = nil
            case "Rewind", "Count":
                if let table = cursors[cursor] { scanned.insert(table) }
            case "Prev":
                // Backwards; but the search for a maximum jumps over it, once it has one.
                if before != "Goto", let table = cursors[cursor] { scanned.insert(table) }
            default: break
            }
            before = operation
        }
    }

    /// Those of them that grow with the files of the store; others grow with images, layers and snapshots.
    var large: Set<String> {
        scanned.intersection([
            "inode", "dirent", "xattr", "content", "chunk", "chunk_source", "directory", "implicit_directory",
        ])
    }
}

/// Each query finds what it wants; none goes through a table that grows with the store, unless the query asks for all of it.
@Suite("What is asked grows with its answer")
struct QueryPlanTests {
    let scratch = Scratch.inMemory()

    private func connection() throws -> Connection { try Connection(path: scratch.index, access: .readOnly) }

    /// Queries about the store as a whole: they look at each content, file or name once.
    private static let meant: [String: Set<String>] = [
        // The largest of all contents, or all with some property.
        "content_status": ["content"], "content_use": ["content"], "content_landed": ["content"],
        "duplicate_content": ["content"],
        "What would `lamina gc` delete?": ["content"],
        "Which contents are not proven yet?": ["content"],
        // The most frequent of all contents, then their files.
        "Which files are duplicates?": ["content", "inode"],
        "Which files are the hottest?": ["content", "inode"],
        "content_file": ["inode"],
    ]

    @Test(
        "the documented queries go through no table that grows with the store, but for those that ask about all of it")
    func documented() throws {
        let store = try ExampleStore.make(in: scratch)
        let database = try connection()
        var asked = 0
        for (title, query) in try DocumentedView.all().map({ ($0.name, $0.query) })
            + DocumentedQuestion.all().map({ ($0.title, $0.query) })
        {
            asked += 1
            let plan = try QueryPlan(query, database)
            #expect(plan.large == Self.meant[title] ?? [], "\(title)")
        }
        #expect(asked >= 30)
        #expect(
            try Set(Self.meant.keys).isSubset(
                of: DocumentedView.all().map(\.name) + DocumentedQuestion.all().map(\.title)))
        withExtendedLifetime(store) {}
    }

    @Test("a scan is seen where there is one: also for an automatic index, and in a view")
    func scans() throws {
        let store = try ExampleStore.make(in: scratch)
        let database = try connection()
        #expect(try QueryPlan("SELECT * FROM content WHERE size = 5", database).large == ["content"])
        #expect(try QueryPlan("SELECT count(*) FROM inode", database).large == ["inode"])
        #expect(try QueryPlan("SELECT * FROM content WHERE id = 5", database).large == [])
        #expect(
            try QueryPlan(
                "SELECT * FROM layer l CROSS JOIN content c ON c.size = l.size JOIN inode i ON i.id = c.id", database
            ).large == ["content"])
        #expect(try QueryPlan("SELECT * FROM inode ORDER BY id DESC", database).large == ["inode"])
        #expect(try QueryPlan("SELECT max(id) FROM inode", database).large == [])
        #expect(
            try QueryPlan("SELECT * FROM content_status WHERE digest LIKE 'sha256:3%'", database).large == ["content"])
        withExtendedLifetime(store) {}
    }

    @Test("what commands and the server ask goes through no table that grows with the store")
    func commands() throws {
        let store = try ExampleStore.make(in: scratch)
        let index = store.index
        let image = try #require(try index.images(named: "localhost:5000/app:1").first)
        // Each uses statements that its connection keeps.
        _ = try (
            index.imageStatus(), index.layerStatus(), index.cacheUsage(), index.mergeProgress(), index.mountStatus()
        )
        _ = try (index.images(), index.mounts(), index.totals(of: image.id), index.layersToProve())
        _ = try (index.inspect(image: image), index.inspect(path: "/etc/os-release", of: image))
        _ = try (index.inspect(layersWithPrefix: "sha256:1f"), index.inspect(contentsWithPrefix: "sha256:37", limit: 2))
        _ = try (index.files(of: image), index.problems(of: image), store.mayHaveGarbage(), store.hasMarkedFiles())
        _ = try (index.unmergedSnapshotLayers(), index.snapshotSummary(limit: 5), index.opened(of: image))
        for layer in image.layers {
            _ = try (index.usage(of: layer), index.unmerged(in: layer, after: nil, limit: 5), index.blob(of: layer))
            _ = try (index.ledger(of: layer), index.claimedContents(of: layer), index.fileCount(of: layer))
        }
        _ = try store.views(of: image.layers)
        _ = try index.unmergedOpened([Array("usr/bin/tool".utf8)], in: image.layers)
        let statements = try index.read { $0.cachedStatements }
        #expect(statements.count > 35)
        let database = try connection()
        for sql in statements { #expect(try QueryPlan(sql, database).large == [], "\(sql)") }
    }

    @Test(
        "what the writer asks goes through no table that grows with the store: garbage is marked without a look at what is held"
    )
    func garbage() throws {
        let store = try ExampleStore.make(in: scratch)
        // Images above a layer whose directories are not listed, so that views have to be made.
        let layers = try [
            store.importLayer("lower", [Entry("a", .directory, permissions: 0o700), Entry("a/b", .fifo)]),
            store.importLayer("upper", [Entry("a", .implicit), Entry("a/c", .fifo)]),
        ]
        _ = try store.views(of: layers)
        _ = try store.markGarbage(open: [], dryRun: false)
        let statements = try store.writer.withLock { writer in
            try writer.connection.cachedStatements.filter { sql in
                // For the writer's own connection, because it has the temporary tables.
                try !QueryPlan(sql, writer.connection).large.isEmpty
            }
        }
        #expect(statements == [])
    }
}
