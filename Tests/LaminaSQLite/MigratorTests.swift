import LaminaSQLite
import LaminaTestSupport
import Testing

@Suite("Migrations")
struct MigratorTests {
    let scratch = Scratch()
    static let first = "CREATE TABLE a (x); INSERT INTO a VALUES (1);"
    static let second = "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1;"

    @Test("a fresh database gets all of them, with the version and the application's number")
    func fresh() throws {
        let database = try scratch.open()
        let migrator = Migrator(applicationID: 77, migrations: [Self.first, Self.second])
        #expect(try migrator.check(database) == 0)
        #expect(try migrator.migrate(database) == 2)
        #expect(try database.integer("SELECT y FROM a") == 2)
        #expect(try database.integer("PRAGMA user_version") == 2)
        #expect(try database.integer("PRAGMA application_id") == 77)
    }

    @Test("a second time does nothing")
    func again() throws {
        let migrator = Migrator(applicationID: 77, migrations: [Self.first, Self.second])
        _ = try migrator.migrate(scratch.open())
        let before = scratch.bytes()
        #expect(!before.isEmpty)
        #expect(try migrator.migrate(scratch.open()) == 0)
        #expect(scratch.bytes() == before)
    }

    @Test("a database of an earlier version gets what it lacks")
    func later() throws {
        let database = try scratch.open()
        _ = try Migrator(applicationID: 77, migrations: [Self.first]).migrate(database)
        #expect(try Migrator(applicationID: 77, migrations: [Self.first, Self.second]).migrate(database) == 1)
        #expect(try database.integer("SELECT y FROM a") == 2)
    }

    @Test("a database newer than the program is refused and not touched")
    func newer() throws {
        _ = try Migrator(applicationID: 77, migrations: [Self.first, Self.second]).migrate(scratch.open())
        let before = scratch.bytes()
        #expect(throws: Migrator.Refusal.newer(database: 2, known: 1)) {
            _ = try Migrator(applicationID: 77, migrations: [Self.first]).migrate(scratch.open())
        }
        #expect(scratch.bytes() == before)
    }

    @Test("another program's database is refused and not touched, with a number or without")
    func foreign() throws {
        try scratch.open().execute("CREATE TABLE theirs (x)")
        var before = scratch.bytes()
        let migrator = Migrator(applicationID: 77, migrations: [Self.first])
        #expect(throws: Migrator.Refusal.foreign(applicationID: 0)) { _ = try migrator.migrate(scratch.open()) }
        #expect(scratch.bytes() == before)
        try scratch.open().execute("PRAGMA application_id = -5")
        before = scratch.bytes()
        #expect(throws: Migrator.Refusal.foreign(applicationID: -5)) { _ = try migrator.migrate(scratch.open()) }
        #expect(scratch.bytes() == before)
    }

    @Test("a migration that fails leaves the version before it, whole")
    func failing() throws {
        let database = try scratch.open()
        let broken = "CREATE TABLE b (x); INSERT INTO b VALUES (1); INSERT INTO nowhere VALUES (1);"
        let error = #expect(throws: SQLiteError.self) {
            _ = try Migrator(applicationID: 77, migrations: [Self.first, broken]).migrate(database)
        }
        #expect(error?.message.contains("nowhere") == true)
        #expect(try database.integer("PRAGMA user_version") == 1)
        #expect(try database.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'b'") == 0)
        #expect(try Migrator(applicationID: 77, migrations: [Self.first, Self.second]).migrate(database) == 1)
    }
}
