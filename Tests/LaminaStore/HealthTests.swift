import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaStore

@Suite("What may be wrong with a file")
struct HealthTests {
    private let scratch = Scratch.inMemory()

    private func merged(_ scratch: Scratch) throws -> (Store, ContentRecord) {
        let store = try ExampleStore.make(in: scratch)
        let content = try store.index.content(ExampleStore.release, in: scratch)
        try ExampleStore.release.bytes.withUnsafeBytes {
            try store.files.write($0, as: content.name, keepsCached: true)
        }
        var landing = Landing()
        landing.merged = [(content.id, .proven)]
        try store.record(landing)
        return (store, try #require(try store.index.content(content.id)))
    }

    /// Runs `body` while this process can open nothing more.
    private func withoutDescriptors(_ body: () throws -> Void) throws {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        var low = limit
        let free = open("/", O_RDONLY | O_DIRECTORY)
        close(free)
        // The lowest free descriptor number is always used.
        low.rlim_cur = rlim_t(free)
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &low)
        defer { setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) }
        try body()
    }

    @Test("an error of the moment is told and forgets nothing: EMFILE while a content is looked at")
    func moment() throws {
        let (store, content) = try merged(scratch)
        try withoutDescriptors {
            for look in [
                { _ = try store.recheck(content) }, { _ = try store.takeBackDamage(of: content) },
                { _ = try store.examine(content, readsData: true) },
            ] as [() throws -> Void] {
                let error = #expect(throws: SystemError.self) { try look() }
                #expect(error?.code == EMFILE)
            }
        }
        #expect(try store.index.content(content.id)?.state == .merged)
        #expect(try store.recheck(content))
    }

    @Test("what is gone, short or holed is taken back; what is sound is not")
    func damage() throws {
        for (change, health) in [
            ({ _ = unlink($0) }, .absent), ({ _ = truncate($0, 5) }, .short(size: 5)),
            (
                {
                    _ = truncate($0, 0); _ = truncate($0, off_t(ExampleStore.release.bytes.count))
                }, .holed
            ), ({ _ in }, .sound),
        ] as [((String) -> Void, ContentHealth)] {
            let scratch = Scratch.inMemory()
            let (store, content) = try merged(scratch)
            change("\(scratch.root)/content/\(content.name.path)")
            #expect(try store.takeBackDamage(of: content) == health)
            #expect(try store.index.content(content.id)?.state == (health == .sound ? .merged : .absent))
        }
    }

    @Test("what a member held beside files is not kept again once the layer's diff ID was told: nobody would delete it")
    func tarParts() throws {
        let (store, _) = try merged(scratch)
        let layer = LayerID(1)
        var landing = Landing()
        landing.tarParts = [(layer, 0, 10, [1, 2, 3])]
        try store.record(landing)
        #expect(try scratch.integer("SELECT count(*) FROM tar_part") == 1)
        try store.recordProofs(of: layer, areFilesProven: true, diffID: .proven, computed: nil)
        try store.record(landing)
        #expect(try scratch.integer("SELECT count(*) FROM tar_part") == 0)
    }
}

@Suite("Leases of names")
struct LeaseTests {
    private let scratch = Scratch.inMemory()
    private let name = BackingName(digest: digest("x"), claim: nil)

    private func isThere(_ store: Store) -> Bool { store.files.exists(name) }

    @Test("what somebody writes is not removed, whatever is marked; given up it goes, recorded it stays")
    func writing() throws {
        let store = try scratch.open()
        do {
            var lease = store.files.lease(writing: name)
            _ = try lease.create(name, size: 10)
            #expect(try store.removeUnknownFiles(dryRun: false).files == 0 && isThere(store))
            try store.settleGivenUp()
            #expect(isThere(store))
            // A second writer of the same bytes.
            let second = store.files.lease(writing: name)
            let coversIt = second.covers(name)
            #expect(coversIt)
            lease.recorded()
        }
        // The second writer had no record, so there is none.
        try store.settleGivenUp()
        #expect(!isThere(store) && store.files.leases.count == 0)
    }

    @Test("who comes for a name that is being removed waits, and a removal waits for nobody")
    func removing() throws {
        let store = try scratch.open()
        let order = Monitor<[String]>([])
        var writer: Thread?
        try store.files.leases.removing([name]) { free in
            #expect(free == [name])
            #expect(store.files.leases.removing([name]) { $0 }.isEmpty)
            writer = try Thread("writer") { [name] in
                let lease = store.files.lease(writing: name)
                order.withLock { $0.append("written") }
                _ = lease.covers(name)
            }
            // It cannot have come so far.
            #expect(order.wait(seconds: 0.05) { $0.isEmpty ? nil : true } == nil)
            order.withLock { $0.append("removed") }
        }
        writer?.join()
        #expect(order.withLock { $0 } == ["removed", "written"])
        try store.files.make(name, size: 3)
        let free = try store.files.reading(name) { _ in store.files.leases.removing([name]) { $0 } }
        #expect(free.isEmpty)
    }
}
