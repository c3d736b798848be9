import Glibc
import LaminaDigest
import LaminaStore
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("A store with a limit")
struct EvictionTests {
    /// So many files of 40,000 bytes, each in a member of its own.
    private static let count = 200
    private static let files = (0..<count).map { noise(40_000, seed: UInt64($0)) }
    private static let layer: ForgedLayer = {
        var layer = ForgedLayer()
        for (number, bytes) in files.enumerated() { layer.file("f\(number)", bytes, chunkSize: 1 << 20) }
        layer.finish()
        return layer
    }()
    private static let total = Int64(count) * 40_960

    private func withEngine(_ fixture: Fixture, limit: Int64, _ body: (MergeEngine) throws -> Void) throws {
        var options = MergeEngine.Options()
        let store = try fixture.openStore()
        // The index and the reserve are counted as well.
        options.maxBytes = try store.spaceUsed() + limit
        let engine = try MergeEngine(store: store, options: options)
        engine.setErrorReporter { error in fixture.reports.withLock { $0.append("\(error)") } }
        defer { engine.stop() }
        try body(engine)
    }

    @Test("a pull of twice the limit ends, with every byte right and the store below it")
    func pull() throws {
        let fixture = try Fixture()
        try fixture.write(Self.layer)
        let limit = Self.total / 2
        try withEngine(fixture, limit: limit) { engine in
            let image = try fixture.index(engine)
            try engine.merge(image)
            let totals = try engine.store.index.totals(of: image.id)
            #expect(totals.landedBytes < totals.bytes && totals.landedBytes > limit / 4)
            #expect(try engine.store.spaceUsed() <= engine.options.maxBytes! + (4 << 20))
            for content in try engine.store.contents() where content.state == .merged {
                #expect(try SHA256.hash(engine.store.bytes(content)) == content.name.digest)
            }
            // The last ones are there.
            let last = try engine.content(SHA256.hash(Self.files[Self.count - 1]))
            #expect(last.state == .merged)
            // And those that went come back.
            let gone = try #require(try engine.store.contents().first { $0.state == .absent })
            let answers = Answers()
            engine.whole(gone.id, answers.take())
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(try SHA256.hash(engine.store.bytes(gone)) == gone.name.digest)
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test("what is open or pinned stays, even where that is more than the limit; nobody waits for ever")
    func held() throws {
        let fixture = try Fixture()
        try fixture.write(Self.layer)
        try withEngine(fixture, limit: Self.total / 4) { engine in
            let image = try fixture.index(engine)
            let held = Set(try engine.store.contents().prefix(60).map(\.id))
            engine.setHolders(.init { $0.intersection(held) })
            try engine.merge(image)
            let states = try engine.store.contents()
            #expect(states.prefix(60).allSatisfy { $0.state == .merged })
            #expect(states.contains { $0.state == .absent })
            try engine.store.setPinned(true, image.reference)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("what was opened first the last time is merged first")
    func openedFirst() throws {
        let fixture = try Fixture()
        try fixture.write(Self.layer)
        let wanted = [150, 20, 190, 21]
        try fixture.withEngine { engine in
            _ = try fixture.index(engine)
            for number in wanted {
                let content = try engine.content(SHA256.hash(Self.files[number]))
                engine.store.uses.note(try #require(try engine.store.index.inode(named: "f\(number)")), content.id)
            }
            try engine.store.recordUses()
        }
        // The next version: the same paths in another layer, some of them with other bytes.
        var next = ForgedLayer()
        let files = (0..<Self.count).map { noise(40_000, seed: UInt64($0 + ($0 % 2 == 0 ? 10_000 : 0))) }
        for (number, bytes) in files.enumerated() { next.file("f\(number)", bytes, chunkSize: 1 << 20) }
        next.finish()
        try fixture.write(next, tag: "b")
        try fixture.withEngine(store: fixture.openStore("other")) { _ in }
        try fixture.withEngine { engine in
            let source = fixture.control(engine)
            let image = try fixture.index(engine, "b")
            source.reset()
            try engine.merge(image)
            #expect(try files.allSatisfy { try engine.content(SHA256.hash($0)).state == .merged })
            // By the order in which the blob was read.
            let places = try wanted.map { number in
                try #require(
                    try engine.store.index.chunks(of: engine.content(SHA256.hash(files[number])), preferring: nil).first
                )
                .source.blobOffset
            }
            let first = source.reads.prefix(3)
            #expect(places.allSatisfy { place in first.contains { $0.range.contains(place) } }, "\(first.map(\.range))")
            #expect(first.reduce(0) { $0 + $1.range.count } < 5 * 41_000)
        }
    }
}

extension Index {
    fileprivate func inode(named name: String) throws -> Int64? {
        let reader = try IndexReader(self)
        let layers = try images().flatMap(\.views)
        for view in layers {
            guard
                let root = try Array(view.description.utf8).withUnsafeBytes({ try reader.lookup(parent: 1, name: $0) }),
                let inode = try Array(name.utf8).withUnsafeBytes({ try reader.lookup(parent: root.id, name: $0) })
            else { continue }
            return inode.id
        }
        return nil
    }
}
