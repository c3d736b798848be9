import Testing

@testable import LaminaTOML

@Suite("TOML")
struct TOMLTests {
    /// The value of the key `a`.
    private func value(_ text: String) throws -> TOMLValue? {
        try TOMLTable.parse(Array(text.utf8)).entries["a"]?.value
    }

    @Test("values")
    func values() throws {
        let cases: [(String, TOMLValue)] = [
            ("a = 1", .integer(1)), ("a=-17 # x", .integer(-17)), ("a = +1_000", .integer(1000)),
            ("a = 0", .integer(0)),
            ("a = 0xDEAD_beef", .integer(0xdead_beef)), ("a = 0o17", .integer(15)), ("a = 0b101", .integer(5)),
            ("a = 9223372036854775807", .integer(.max)), ("a = 1.5", .float(1.5)), ("a = -1e3", .float(-1000)),
            ("a = 6.6e-3", .float(0.0066)), ("a = inf", .float(.infinity)), ("a = -inf", .float(-.infinity)),
            ("a = true", .boolean(true)), ("\u{FEFF}a = false\r\n", .boolean(false)),
            ("a = 2026-01-31", .dateTime("2026-01-31")), ("a = 07:32:00.5", .dateTime("07:32:00.5")),
            ("a = 2026-01-31 07:32:00Z", .dateTime("2026-01-31 07:32:00Z")),
            ("a = 2026-01-31T07:32:00+01:00", .dateTime("2026-01-31T07:32:00+01:00")),
            (#"a = "x\t\"\\\u00e9\U0001F600""#, .string("x\t\"\\é😀")), (#"a = 'C:\x'"#, .string(#"C:\x"#)),
            ("a = \"\"\"\nb\"\"c\\\n   d\"\"\"\"\"", .string("b\"\"cd\"\"")), ("a = '''\nb'\n'''", .string("b'\n")),
            ("a = \"\"", .string("")), ("a = []", .array([])),
            ("a = [ 1, # x\n 'b', [ ], \n]", .array([.integer(1), .string("b"), .array([])])),
        ]
        for (text, expected) in cases { #expect(try value(text) == expected, "\(text)") }
    }

    @Test("tables, dotted keys, inline tables and arrays of tables")
    func tables() throws {
        let table = try TOMLTable.parse(
            Array(
                """
                b.c = 1
                'b'."d" = 2
                [x.y]
                k = 1
                [x]
                k = 2
                [[l]]
                n = 1
                [[l]]
                [l.m]
                n = 2
                [i]
                t = { a.b = 1, c = {} }
                """.utf8))
        func at(_ path: String...) -> TOMLValue? {
            var entry = TOMLTable.Entry(value: .table(table), line: 0)
            for name in path {
                if case .tables = entry.value, let index = Int(name), entry.tables.indices.contains(index) {
                    entry.value = .table(entry.tables[index])
                } else if case .table(let inner) = entry.value, let next = inner.entries[name] {
                    entry = next
                } else {
                    return nil
                }
            }
            return entry.value
        }
        #expect(at("b", "c") == .integer(1) && at("b", "d") == .integer(2))
        #expect(at("x", "y", "k") == .integer(1) && at("x", "k") == .integer(2))
        #expect(at("l", "0", "n") == .integer(1) && at("l", "1", "m", "n") == .integer(2) && at("l", "2") == nil)
        #expect(at("i", "t", "a", "b") == .integer(1) && at("i", "t", "c") == .table(TOMLTable(origin: .inline)))
        #expect(table.entries["x"]?.line == 3)
    }

    @Test(
        "what TOML does not allow is an error with its line",
        arguments: [
            ("a", 1), ("a =", 1), ("a = ,", 1), ("\na = 1 b = 2", 2), ("= 1", 1), ("a.= 1", 1), ("[a", 1), ("[]", 1),
            ("[=]", 1), ("[[a]", 1), ("[ [a]]", 1), ("a = 1\na = 2", 2), ("[a]\n[a]", 2), ("a = 1\n[a]", 2),
            ("[[a]]\n[a]", 2), ("a = []\n[[a]]", 2), ("[a]\nb.c = 1\n[a.b]", 3), ("a = {}\na.b = 1", 2),
            ("a = {}\n[a.b]", 2), ("a = { b = 1, }", 1), ("a = {\n}", 1), ("a = [1 2]", 1), ("a = [", 1),
            ("a = [,]", 1),
            ("a = 01", 1), ("a = 1_", 1), ("a = _1", 1), ("a = 1__0", 1), ("a = 0x", 1), ("a = 1.", 1), ("a = .5", 1),
            ("a = 1.e5", 1), ("a = 1e", 1), ("a = yes", 1), ("a = 9223372036854775808", 1), ("a = \"x", 1),
            ("a = \"x\ny\"", 1), ("a = \"\\x\"", 1), ("a = \"\\ud800\"", 1), ("a = \"\\u12\"", 1), ("a = \"\"\"x", 1),
            ("\"\"\"a\"\"\" = 1", 1), ("a = 2026-1-1", 1), ("a = 1\rb = 2", 1), ("# \u{1}", 1), ("a = \"\u{7f}\"", 1),
            ("\n\n!", 3),
        ])
    func wrong(text: String, line: Int) {
        let error = #expect(throws: TOMLError.self, "\(text)") { try TOMLTable.parse(Array(text.utf8)) }
        #expect(error?.line == line, "\(text): \(error?.message ?? "")")
    }

    @Test("the time is that of the length, whatever stands in the file")
    func linear() throws {
        let files = [
            "[s]\n" + (0..<60_000).map { "k\($0) = 1\n" }.joined(),
            String(repeating: "[[a]]\n", count: 100_000),
            "[a.b]\n" + (0..<60_000).map { "c.k\($0) = 1\n" }.joined(),
            "[[a]]\n" + (0..<60_000).map { "[a.k\($0)]\n" }.joined(),
            "a = [" + String(repeating: "1,\n", count: 200_000) + "]",
            "a = \"\"\"" + String(repeating: "\\n\n", count: 200_000) + "\"\"\"",
        ]
        for file in files {
            let clock = ContinuousClock()
            let start = clock.now
            _ = try TOMLTable.parse(Array(file.utf8))
            // Half a second in a debug build on a slow machine; a quadratic algorithm takes minutes.
            #expect(clock.now - start < .seconds(20), "\(file.prefix(20))")
        }
    }

    @Test("nesting is bounded, and text that is no UTF-8 is none")
    func bounds() {
        for open in ["[", "{a="] {
            let text = "a = " + String(repeating: open, count: 100_000)
            #expect(throws: TOMLError.self) { try TOMLTable.parse(Array(text.utf8)) }
        }
        let key = Array(repeating: "k", count: 100_000).joined(separator: ".")
        #expect(throws: TOMLError.self) { try TOMLTable.parse(Array("\(key) = 1".utf8)) }
        #expect(throws: TOMLError.self) { try TOMLTable.parse([0x61, 0x3d, 0xff]) }
    }
}
