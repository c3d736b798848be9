import LaminaSQLite
import LaminaTestSupport
import Testing

@Suite("Statements")
struct StatementTests {
    let scratch = Scratch()

    @Test(
        "integers come back as they were bound",
        arguments: [Int64.min, -1, 0, 1, 127, 128, 1 << 47, Int64.max])
    func integers(value: Int64) throws {
        let database = try scratch.open()
        let row = try database.prepare("SELECT ?, typeof(?1)").bind(1, value).first { ($0.integer(0), $0.text(1)) }
        #expect(row?.0 == value)
        #expect(row?.1 == "integer")
    }

    @Test("text comes back as it was bound", arguments: ["", "a", "größe", "😀", "a\u{0}b", "it's"])
    func text(value: String) throws {
        let database = try scratch.open()
        let row = try database.prepare("SELECT ?, typeof(?1)").bind(1, text: value).first {
            ($0.text(0), $0.text(1), $0.optionalText(0))
        }
        #expect(row?.0 == value)
        #expect(row?.1 == "text")
        #expect(row?.2 == value)
    }

    @Test("bytes come back as they were bound, whatever they are", arguments: [0, 1, 3, 300, 100_000])
    func blobs(count: Int) throws {
        let database = try scratch.open()
        let value = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let row = try database.prepare("SELECT ?, typeof(?1), length(?1)").bind(1, blob: value).first {
            (Array($0.blob(0)), $0.text(1), $0.integer(2))
        }
        #expect(row?.0 == value)
        #expect(row?.1 == "blob", "no bytes are an empty blob, not NULL")
        #expect(row?.2 == Int64(value.count))
    }

    @Test("bytes of a raw buffer are copied: the buffer may change before the statement runs")
    func blobIsCopied() throws {
        let database = try scratch.open()
        let statement = try database.prepare("SELECT ?")
        var bytes: [UInt8] = [1, 2, 3]
        bytes.withUnsafeBytes { _ = statement.bind(1, blob: $0) }
        bytes[0] = 9
        #expect(try statement.first { Array($0.blob(0)) } == [1, 2, 3])
    }

    @Test("NULL is told from 0 and from nothing")
    func null() throws {
        let database = try scratch.open()
        let statement = try database.prepare("SELECT ?1, ?2, ?3, ?4")
        statement.bindNull(1).bind(2, nil as Int64?).bind(3, text: nil).bind(4, 0)
        let row = try statement.first { row in
            (0..<4).map { row.isNull($0) }
                + [row.optionalInteger(0) == nil, row.optionalText(2) == nil, row.optionalInteger(3) == 0]
        }
        #expect(row == [true, true, true, false, true, true, true])
        let values = try statement.first { ($0.integer(0), $0.text(2), $0.blob(0).count, $0.double(0)) }
        #expect(values?.0 == 0)
        #expect(values?.1 == "")
        #expect(values?.2 == 0)
        #expect(values?.3 == 0)
    }

    @Test("floating-point numbers and column names are read")
    func columns() throws {
        let database = try scratch.open()
        let statement = try database.prepare("SELECT 1.5 AS half, 2 AS two")
        #expect(statement.columnCount == 2)
        #expect(statement.columnName(0) == "half")
        #expect(statement.columnName(1) == "two")
        #expect(statement.columnName(2) == "")
        #expect(try statement.first { $0.double(0) } == 1.5)
    }

    @Test("map and forEach give every row and leave the statement ready for the next run")
    func rows() throws {
        let database = try scratch.open()
        let statement = try database.prepare(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?) SELECT x FROM n")
        #expect(try statement.bind(1, 3).map { $0.integer(0) } == [1, 2, 3])
        #expect(try statement.bind(1, 5).map { $0.integer(0) } == [1, 2, 3, 4, 5])
        struct Stop: Error {}
        #expect(throws: Stop.self) { try statement.forEach { if $0.integer(0) == 2 { throw Stop() } } }
        #expect(
            try statement.bind(1, 2).map { $0.integer(0) } == [1, 2], "a body that throws resets the statement too")
        #expect(try statement.first { $0.integer(0) } == 1)
    }

    @Test("a cached statement comes back the same and reset, even when somebody left it in the middle")
    func cached() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)")
        let sql = "SELECT x FROM t ORDER BY x"
        let first = try database.cached(sql)
        #expect(try first.step())
        #expect(try first.step())
        let second = try database.cached(sql)
        #expect(first === second)
        #expect(try second.step())
        #expect(second.integer(0) == 1)
        second.reset()
        #expect(try database.cached("SELECT count(*) FROM t") !== second)
    }

    @Test("a statement that failed can be used again")
    func failedStatement() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (x INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
        let insert = try database.cached("INSERT INTO t VALUES (?)")
        #expect(throws: SQLiteError.self) { try insert.bind(1, 1).run() }
        try insert.bind(1, 2).run()
        #expect(try database.integer("SELECT count(*) FROM t") == 2)
    }

    @Test("the last inserted row and the number of changes are told")
    func changes() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        try database.prepare("INSERT INTO t (id, x) VALUES (41, 0), (42, 0)").run()
        #expect(database.lastInsertedRow == 42)
        try database.prepare("UPDATE t SET x = 1").run()
        #expect(database.changes == 2)
        #expect(try database.integer("SELECT id FROM t WHERE id = 7") == nil)
    }
}

@Suite("Statements that are used amid others, and parameters that cannot be bound")
struct StatementMisuseTests {
    let scratch = Scratch()

    @Test("a cached statement that is asked for amid its own rows is another one: the outer loop goes on to its end")
    func nested() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)")
        let sql = "SELECT x FROM t ORDER BY x"
        var seen: [Int64] = []
        try database.cached(sql).forEach { row in
            seen.append(row.integer(0))
            let inner = try database.cached(sql).map { $0.integer(0) }
            #expect(inner == [1, 2, 3])
            // The state at the loop's current row.
            #expect(row.integer(0) == seen.last)
            guard seen.count < 10 else { throw SQLiteError(code: 1, message: "endless", subject: sql) }
        }
        #expect(seen == [1, 2, 3])
        #expect(try database.cached(sql) === database.cached(sql), "once it is free it is used again")
    }

    @Test("a parameter that is not there is an error of the statement, once")
    func range() throws {
        let database = try scratch.open()
        try database.execute("CREATE TABLE t (x)")
        let insert = try database.cached("INSERT INTO t VALUES (?)")
        let error = #expect(throws: SQLiteError.self) { try insert.bind(1, 5).bind(2, 6).run() }
        #expect(error?.code == 25 && error?.description.contains("INSERT INTO t") == true)
        #expect(try database.integer("SELECT count(*) FROM t") == 0, "it did not run without it")
        try insert.bind(1, 7).run()
        #expect(try database.integer("SELECT x FROM t") == 7)
        #expect(throws: SQLiteError.self) { _ = try insert.bind(9, text: "a").first { _ in true } }
        #expect(throws: SQLiteError.self) { try insert.bind(9, blob: [1, 2]).run() }
        #expect(throws: SQLiteError.self) { try insert.bindNull(9).run() }
    }

    @Test("a statement that stands at a row takes no parameters")
    func amidRows() throws {
        let database = try scratch.open()
        let statement = try database.prepare("SELECT ? UNION ALL SELECT 2")
        _ = try statement.bind(1, 1).step()
        #expect(throws: SQLiteError.self) { _ = try statement.bind(1, 3).step() }
        #expect(try statement.bind(1, 4).map { $0.integer(0) } == [4, 2])
    }
}
