import Glibc
import LaminaSQLite
import LaminaTestSupport
import Testing

@Suite("Connections")
struct ConnectionTests {
    let scratch = Scratch()

    @Test("a transaction that throws leaves nothing behind, and the connection goes on")
    func rollback() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (x)")
        struct Stop: Error {}
        #expect(throws: Stop.self) {
            try database.transaction {
                try database.execute("INSERT INTO t VALUES (1)")
                throw Stop()
            }
        }
        #expect(try database.integer("SELECT count(*) FROM t") == 0)
        let result = try database.transaction {
            try database.execute("INSERT INTO t VALUES (2)")
            return "done"
        }
        #expect(result == "done")
        #expect(try database.integer("SELECT x FROM t") == 2)
    }

    @Test("a transaction whose COMMIT fails is rolled back")
    func failingCommit() throws {
        let database = try scratch.open()
        try database.execute(
            """
            PRAGMA foreign_keys = ON;
            CREATE TABLE a (id INTEGER PRIMARY KEY);
            CREATE TABLE b (a INTEGER REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED)
            """)
        #expect(throws: SQLiteError.self) {
            try database.transaction { try database.execute("INSERT INTO b VALUES (5)") }
        }
        try database.transaction {}
        #expect(try database.integer("SELECT count(*) FROM b") == 0)
    }

    @Test("an error carries its code, SQLite's words and the SQL")
    func errors() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y NOT NULL)")
        let syntax = #expect(throws: SQLiteError.self) { _ = try database.prepare("SELEKT 1") }
        #expect(syntax?.primaryCode == 1)
        #expect(syntax?.subject == "SELEKT 1")
        #expect(syntax?.description.contains("near \"SELEKT\": syntax error") == true)
        let constraint = #expect(throws: SQLiteError.self) { try database.execute("INSERT INTO t VALUES (1, NULL)") }
        #expect(constraint?.code == 1299, "the extended code: SQLITE_CONSTRAINT_NOTNULL")
        #expect(constraint?.primaryCode == 19)
        #expect(constraint?.message.contains("t.y") == true)
        #expect(constraint?.subject.contains("INSERT INTO t") == true)
        #expect(constraint?.isCorruption == false)
        let stepped = #expect(throws: SQLiteError.self) {
            try database.prepare("INSERT INTO t VALUES (?, NULL)").bind(1, 1).run()
        }
        #expect(stepped?.code == 1299)
        #expect(stepped?.subject == "INSERT INTO t VALUES (?, NULL)")
    }

    @Test("an error of opening names the path")
    func opening() throws {
        let error = #expect(throws: SQLiteError.self) {
            _ = try Connection(path: scratch.path + "/no/such", access: .readWrite)
        }
        #expect(error?.subject == scratch.path + "/no/such")
        #expect(throws: SQLiteError.self, "a reader makes no database") { _ = try scratch.open(.readOnly) }
        #expect(access(scratch.database, F_OK) != 0)
    }

    @Test("a file that is no database is told from other errors")
    func noDatabase() throws {
        let file = try #require(fopen(scratch.database, "w"))
        for _ in 0..<100 { fputs("this is not a database\n", file) }
        fclose(file)
        let database = try scratch.open()
        let error = #expect(throws: SQLiteError.self) { _ = try database.integer("PRAGMA user_version") }
        #expect(error?.isCorruption == true)
    }

    @Test("a reading connection cannot write")
    func readOnly() throws {
        let writer = try scratch.open()
        try writer.execute("CREATE TABLE t (x)")
        let reader = try scratch.open(.readOnly)
        let error = #expect(throws: SQLiteError.self) { try reader.execute("INSERT INTO t VALUES (1)") }
        #expect(error?.primaryCode == 8)
    }

    @Test("a connection that has cached statements is closed when it is let go of")
    func closes() throws {
        func descriptors() -> Int {
            (0..<256).count { descriptor in
                var target = [CChar](repeating: 0, count: 4096)
                let count = readlink("/proc/self/fd/\(descriptor)", &target, target.count)
                guard count > 0 else { return false }
                return String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
                    .hasPrefix(scratch.path)
            }
        }
        var database: Connection? = try scratch.open()
        try database?.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
        #expect(try database?.integer("SELECT count(*) FROM t") == 0)
        #expect(try database?.cached("INSERT INTO t VALUES (1)").run() != nil)
        #expect(descriptors() > 0)
        database = nil
        #expect(descriptors() == 0)
        #expect(access(scratch.database + "-wal", F_OK) != 0, "the last connection puts the log into the database")
    }

    @Test("a statement may outlive its connection")
    func statementOutlives() throws {
        var database: Connection? = try scratch.open()
        try database?.execute("CREATE TABLE t (x); INSERT INTO t VALUES (7)")
        let statement = try database?.prepare("SELECT x FROM t")
        database = nil
        #expect(try statement?.first { $0.integer(0) } == 7)
    }

    @Test("a busy database fails at once when the timeout is 0, and a transaction waits for it otherwise")
    func busy() throws {
        let first = try scratch.open()
        let second = try scratch.open()
        try first.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
        second.setBusyTimeout(milliseconds: 0)
        try first.transaction {
            let error = #expect(throws: SQLiteError.self) { try second.transaction {} }
            #expect(error?.primaryCode == 5)
        }
        try second.transaction {}
    }
}
