import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSchema
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Opening a store")
struct OpeningTests {
    let scratch = Scratch.inMemory()

    @Test("a fresh root becomes a store, and the same store is opened again")
    func fresh() throws {
        let layer = try scratch.open().importLayer("a", [Entry("x", .file(FileBytes(pattern(10))))])
        #expect(try scratch.integer("PRAGMA application_id") == Int64(Schema.applicationID))
        #expect(try scratch.integer("PRAGMA user_version") == Int64(Schema.migrations.count))
        #expect(try scratch.shell("sqlite3 '\(scratch.index)' 'PRAGMA journal_mode'") == "wal\n")
        let again = try scratch.open()
        #expect(try again.layer(digest("a")) == layer)
        #expect(again.openReport.rechecked == 0, "the boot is the same")
    }

    @Test("reads leave no access times on what the store makes, in an old store neither")
    func accessTimes() throws {
        func attributes(_ path: String) throws -> String {
            try scratch.shell("lsattr -d '\(scratch.root)/\(path)' | cut -d ' ' -f 1")
        }
        try createDirectories(scratch.root + "/content/ab")
        let knows =
            try scratch.shell("cd '\(scratch.root)' && touch probe && chattr +A probe 2>/dev/null && echo yes || true")
            == "yes\n"
        let store = try scratch.open()
        let name = BackingName(digest: digest("x"), claim: nil)
        _ = try store.files.make(name, size: 10)
        for path in ["content", "content/ab", "content/00", "content/stream", "content/" + name.path] {
            #expect(try attributes(path).contains("A") == knows, "\(path)")
        }
    }

    @Test("on ext4 the directories of the contents lie in groups of their own")
    func directories() throws {
        let knows =
            try scratch.shell(
                "cd '\(scratch.root)' && mkdir probe && chattr +T probe 2>/dev/null && lsattr -d probe || true"
            ).prefix { $0 != " " }.contains("T")
        _ = try scratch.open()
        #expect(try scratch.shell("lsattr -d '\(scratch.root)/content'").prefix { $0 != " " }.contains("T") == knows)
        var filesystem = statvfs()
        guard knows, statvfs(scratch.root, &filesystem) == 0, filesystem.f_files > 1_000_000 else { return }
        let groups = try scratch.shell("stat -c %i '\(scratch.root)'/content/??").split(separator: "\n")
            .map { try #require(Int($0)) / 8192 }
        #expect(groups.count == 256 && Set(groups).count > 20)
    }

    @Test("an index that cannot be looked at is not said to be missing")
    func unreachable() throws {
        #expect(symlink("index.db", scratch.index) == 0)
        for open in [{ _ = try Index(root: scratch.root) }, { try Index.check(root: scratch.root) }] {
            let error = #expect(throws: StoreError.self) { try open() }
            guard case .system(ELOOP)? = error?.code else { Issue.record("\(String(describing: error))"); continue }
        }
        #expect(throws: StoreError.self) { try Store.indexState(root: scratch.root) }
    }

    @Test("a root that is let go of leaves no log behind and no lock")
    func closes() throws {
        try scratch.open().importLayer("a", [Entry("x", .file(FileBytes(pattern(10))))])
        #expect(access(scratch.index + "-wal", F_OK) != 0)
        #expect(try scratch.shell("flock --nonblock '\(scratch.root)/lock' echo free") == "free\n")
    }

    @Test("a second opening in this process is refused and says who holds the store")
    func secondInProcess() throws {
        let store = try scratch.open()
        let error = #expect(throws: StoreError.self) { _ = try Store(root: scratch.root) }
        guard case .locked(let holder)? = error?.code else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(holder.hasSuffix(", process \(getpid())"))
        #expect(error?.description == "the store \(scratch.root) is in use by \(holder)")
        withExtendedLifetime(store) {}
    }

    @Test("another process finds the store locked")
    func secondProcess() throws {
        let store = try scratch.open()
        #expect(try scratch.shell("flock --nonblock '\(scratch.root)/lock' echo free || echo held") == "held\n")
        withExtendedLifetime(store) {}
    }

    @Test("a store that another process holds is refused with the name that it wrote, and can be read all the same")
    func otherProcess() throws {
        try scratch.open().importLayer("a", [Entry("x", .file(FileBytes(pattern(10))))])
        let holder = try #require(
            popen(
                """
                cd '\(scratch.root)'; echo 'lamina serve, process 1' > lock
                exec flock lock sh -c 'echo held; n=0; while [ ! -e stop ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done'
                """, "r"))
        defer {
            creat(scratch.root + "/stop", 0o600)
            pclose(holder)
        }
        var line = [CChar](repeating: 0, count: 100)
        #expect(fgets(&line, 100, holder) != nil)
        let error = #expect(throws: StoreError.self) { _ = try Store(root: scratch.root) }
        #expect(error?.code == .locked(holder: "lamina serve, process 1"))
        #expect(try Index(root: scratch.root).layerStatus().count == 1)
    }

    @Test("a reader is told when there is no store, and makes none")
    func missing() throws {
        let error = #expect(throws: StoreError.self) { _ = try Index(root: scratch.root) }
        #expect(error?.code == .missing)
        #expect(access(scratch.index, F_OK) != 0)
    }

    @Test("an index newer than the program is refused and not touched")
    func newer() throws {
        _ = try scratch.open()
        try scratch.sqlite("PRAGMA journal_mode = DELETE; PRAGMA user_version = 99")
        try expectRefused("version 99")
    }

    @Test("another program's database is refused and not touched")
    func foreign() throws {
        try scratch.sqlite("CREATE TABLE theirs (x)")
        try expectRefused("not lamina's")
        try scratch.sqlite("PRAGMA application_id = 1")
        try expectRefused("not lamina's: its application_id is 1")
    }

    private func expectRefused(_ words: String, _ location: SourceLocation = #_sourceLocation) throws {
        let before = try readFile(scratch.index)
        let write = #expect(throws: StoreError.self, sourceLocation: location) { _ = try scratch.open() }
        #expect(write?.code == .incompatible, sourceLocation: location)
        #expect(write?.message.contains(words) == true, "\(String(describing: write))", sourceLocation: location)
        let read = #expect(throws: StoreError.self, sourceLocation: location) { _ = try Index(root: scratch.root) }
        #expect(read?.code == .incompatible, sourceLocation: location)
        #expect(try readFile(scratch.index) == before, "not a byte of it", sourceLocation: location)
    }

    @Test("a file that is no database is reported as damage")
    func garbage() throws {
        let file = try File(scratch.index, O_RDWR | O_CREAT)
        try pattern(10_000).withUnsafeBytes { try file.write($0, at: 0) }
        #expect(throws: StoreError.self) { _ = try scratch.open() }
        let error = #expect(throws: StoreError.self) { _ = try Index(root: scratch.root) }
        #expect(error?.code == .damaged)
        #expect(error?.description.contains(scratch.index) == true)
    }

    @Test("views of another version of lamina are made anew, and those of this one are left alone")
    func views() throws {
        _ = try scratch.open()
        let before = try scratch.integer("PRAGMA schema_version")
        _ = try scratch.open()
        #expect(try scratch.integer("PRAGMA schema_version") == before)
        try scratch.sqlite(
            """
            DROP VIEW cache_usage; DROP VIEW image_status; CREATE VIEW image_status AS SELECT 'old' AS reference;
            UPDATE store SET views = zeroblob(32)
            """)
        _ = try scratch.open()
        #expect(try Index(root: scratch.root).cacheUsage().layers == 0)
        #expect(try Index(root: scratch.root).imageStatus() == [])
        let sql = Schema.views
        #expect(try scratch.integer("SELECT views = x'\(SHA256.hash(Array(sql.utf8)).hex)' FROM store") == 1)
    }

    @Test("a root where a file is in the way is an error that names it")
    func fileInTheWay() throws {
        _ = try File(scratch.root + "/file", O_RDWR | O_CREAT)
        let error = #expect(throws: StoreError.self) { _ = try Store(root: scratch.root + "/file/store") }
        #expect(error?.code == .system(ENOTDIR))
        #expect(error?.description.contains("/file/store") == true)
    }

    @Test(
        "images, their layers, mounts and pins of a version that had one image of a reference are all there afterwards")
    func platforms() throws {
        let database = try Connection(path: scratch.index, access: .readWrite)
        try database.execute("PRAGMA foreign_keys = ON")
        try Migrator(applicationID: Schema.applicationID, migrations: Array(Schema.migrations.prefix(9)))
            .migrate(database)
        // Old and new views use the same tables; ALTER TABLE checks them.
        try database.execute(Schema.views)
        try database.execute(
            """
            INSERT INTO layer (id, digest, format, size, root, first_inode, last_inode, indexed_at)
            VALUES (5, randomblob(32), 1, 1, 2, 2, 2, 1);
            INSERT INTO inode (id, mode, uid, gid, size, mtime, mtime_ns, device, nlink) VALUES (2, 16877, 0, 0, 0, 0, 0, 0, 2);
            INSERT INTO layer_view (id, layer, inherits, root) VALUES (4, 5, x'', 2);
            INSERT INTO image (id, reference, manifest_digest, platform, config, pulled_at, pinned)
            VALUES (3, 'r/a:1', randomblob(32), 'linux/arm64/v8', x'7b7d', 10, 1), (7, 'r/b:1', randomblob(32), 'linux/amd64', x'', 11, 0);
            INSERT INTO image_layer VALUES (3, 0, 5, 4), (7, 0, 5, 4);
            INSERT INTO mount (id, target, image, upper, mounted_at) VALUES (8, '/m', 7, '/u', 12), (9, '/gone', 3, NULL, 13);
            INSERT INTO mount_view VALUES (8, 0, 4), (9, 0, 4);
            DELETE FROM mount WHERE id = 9;
            """)
        let store = try scratch.open()
        let images = try store.index.images()
        #expect(images.map(\.reference) == ["r/a:1", "r/b:1"] && images.map { $0.id.row } == [3, 7])
        #expect(images.map(\.platform) == ["linux/arm64", "linux/amd64"] && images.allSatisfy { $0.layers.count == 1 })
        #expect(try scratch.integers("SELECT pinned FROM image ORDER BY id") == [1, 0])
        let mounts = try store.index.mounts()
        #expect(mounts.map(\.target) == ["/m"] && mounts.first?.image.row == 7 && mounts.first?.upper == "/u")
        #expect(mounts.first?.views == images[1].views)
        #expect(try store.index.problems().isEmpty)
        // What is added now has a number that was never used, and is deleted with its image.
        try store.addMount(target: "/new", image: images[0].id, upper: nil)
        #expect(try scratch.integer("SELECT id FROM mount WHERE target = '/new'") == 10)
        try store.removeImage("r/a:1") { _ in false }
        #expect(try scratch.integers("SELECT image FROM image_layer") == [7])
        #expect(try scratch.integers("SELECT id FROM mount") == [8])
    }

    @Test("a content's rows are checked without a function, and an open connection learns of it")
    func contentChecks() throws {
        let database = try Connection(path: scratch.index, access: .readWrite)
        try Migrator(applicationID: Schema.applicationID, migrations: Array(Schema.migrations.prefix(7)))
            .migrate(database)
        let insert = "INSERT INTO content (digest, size, state) VALUES (randomblob(%), 1, %)"
        func add(_ length: Int, state: Int) throws {
            let values = insert.split(separator: "%", omittingEmptySubsequences: false)
            try database.execute("\(values[0])\(length)\(values[1])\(state)\(values[2])")
        }
        try add(32, state: 2)
        #expect(throws: SQLiteError.self) { try add(31, state: 0) }
        _ = try scratch.open()
        let text = try scratch.sqlite3("SELECT sql FROM sqlite_schema WHERE name = 'content'")
        // A function in it makes SQLite copy every page that a statement of many rows changes.
        #expect(!text.contains("length(") && text.contains("state BETWEEN 0 AND 2"), "\(text)")
        try add(31, state: 2)
        #expect(throws: SQLiteError.self) { try add(32, state: 3) }
        #expect(throws: SQLiteError.self) { try database.execute("UPDATE content SET proof = 3") }
        #expect(try scratch.integer("SELECT count(*) FROM content WHERE state = 2") == 2)
        #expect(try scratch.sqlite3("PRAGMA integrity_check").hasPrefix("ok"))
        #expect(try scratch.integer("PRAGMA user_version") == Int64(Schema.migrations.count))
    }
}
