import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSchema
import LaminaSystem
import LaminaTestSupport
import Testing

// What has landed since the last syncfs.
@testable import LaminaStore

@Suite("Durability")
struct DurabilityTests {
    let scratch = Scratch()
    let files = [
        FileBytes(pattern(5000)), FileBytes(pattern(6000, seed: 1)),
        FileBytes(chunks: [pattern(4096, seed: 2), pattern(4096, seed: 3), pattern(100, seed: 4)]),
        FileBytes(chunks: [pattern(4096, seed: 5), pattern(4096, seed: 6)]),
    ]

    private func importFiles(_ store: Store) throws -> [ContentRecord] {
        try store.importLayer("a", files.enumerated().map { Entry("\($0.offset)", .file($0.element)) })
        return try files.map { try store.index.content($0, in: scratch) }
    }

    private func landed(_ store: Store, _ content: ContentRecord) throws -> [Bool] {
        try store.index.chunks(of: try #require(try store.index.content(content.id)), preferring: nil).map(\.hasLanded)
    }

    @Test("makeDurable marks what has landed, once")
    func marks() throws {
        let store = try scratch.open()
        let contents = try importFiles(store)
        #expect(try !store.hasVolatileContent())
        #expect(try !store.makeDurable())
        var landing = Landing()
        landing.merged = [(contents[0].id, .proven)]
        landing.chunks = [(contents[2].id, 0)]
        try store.record(landing)
        #expect(try store.hasVolatileContent())
        #expect(try store.makeDurable())
        #expect(try !store.hasVolatileContent())
        #expect(try !store.makeDurable())
        #expect(try durable() == [contents[0].name.digest, contents[2].name.digest])
    }

    @Test("after a write was lost nothing becomes durable before all that may have lost it was looked at")
    func lostWrites() throws {
        let store = try scratch.open()
        let contents = try importFiles(store)
        var landing = Landing()
        for (number, content) in contents.prefix(2).enumerated() {
            try scratch.write(files[number].bytes, to: content, in: store)
            landing.merged.append((content.id, .proven))
        }
        try store.record(landing)
        let paths = contents.map { "\(store.root)/content/\($0.name.path)" }
        // One lost its bytes; another cannot be looked at now, which says nothing of it.
        try File(paths[0], O_RDWR).truncate(to: 10)
        #expect(rename(paths[1], paths[1] + ".away") == 0 && symlink(paths[1], paths[1]) == 0)
        store.writer.withLock { $0.hasLostWrites = true }
        let before = try store.durableSync()
        for _ in 0..<3 { #expect(throws: (any Error).self) { try store.makeDurable() } }
        #expect(try store.durableSync() == before)
        #expect(try durable() == [])
        #expect(unlink(paths[1]) == 0 && rename(paths[1] + ".away", paths[1]) == 0)
        #expect(try store.makeDurable())
        #expect(try durable() == [contents[1].name.digest])
        #expect(try store.index.content(contents[0].id)?.state != .merged)
    }

    /// What a person sees.
    private func durable(_ other: Scratch? = nil) throws -> Set<Digest> {
        let database = try Connection(path: (other ?? scratch).index, access: .readOnly)
        return try Set(
            database.prepare("SELECT digest FROM content_status WHERE durable = 'yes'")
                .map { try #require(Digest(parsing: $0.text(0))) })
    }

    @Test("an index that marked each content is understood: the marked are durable, the others wait for a syncfs")
    func olderIndex() throws {
        do {
            let database = try Connection(path: scratch.index, access: .readWrite)
            try Migrator(applicationID: Schema.applicationID, migrations: Array(Schema.migrations.prefix(6)))
                .migrate(database)
            for (name, state, durable) in [("a", 2, 1), ("b", 2, 0), ("c", 1, 0), ("d", 0, 0)] {
                try database.execute(
                    """
                    INSERT INTO content (digest, size, state, proof, durable)
                    VALUES (x'\(digest(name).hex)', 1, \(state), 1, \(durable))
                    """)
            }
            try database.execute("UPDATE store SET boot = '\(Store.bootID())'")
        }
        let store = try scratch.open()
        #expect(store.openReport.rechecked == 0)
        #expect(try durable() == [digest("a")])
        #expect(try store.hasVolatileContent())
        #expect(try store.makeDurable())
        #expect(try durable() == [digest("a"), digest("b"), digest("c")])
    }

    @Test("what a process landed that was killed is durable after the next one's syncfs, not before")
    func afterKill() throws {
        var store: Store? = try scratch.open()
        let contents = try importFiles(try #require(store))
        var landing = Landing()
        landing.merged = [(contents[0].id, .proven)]
        try store?.record(landing)
        try store?.makeDurable()
        landing.merged = [(contents[1].id, .proven)]
        try store?.record(landing)
        store = nil
        let again = try scratch.open()
        #expect(try again.hasVolatileContent())
        #expect(try durable() == [contents[0].name.digest])
        #expect(try again.makeDurable())
        #expect(try durable() == [contents[0].name.digest, contents[1].name.digest])
        #expect(try !again.hasVolatileContent())
    }

    @Test("a content that goes on landing is not durable until the next time")
    func goesOn() throws {
        let store = try scratch.open()
        let contents = try importFiles(store)
        var landing = Landing()
        landing.chunks = [(contents[2].id, 0)]
        try store.record(landing)
        try store.makeDurable()
        landing.chunks = [(contents[2].id, 4096)]
        try store.record(landing)
        #expect(try store.hasVolatileContent())
        #expect(try store.makeDurable())
        landing.chunks = []
        landing.merged = [(contents[2].id, .claimed)]
        try store.record(landing)
        #expect(try store.hasVolatileContent())
    }

    @Test("what lands while the disk is waited for is not marked by that wait")
    func landsMeanwhile() throws {
        // On a disk, and with something to write, so that the wait is longer than what happens meanwhile.
        let scratch = Scratch()
        let store = try scratch.open()
        try store.importLayer("a", files.enumerated().map { Entry("\($0.offset)", .file($0.element)) })
        let contents = try files.map { try store.index.content($0, in: scratch) }
        let dirty = try File(scratch.root + "/dirty", O_RDWR | O_CREAT)
        let megabyte = [UInt8](repeating: 1, count: 1 << 20)
        for offset in 0..<32 as Range<Int64> { try megabyte.withUnsafeBytes { try dirty.write($0, at: offset << 20) } }
        func land(_ content: ContentRecord) throws {
            var landing = Landing()
            landing.merged = [(content.id, .claimed)]
            try store.record(landing)
        }
        try land(contents[0])
        let thread = try Thread("sync") { _ = try? store.makeDurable() }
        // If it does not mark it, it counts again from where the wait begins.
        let first = store.writer.withLock { $0.nextSync }
        while store.writer.withLock({ $0.nextSync == first }) { usleep(100) }
        try land(contents[1])
        thread.join()
        #expect(try durable(scratch) == [contents[0].name.digest])
        #expect(try store.makeDurable())
        #expect(try durable(scratch) == [contents[0].name.digest, contents[1].name.digest])
    }

    @Test(
        "after a restart of the machine what was not durable is hashed, what is right stays and what is wrong is absent"
    )
    func reboot() throws {
        var store: Store? = try scratch.open()
        let contents = try importFiles(try #require(store))
        if let store {
            try scratch.write(files[0].bytes, to: contents[0], in: store)
            try scratch.write(pattern(6000, seed: 99), to: contents[1], in: store)
            try scratch.write(files[2].chunks[0], to: contents[2], in: store)
            try scratch.write(pattern(4096, seed: 99), to: contents[2], at: 4096, in: store)
            try scratch.write(files[2].chunks[2], to: contents[2], at: 8192, in: store)
            var landing = Landing()
            landing.merged = [(contents[0].id, .proven), (contents[1].id, .proven), (contents[2].id, .proven)]
            // The index says that it has landed, but its file does not even exist.
            landing.chunks = [(contents[3].id, 4096)]
            try store.record(landing)
        }
        store = nil
        try scratch.sqlite("UPDATE store SET boot = 'another'")
        let again = try scratch.open()
        #expect(again.openReport.rechecked == 4)
        #expect(again.openReport.lost == 3)
        let states = try contents.map { try again.index.content($0.id)?.state }
        #expect(states == [.merged, .absent, .partial, .absent])
        #expect(try again.index.content(contents[2].id)?.proof == .claimed)
        #expect(try landed(again, contents[2]) == [true, false, true])
        #expect(try landed(again, contents[3]) == [false, false])
        #expect(try again.hasVolatileContent(), "what was found right is on disk only after the next syncfs")
        #expect(try again.makeDurable())
        #expect(try durable() == [contents[0].name.digest, contents[2].name.digest])
    }

    @Test("after a restart the check is done once, and an interrupted one is done again")
    func once() throws {
        var store: Store? = try scratch.open()
        let contents = try importFiles(try #require(store))
        if let store {
            try scratch.write(files[0].bytes, to: contents[0], in: store)
            var landing = Landing()
            landing.merged = [(contents[0].id, .proven)]
            try store.record(landing)
        }
        store = nil
        try scratch.sqlite("UPDATE store SET boot = 'another'")
        store = try scratch.open()
        #expect(store?.openReport.rechecked == 1)
        #expect(store?.openReport.lost == 0)
        store = nil
        store = try scratch.open()
        #expect(store?.openReport.rechecked == 0)
    }

    @Test("what was durable is not hashed again")
    func durableIsTrusted() throws {
        var store: Store? = try scratch.open()
        let contents = try importFiles(try #require(store))
        if let store {
            try scratch.write(files[0].bytes, to: contents[0], in: store)
            var landing = Landing()
            landing.merged = [(contents[0].id, .proven)]
            try store.record(landing)
            try store.makeDurable()
        }
        store = nil
        try scratch.sqlite("UPDATE store SET boot = 'another'")
        #expect(try scratch.open().openReport.rechecked == 0)
    }

    @Test("a file that was cut short, or is a directory, is a loss and not a failure to open")
    func strangeFiles() throws {
        var store: Store? = try scratch.open()
        let contents = try importFiles(try #require(store))
        if let store {
            try scratch.write(files[0].bytes, to: contents[0], in: store)
            try store.files.make(contents[0].name, size: 4999).truncate(to: 4999)
            mkdir(scratch.root + "/content/" + contents[1].name.path, 0o755)
            var landing = Landing()
            landing.merged = [(contents[0].id, .proven), (contents[1].id, .proven)]
            try store.record(landing)
        }
        store = nil
        try scratch.sqlite("UPDATE store SET boot = 'another'")
        #expect(try scratch.open().openReport.lost == 2)
    }
}
