import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("A store with a limit")
struct EvictionTests {
    /// This many files, each in its own member, and together several times what is fetched at once.
    private static let count = 200
    private static let size = 120_000
    private static let files = (0..<count).map { noise(size, seed: UInt64($0)) }
    private static let layer: ForgedLayer = {
        var layer = ForgedLayer()
        for (number, bytes) in files.enumerated() { layer.file("f\(number)", bytes, chunkSize: 1 << 20) }
        layer.finish()
        return layer
    }()
    private static let total = Int64(count) * 122_880

    private func withEngine(_ fixture: Fixture, limit: Int64, _ body: (MergeEngine) throws -> Void) throws {
        var options = MergeEngine.Options()
        let store = try fixture.openStore()
        // The index and the reserve are counted too.
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
            // And the evicted ones come back.
            let gone = try #require(try engine.store.contents().first { $0.state == .absent })
            let answers = Answers()
            engine.whole(gone.id, answers.take())
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(try SHA256.hash(engine.store.bytes(gone)) == gone.name.digest)
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test(
        "what is open or pinned stays; where that is all there is room for, whoever wants more is told, and waits no longer"
    )
    func held() throws {
        let fixture = try Fixture()
        try fixture.write(Self.layer)
        try withEngine(fixture, limit: Self.total / 2) { engine in
            let image = try fixture.index(engine)
            let held = Set(try engine.store.contents().prefix(80).map(\.id))
            engine.setHolders(.init { $0.intersection(held) })
            try engine.merge(image)
            // The others are evicted as soon as there are any.
            #expect(try eventually { try engine.store.contents().contains { $0.state == .absent } })
            #expect(try engine.store.contents().prefix(80).allSatisfy { $0.state == .merged })
            try engine.store.setPinned(true, image.reference)
            let error = #expect(throws: MergeError.self) { try engine.merge(image) }
            #expect(
                error?.code == .write && error?.description.contains("max_bytes") == true,
                "\(String(describing: error))")
            #expect(try engine.store.spaceUsed() <= engine.options.maxBytes! + (4 << 20))
            #expect(
                try engine.store.contents().allSatisfy {
                    try $0.state == .absent || engine.store.bytes($0).count == $0.size
                })
            // Once it is unpinned, there is room again.
            try engine.store.setPinned(false, image.reference)
            let gone = try #require(try engine.store.contents().first { $0.state == .absent })
            let isBack = eventually {
                let answers = Answers()
                engine.whole(gone.id, answers.take())
                return answers.wait() && answers.allSucceededOnce
            }
            #expect(isBack)
        }
    }

    @Test("a source that does not answer costs nothing that is there: room is made for bytes that have come")
    func failing() throws {
        let fixture = try Fixture()
        try fixture.write(Self.layer)
        try withEngine(fixture, limit: Self.total / 2) { engine in
            let image = try fixture.index(engine)
            try engine.merge(image)
            let before = try engine.store.contents()
            #expect(rename(fixture.layout + "/blobs", fixture.layout + "/away") == 0)
            for content in before where content.state == .absent {
                let answers = Answers()
                engine.whole(content.id, answers.take())
                #expect(answers.wait() && answers.error() != nil)
            }
            #expect(try engine.store.contents().map(\.state) == before.map(\.state))
        }
    }

    @Test("blobs that are kept beside the store count, and where nothing can go for one of them that is said soon")
    func spools() throws {
        let fixture = try Fixture()
        try fixture.write(Self.layer)
        let limit = Self.total / 2
        try withEngine(fixture, limit: limit) { engine in
            try engine.merge(try fixture.index(engine))
            // A blob that can never fit costs nothing that is there.
            let before = try engine.store.contents().map(\.state)
            let never = #expect(throws: MergeError.self) {
                try engine.reserveSpool(1, of: engine.options.maxBytes! + 1)
            }
            #expect(never?.description.contains("max_bytes") == true)
            #expect(try engine.store.contents().map(\.state) == before)
            try engine.reserveSpool(limit / 2, of: limit / 2)
            #expect(try engine.store.spaceUsed() + limit / 2 <= engine.options.maxBytes! + (4 << 20))
            let begin = ContinuousClock.now
            let result = Mutex<Result<Void, any Error>?>(nil)
            let asking = try Thread("spool") {
                let outcome = Result { try engine.reserveSpool(limit * 7 / 10, of: limit * 7 / 10) }
                result.withLock { $0 = outcome }
            }
            #expect(eventually(seconds: 20) { result.withLock { $0 != nil } })
            #expect(throws: MergeError.self) { try result.withLock { $0 }?.get() }
            #expect(ContinuousClock.now - begin < .seconds(10))
            // What was kept is gone: there is room again.
            engine.releaseSpool(limit / 2)
            try engine.reserveSpool(limit * 7 / 10, of: limit * 7 / 10)
            engine.releaseSpool(limit * 7 / 10)
            // Only now: the thread must have its answer before the engine ends.
            asking.join()
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
        let files = (0..<Self.count).map { noise(Self.size, seed: UInt64($0 + ($0 % 2 == 0 ? 10_000 : 0))) }
        for (number, bytes) in files.enumerated() { next.file("f\(number)", bytes, chunkSize: 1 << 20) }
        next.finish()
        try fixture.write(next, tag: "b")
        try fixture.withEngine { engine in
            let image = try fixture.index(engine, "b")
            let source = fixture.control(engine)
            try engine.merge(image)
            let totals = try engine.store.index.totals(of: image.id)
            #expect(totals.mergedContents == totals.contents)
            // In the order in which the blob was read.
            let places = try wanted.map { number in
                let content = try #require(
                    try engine.store.index.merged(SHA256.hash(files[number]), size: Int64(Self.size)).first)
                let chunks = try engine.store.index.chunks(of: content, preferring: image.layers[0])
                return try #require(chunks.first).source.blobOffset
            }
            // Two of them are neighbours: one range.
            let first = source.reads.prefix(wanted.count - 1)
            #expect(places.allSatisfy { place in first.contains { $0.range.contains(place) } }, "\(first.map(\.range))")
            #expect(first.reduce(0) { $0 + $1.range.count } < 5 * Self.size)
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
