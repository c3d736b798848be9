import LaminaDigest
import LaminaSQLite
import LaminaSchema
import LaminaStore
import LaminaTestSupport
import Testing

@Suite("Indexes of earlier versions")
struct MigrationTests {
    let scratch = Scratch.inMemory()

    private func migrator(_ count: Int) -> Migrator {
        Migrator(applicationID: Schema.applicationID, migrations: Array(Schema.migrations.prefix(count)))
    }

    /// Tables, indexes and triggers, without the blanks of their text.
    private func schema(_ path: String) throws -> [String] {
        try Connection(path: path, access: .readOnly).prepare(
            "SELECT name, sql FROM sqlite_schema WHERE type <> 'view' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        ).map { "\($0.text(0)): \($0.text(1).filter { !$0.isWhitespace })" }
    }

    @Test("each earlier version comes to the same schema, and its data with it", arguments: 1..<Schema.migrations.count)
    func upgrades(version: Int) throws {
        let today = Scratch.inMemory()
        var store: Store? = try ExampleStore.make(in: today)
        let questions = [
            "SELECT reference, layers, contents, merged_contents, bytes, landed_bytes, state FROM image_status ORDER BY 1",
            "SELECT digest, contents, merged_contents, bytes, landed_bytes, images FROM layer_status ORDER BY 1",
            "SELECT * FROM cache_usage",
            "SELECT layer, path, type, digest, state, landed_bytes FROM file ORDER BY 1, 2",
            "SELECT digest, path FROM content_file ORDER BY 1, 2",
            "SELECT digest, files, layers, images FROM content_status ORDER BY 1",
            "SELECT layer, content, inodes FROM layer_content ORDER BY 1, 2",
            "SELECT digest, bytes, landed_bytes, chunks FROM merge_progress",
            "SELECT digest, files, saved_bytes FROM duplicate_content", "SELECT id - up FROM inode ORDER BY id",
            "SELECT inode, path FROM directory ORDER BY inode",
        ]
        let answers = try questions.map { try today.sqlite3($0) }
        store = nil
        withExtendedLifetime(store) {}
        do {
            // Today's rows, as far as that version had their columns.
            let database = try Connection(path: scratch.index, access: .readWrite)
            try migrator(version).migrate(database)
            try database.execute("ATTACH '\(today.index)' AS today")
            for table in try database.prepare(
                "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
            .map({ $0.text(0) }) {
                func columns(_ schema: String) throws -> [String] {
                    try database.prepare("SELECT name FROM pragma_table_info(?1, ?2)").bind(1, text: table).bind(
                        2, text: schema
                    )
                    .map { $0.text(0) }
                }
                let known = try columns("today")
                let common = try columns("main").filter { known.contains($0) && $0 != "views" }.joined(separator: ", ")
                try database.execute(
                    "INSERT OR REPLACE INTO main.\(table) (\(common)) SELECT \(common) FROM today.\(table)")
            }
            // From the versions that marked each content.
            let marks = try database.prepare("SELECT count(*) FROM pragma_table_info('content') WHERE name = 'durable'")
                .first { $0.integer(0) }
            if marks == 1 { try database.execute("UPDATE content SET durable = 1") }
        }
        let upgraded = try scratch.open()
        #expect(try schema(scratch.index) == schema(today.index))
        #expect(try upgraded.index.wrongTotals() == 0)
        for (question, answer) in zip(questions, answers) {
            // Snapshots hold a layer too, and came with version 5.
            #expect(try scratch.sqlite3(question) == answer, "\(question)")
        }
        #expect(try scratch.sqlite3("PRAGMA integrity_check; PRAGMA foreign_key_check") == "ok\n")
    }

    @Test("a text of the contents' table with other blanks is replaced all the same, one with other columns is refused")
    func otherBlanks() throws {
        for (old, new, isRefused) in [
            (
                "digest BLOB NOT NULL CHECK (length(digest) = 32),", "digest  BLOB NOT NULL CHECK(length(digest)=32),",
                false
            ),
            ("size INTEGER NOT NULL,\n    state", "size INTEGER NOT NULL,\n    more INTEGER,\n    state", true),
        ] {
            let scratch = Scratch.inMemory()
            let database = try Connection(path: scratch.index, access: .readWrite)
            let migrations = Schema.migrations.prefix(7).map { sql -> String in
                guard let start = sql.firstRange(of: "CREATE TABLE content (")?.lowerBound else { return sql }
                return String(sql[..<start] + sql[start...].replacing(old, with: new, maxReplacements: 1))
            }
            #expect(migrations[0] != Schema.migrations[0])
            try Migrator(applicationID: Schema.applicationID, migrations: migrations).migrate(database)
            if isRefused {
                #expect(throws: (any Error).self) { try migrator(8).migrate(database) }
                #expect(try database.integer("PRAGMA user_version") == 7)
                #expect(
                    try database.integer("SELECT sql LIKE '%more INTEGER%' FROM sqlite_schema WHERE name = 'content'")
                        == 1)
            } else {
                try migrator(8).migrate(database)
                let text = try database.prepare("SELECT sql FROM sqlite_schema WHERE name = 'content'").first {
                    $0.text(0)
                }
                #expect(text?.contains("length(") == false)
            }
        }
    }
}
