import Testing

@testable import LaminaSnapshotter
@testable import LaminaStore

private func record(_ name: String) -> SnapshotRecord {
    SnapshotRecord(
        id: SnapshotID(1), key: SnapshotKey(name), parent: SnapshotKey("par ent"), kind: .active, layer: nil,
        usage: nil,
        createdAt: 0, updatedAt: 0, labels: ["a": "x", "b.c": name])
}

@Suite("A filter of a List")
struct FilterTests {
    @Test("lets through what containerd's own lets through, and is refused where that is refused")
    func verdicts() {
        for (filter, name, verdict) in LaminaSnapshotterTests.verdicts {
            let found: Verdict
            do {
                found = try SnapshotFilters(parsing: [filter]).matches(record(name)) ? .yes : .no
            } catch {
                found = .refused
            }
            #expect(found == verdict, "\(filter.debugDescription) of \(name.debugDescription)")
        }
    }

    @Test("of several, one is enough; none, or an empty one, lets everything through")
    func alternatives() throws {
        #expect(try SnapshotFilters(parsing: ["name==x", "kind==active"]).matches(record("y")))
        #expect(try !SnapshotFilters(parsing: ["name==x", "kind==view"]).matches(record("y")))
        #expect(try SnapshotFilters(parsing: []).matches(record("y")))
        #expect(try SnapshotFilters(parsing: ["name==x", ""]).matches(record("y")))
    }

    @Test("that asks for one chain ID says so, and no other")
    func chain() throws {
        let chain = #"labels."containerd.io/snapshot.ref"==sha256:aa"#
        #expect(try SnapshotFilters(parsing: [chain + #",parent=="p""#]).chain == "sha256:aa")
        #expect(try SnapshotFilters(parsing: [chain, chain + ",kind==view"]).chain == "sha256:aa")
        for others in [[], [""], ["kind==active"], [chain, "kind==active"], [chain, chain + "b"]] {
            #expect(try SnapshotFilters(parsing: others).chain == nil, "\(others)")
        }
    }

    @Test("of any bytes is taken or refused, and takes time in proportion to its length")
    func hostile() throws {
        var generator = SystemRandomNumberGenerator()
        let pieces = ["name", "labels", "~=", "=="] + "\"/|\\()[]{}*+?^,.a9\u{0}é ".map(String.init)
        for _ in 0..<20_000 {
            let count = Int.random(in: 0..<12, using: &generator)
            let text = (0..<count).map { _ in pieces.randomElement(using: &generator) ?? "" }
            _ = try? SnapshotFilters(parsing: [text.joined()]).matches(record("aaaa"))
        }
        // Patterns that take a backtracking matcher for ever, or a compiler all memory.
        let long = String(repeating: "a", count: 1000)
        for pattern in ["(a*)*b", "(a|aa)+$b", "((((a+)+)+)+)+b", "(a{0,12}){0,12}b", "(.*)(.*)(.*)(.*)(.*)c"] {
            #expect(try !SnapshotFilters(parsing: ["name~=\"\(pattern)\""]).matches(record(long)), "\(pattern)")
        }
        #expect(Pattern(Array("((((){1000}){1000}){1000}){1000}".utf8)) != nil)
        for pattern in ["((a{1000}){1000}){1000}", "a{1001}", String(repeating: "(", count: 500)] {
            #expect(Pattern(Array(pattern.utf8)) == nil, "\(pattern.prefix(40))")
        }
        #expect(throws: SnapshotError.self) { try SnapshotFilters(parsing: [String(repeating: "a", count: 100_000)]) }
        #expect(throws: SnapshotError.self) { try SnapshotFilters(parsing: Array(repeating: "name==a", count: 2000)) }
    }
}
