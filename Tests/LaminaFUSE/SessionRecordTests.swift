import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

@Suite("the record of a session")
struct SessionRecordTests {
    /// What another process would find.
    private func adopted(_ record: SessionRecord) throws -> SessionRecord {
        try SessionRecord(adopting: File(adopting: dup(record.file.descriptor), path: "test"))
    }

    @Test("opens are found again by another process, and released once, however often")
    func opens() throws {
        let record = try SessionRecord()
        let first = try #require(record.addOpen(3, unique: 102, node: 19, backing: nil))
        let second = try #require(record.addOpen(3, unique: 104, node: 19, backing: 7))
        #expect(first != 0 && first != second)
        let next = try adopted(record)
        #expect(
            next.opens(3) == [
                .init(handle: first, node: 19, backing: nil), .init(handle: second, node: 19, backing: 7),
            ])
        #expect(next.opens(4).isEmpty)
        #expect(next.findOpen(3, unique: 104) == second)
        #expect(next.findOpen(3, unique: 106) == nil)
        #expect(next.removeOpen(3, handle: first))
        #expect(!next.removeOpen(3, handle: first))
        // A place that is used again is not released by the handle of the earlier open.
        let third = try #require(next.addOpen(3, unique: 110, node: 35, backing: nil))
        #expect(!next.removeOpen(3, handle: first))
        #expect(try adopted(next).opens(3).map(\.handle).sorted() == [second, third].sorted())
        for handle in [0, 1, UInt64.max, third + 1] { #expect(!next.removeOpen(3, handle: handle)) }
        #expect(!next.removeOpen(4, handle: third))
    }

    @Test("backing files are found again, those that were being given up too, and the highest number is kept")
    func backings() throws {
        let record = try SessionRecord()
        let first = try #require(record.addBacking(0, node: 16, value: 5))
        let second = try #require(record.addBacking(0, node: 32, value: 6))
        _ = record.addBacking(1, node: 17, value: 4)
        record.closeBacking(0, first)
        let next = try adopted(record)
        #expect(
            next.backings(0) == [
                .init(slot: first, node: 16, value: 5, isClosing: true),
                .init(slot: second, node: 32, value: 6, isClosing: false),
            ])
        #expect(next.highestBacking == 6)
        next.removeBacking(0, first)
        next.removeBacking(0, second)
        #expect(try adopted(next).backings(0).isEmpty)
        #expect(try adopted(next).highestBacking == 6, "the highest that ever was")
        next.setHighestBacking(9)
        #expect(try adopted(next).highestBacking == 9)
    }

    @Test("opens that are counted take one place, and another process never finds fewer of them")
    func counted() throws {
        let record = try SessionRecord()
        let single = try #require(record.addOpen(2, unique: 100, node: 18, backing: 7))
        let counter = try #require(record.addCounter(2, unique: 102, node: 18, backing: 7))
        #expect(counter != single)
        for _ in 1..<1000 { #expect(record.countOpen(2, handle: counter)) }
        #expect(record.opens(2).count == 2)
        #expect(record.opens(2).last == .init(handle: counter, node: 18, backing: 7, count: 1000))
        for _ in 0..<400 { #expect(record.removeOpen(2, handle: counter)) }
        #expect(!record.countOpen(2, handle: single) && !record.countOpen(3, handle: counter))
        #expect(record.findOpen(2, unique: 102) == nil)
        // The kernel may report some again that were released.
        let next = try adopted(record)
        let found = try #require(next.opens(2).last?.count)
        #expect((601...700).contains(found))
        for _ in 0..<found { #expect(next.removeOpen(2, handle: counter)) }
        #expect(!next.removeOpen(2, handle: counter) && !next.countOpen(2, handle: counter))
        #expect(next.opens(2) == [.init(handle: single, node: 18, backing: 7)])
        // The place is used again, but not by the earlier handle.
        let another = try #require(next.addOpen(2, unique: 200, node: 34, backing: nil))
        #expect(another != counter && !next.removeOpen(2, handle: counter) && next.removeOpen(2, handle: another))
    }

    @Test("many opens and releases use few places, and a full shard says so")
    func capacity() throws {
        let record = try SessionRecord()
        for unique in 1...UInt64(200_000) {
            let handle = try #require(record.addOpen(5, unique: unique * 2, node: 21, backing: nil))
            #expect(record.removeOpen(5, handle: handle))
        }
        #expect(try record.file.status().st_blocks < 64)
        for unique in 1...UInt64(SessionRecord.shardCapacity) {
            guard record.addOpen(5, unique: unique * 2, node: 21, backing: nil) != nil else {
                Issue.record("full at \(unique)")
                return
            }
        }
        #expect(record.addOpen(5, unique: 2, node: 21, backing: nil) == nil)
        #expect(record.addOpen(6, unique: 2, node: 22, backing: nil) != nil)
        #expect(try adopted(record).opens(5).count == SessionRecord.shardCapacity)
    }

    @Test("what is no record, or one of a newer version, is refused")
    func refused() throws {
        let other = try SharedMemory(name: "test", wordCount: 16)
        #expect(throws: SystemError.self) { try SessionRecord(adopting: other.file) }
        let record = try SessionRecord()
        let words = try SharedMemory(mapping: File(adopting: dup(record.file.descriptor), path: "test"), wordCount: 16)
        for (word, value) in [(1, UInt64(2)), (0, 0), (8, UInt64.max), (9, 65_537)] {
            let before = words[word]
            words[word] = value
            #expect(throws: SystemError.self) { try adopted(record) }
            words[word] = before
        }
        _ = try adopted(record)
    }
}
