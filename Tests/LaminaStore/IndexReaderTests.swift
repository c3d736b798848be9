import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Reading the index")
struct IndexReaderTests {
    let scratch = Scratch.inMemory()

    /// A store whose one layer has a directory with these names.
    private func store(names: [[UInt8]]) throws -> (store: Store, directory: Int64) {
        let store = try scratch.open()
        var directory: Int64 = 0
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        _ = try store.importLayer(record, inodeCount: 1 + names.count) { importer in
            var inode = Inode(
                id: 0, mode: 0o40755, uid: 0, gid: 0, size: 0, mtime: 0, mtimeNanoseconds: 0, device: 0, nlink: 2,
                content: nil)
            directory = try importer.addInode(inode, target: nil)
            inode.mode = 0o10644
            for name in names {
                let id = try importer.addInode(inode, target: nil)
                try name.withUnsafeBytes { try importer.addEntry(parent: directory, name: $0, inode: id) }
            }
        }
        return (store, directory)
    }

    @Test("every attribute comes back as it was given, to the ends of its range")
    func attributes() throws {
        let store = try scratch.open()
        let given = Inode(
            id: 0, mode: 0o106755, uid: .max, gid: .max - 1, size: .max, mtime: -2_000_000_000,
            mtimeNanoseconds: 999_999_999, device: .max, nlink: .max, content: ContentID(7))
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        var id: Int64 = 0
        _ = try store.importLayer(record, inodeCount: 1) { id = try $0.addInode(given, target: nil) }
        let found = try #require(try IndexReader(store.index).inode(id))
        #expect(found.id == id)
        #expect(found.mode == given.mode)
        #expect(found.uid == given.uid && found.gid == given.gid)
        #expect(found.size == given.size)
        #expect(found.mtime == given.mtime && found.mtimeNanoseconds == given.mtimeNanoseconds)
        #expect(found.device == given.device && found.nlink == given.nlink)
        #expect(found.content == given.content)
    }

    static let names: [[UInt8]] = [
        Array("a".utf8), Array("größe".utf8), [0xff, 0xfe], [0xc3], [0x01], Array("a b'\"\n".utf8),
        Array(repeating: UInt8(ascii: "n"), count: 255), Array(repeating: 0xe9, count: 255),
    ]

    @Test("names are bytes: of 255 bytes, and of no encoding")
    func names() throws {
        let (store, directory) = try store(names: Self.names)
        let reader = try IndexReader(store.index)
        for (index, name) in Self.names.enumerated() {
            let found = try name.withUnsafeBytes { try reader.lookup(parent: directory, name: $0) }
            #expect(found?.id == directory + 1 + Int64(index))
        }
        for missing in [[], [0xff], [0xff, 0xfe, 0], Array("A".utf8), Array(repeating: UInt8(ascii: "n"), count: 254)]
            as [[UInt8]]
        {
            #expect(try missing.withUnsafeBytes { try reader.lookup(parent: directory, name: $0) } == nil)
        }
        #expect(try reader.lookup(directory + 1, "a") == nil, "another parent")
        #expect(try reader.inode(1 << 40) == nil)
        var listed: [[UInt8]] = []
        try reader.entries(of: directory, from: 0) { _, name in
            listed.append(Array(name))
            return true
        }
        #expect(listed == Self.names.sorted { $0.lexicographicallyPrecedes($1) })
    }

    @Test("symlink targets and extended attributes are bytes, empty ones too")
    func targetsAndAttributes() throws {
        let store = try scratch.open()
        let layer = try store.importLayer(
            "a",
            [
                Entry(
                    "link", .symlink("../tärget"),
                    xattrs: [("user.b", "2"), ("user.a", ""), ("security.capability", "\u{1}\u{0}x")]),
                Entry("fifo", .fifo),
            ])
        let reader = try IndexReader(store.index)
        let view = try #require(try store.views(of: [layer]).first)
        let link = try #require(try reader.walk(view, "link"))
        let fifo = try #require(try reader.walk(view, "fifo"))
        var target = ""
        #expect(try reader.target(link.id) { target = String(decoding: $0, as: UTF8.self) })
        #expect(target == "../tärget")
        #expect(try !reader.target(fifo.id) { _ in Issue.record("a FIFO has no target") })
        #expect(try reader.xattrs(of: link.id) == ["user.a": "", "user.b": "2", "security.capability": "\u{1}\u{0}x"])
        #expect(try reader.xattrs(of: fifo.id) == [:])
        #expect(try !Array("user.c".utf8).withUnsafeBytes { try reader.xattr(link.id, name: $0) { _ in } })
    }

    @Test(
        "a directory of 5,000 entries is read in pages of any size, each entry once",
        arguments: [1, 7, 100, 4999, 5000, 9999])
    func pages(size: Int) throws {
        let names = (0..<5000).map { Array("entry \($0 * 7919 % 5000)".utf8) }
        let (store, directory) = try store(names: names)
        let reader = try IndexReader(store.index)
        var seen: [[UInt8]] = []
        var calls = 0
        while true {
            var page = 0
            try reader.entries(of: directory, from: Int64(seen.count)) { inode, name in
                guard page < size else { return false }
                if names[Int(inode.id - directory) - 1] != Array(name) {
                    Issue.record("\(inode.id) is not \(Array(name))")
                }
                seen.append(Array(name))
                page += 1
                return true
            }
            calls += 1
            if page == 0 { break }
        }
        #expect(calls == (5000 + size - 1) / size + 1)
        #expect(seen == names.sorted { $0.lexicographicallyPrecedes($1) })
    }

    @Test("a reader may seek anywhere, and two may read one directory at the same time")
    func seeks() throws {
        let (store, directory) = try store(names: (0..<500).map { Array("\(1000 + $0)".utf8) })
        let reader = try IndexReader(store.index)
        func read(from offset: Int64, _ count: Int) throws -> [String] {
            var names: [String] = []
            try reader.entries(of: directory, from: offset) { _, name in
                guard names.count < count else { return false }
                names.append(String(decoding: name, as: UTF8.self))
                return true
            }
            return names
        }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<300 {
            let offset = Int64.random(in: 0...510, using: &random)
            let count = Int.random(in: 0...20, using: &random)
            let expected = (Int(offset)..<max(Int(offset), min(500, Int(offset) + count))).map { "\(1000 + $0)" }
            #expect(try read(from: offset, count) == expected)
        }
        var positions: [Int64] = [0, 0]
        for _ in 0..<100 {
            for each in 0..<2 {
                let names = try read(from: positions[each], 5)
                #expect(names == (0..<5).map { "\(1000 + Int(positions[each]) + $0)" })
                positions[each] += 5
            }
        }
    }

    @Test("many directories left in the middle cost nothing but a count when they are gone on with")
    func manyCursors() throws {
        let store = try scratch.open()
        let layer = try store.importLayer(
            "a", (0..<300).flatMap { d in [Entry("\(d)", .directory)] + (0..<4).map { Entry("\(d)/\($0)", .fifo) } })
        let reader = try IndexReader(store.index)
        let view = try #require(try store.views(of: [layer]).first)
        let directories = try (0..<300).map { try #require(try reader.walk(view, "\($0)")).id }
        for round in 0..<4 {
            for directory in directories {
                var names: [String] = []
                try reader.entries(of: directory, from: Int64(round)) { _, name in
                    guard names.isEmpty else { return false }
                    names.append(String(decoding: name, as: UTF8.self))
                    return true
                }
                #expect(names == ["\(round)"])
            }
        }
    }

    @Test("a reader sees what was committed before it asks")
    func renewal() throws {
        let store = try scratch.open()
        let reader = try IndexReader(store.index)
        for number in 1...20 {
            let layer = try store.importLayer("\(number)", [Entry("x", .fifo)])
            let view = try #require(try store.views(of: [layer]).first)
            #expect(try reader.walk(view, "x") != nil)
            #expect(try reader.names(of: 1).count == number)
        }
    }

    @Test(
        "readers and a writer on threads of their own: every answer is of some commit, and a later one never of an earlier"
    )
    func threads() throws {
        let store = try scratch.open()
        let failures = Monitor(0)
        let done = Monitor(false)
        let threads = try (0..<3).map { _ in
            try Thread("reader") {
                guard let reader = try? IndexReader(store.index) else { return failures.withLock { $0 += 1 } }
                var before = 0
                while !done.withLock({ $0 }) {
                    let count = (try? reader.names(of: 1).count) ?? -1
                    if count < before { failures.withLock { $0 += 1 } }
                    before = count
                }
            }
        }
        for number in 1...40 {
            let layer = try store.importLayer("\(number)", [Entry("x", .fifo)])
            _ = try store.views(of: [layer])
        }
        done.withLock { $0 = true }
        threads.forEach { $0.join() }
        #expect(failures.withLock { $0 } == 0)
    }

    @Test("with idle readers the log is cut, whether they have seen the last commit or not, and nobody waits")
    func tidy() throws {
        let store = try scratch.open()
        let stale = try IndexReader(store.index)
        let current = try IndexReader(store.index)
        #expect(try stale.inode(1) != nil)
        // Read before the commits, so that SQLite may not restart the log by itself.
        let value = String(repeating: "x", count: 60_000)
        for number in 0..<10 {
            try store.importLayer(
                "\(number)", (0..<35).map { Entry("\($0)", .fifo, xattrs: [("user.large", value + "\(number) \($0)")]) }
            )
        }
        #expect(try current.inode(1) != nil)
        let log = scratch.index + "-wal"
        #expect(try File(log, O_RDONLY).size() > 16 << 20)
        let start = clock()
        try store.tidy([stale, current])
        #expect(try File(log, O_RDONLY).size() == 0)
        #expect(clock() - start < 3 * CLOCKS_PER_SEC)
        #expect(try stale.inode(1) != nil)
        #expect(try current.inode(1) != nil)
        #expect(try store.index.layerStatus().count == 10)
    }

    @Test("a reader that is in the middle of something is not waited for")
    func tidyWhileReading() throws {
        let store = try scratch.open()
        let reader = try IndexReader(store.index)
        let value = String(repeating: "x", count: 60_000)
        try store.importLayer(
            "a", (0..<300).map { Entry("\($0)", .fifo, xattrs: [("user.large", value + "\($0)")]) })
        #expect(try reader.inode(1) != nil)
        var start = timespec()
        clock_gettime(CLOCK_MONOTONIC, &start)
        // Not given to `tidy`, so that its transaction stays open.
        try store.tidy([])
        var end = timespec()
        clock_gettime(CLOCK_MONOTONIC, &end)
        #expect(end.tv_sec - start.tv_sec < 5, "SQLite's own wait would be 10 s")
        try store.importLayer("b", [Entry("x", .fifo)])
        #expect(try reader.inode(1) != nil)
    }
}
