import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaSQLite
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaMerge

/// What an image may take of the index, and of memory while its tables of contents are read.
@Suite("how much of the index an image takes")
struct IndexBudgetTests {
    /// A layer of one kind of entries.
    private static func layer(_ kind: String, _ count: Int, seed: UInt64 = 1) -> ForgedLayer {
        var layer = ForgedLayer()
        let offset = layer.member(noise(600, seed: seed))
        func digest(_ number: Int) -> Digest { SHA256.hash(Array("\(kind) \(seed) \(number)".utf8)) }
        switch kind {
        case "files":
            for number in 0..<count {
                layer.entry(
                    #""name":"usr/share/\#(seed)-\#(number)","type":"reg","size":600,"offset":\#(offset),"digest":"\#(digest(number))""#
                )
            }
        case "directories": for number in 0..<count { layer.directory("usr/share/\(seed)-\(number)") }
        case "deep":
            // Each name is a hundred directories that nothing else lists.
            for number in 0..<count / 100 {
                let path = [String](repeating: "d", count: 99).joined(separator: "/")
                layer.entry(#""name":"\#(seed)-\#(number)/\#(path)/f","type":"fifo""#)
            }
        case "targets", "long targets":
            for number in 0..<count {
                // Of the long ones one fits into a page.
                let target = String(repeating: "t", count: kind == "targets" ? 1000 : 2030)
                layer.entry(#""name":"\#(seed)-\#(number)","type":"symlink","linkName":"\#(target)""#)
            }
        case "attributes", "long attributes":
            for number in 0..<count {
                // Each of the long ones has a page of its own.
                let value = String(repeating: "QUJD", count: kind == "attributes" ? 300 : 340)
                layer.entry(#""name":"\#(seed)-\#(number)","type":"reg","xattrs":{"user.a":"\#(value)"}"#)
            }
        default:
            let rest = #""chunkSize":1,"offset":\#(offset),"chunkDigest":"#
            layer.entry(
                #""name":"f","type":"reg","size":\#(count),"digest":"\#(digest(-1))",\#(rest)"\#(digest(0))""#)
            for number in 1..<count {
                layer.entry(
                    #""name":"f","type":"chunk","chunkOffset":\#(number),\#(rest)"\#(digest(number))""#)
            }
        }
        layer.finish()
        return layer
    }

    private func indexBytes(_ fixture: Fixture) throws -> Int64 {
        let database = try Connection(path: fixture.directory + "/store/index.db", access: .readOnly)
        return try (database.integer("PRAGMA page_count") ?? 0) * (database.integer("PRAGMA page_size") ?? 0)
    }

    @Test(
        "what is said before is about what it takes, whatever it has many of",
        arguments: [
            "files", "directories", "deep", "targets", "long targets", "attributes", "long attributes", "chunks",
        ])
    func estimates(kind: String) throws {
        let fixture = try Fixture()
        let layer = Self.layer(kind, 6000)
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let before = try indexBytes(fixture)
            let image = try fixture.index(engine)
            let taken = Double(try indexBytes(fixture) - before)
            let counted = Double(try engine.store.index.bytes(of: image.layers[0]).bytes)
            print("\(kind): \(Int(taken)) bytes of index, \(Int(counted)) counted")
            #expect(counted >= taken * 0.9 && counted <= taken * 1.7, "\(kind): \(counted / taken) of what it takes")
        }
    }

    @Test(
        "layers that are too much together are refused with the limit's name, also when the pull comes again",
        arguments: ["files", "deep", "targets", "chunks"])
    func refused(kind: String) throws {
        let fixture = try Fixture()
        let layers = (0..<6).map { Self.layer(kind, 2000, seed: UInt64($0) + 1) }
        try writeImage(layers.map { ImageLayer($0) }, tag: "a", layout: fixture.layout)
        let store = try fixture.openStore()
        let one = try fixture.withEngine(store: store) { engine in
            try fixture.write(layers[0], tag: "one")
            let image = try fixture.index(engine, "one")
            return try engine.store.index.bytes(of: image.layers[0]).bytes
        }
        var options = MergeEngine.Options()
        // Room for three and a half of them.
        options.imageEntries = Int(one * 7 / 2 / IndexBytes.entry)
        do {
            let engine = try MergeEngine(store: store, options: options)
            defer { engine.stop() }
            for attempt in 0..<4 {
                let error = try #require(#expect(throws: MergeError.self) { try fixture.index(engine) })
                #expect(error.code == .badImage && error.description.contains("max_image_entries"), "\(error)")
                let known = try layers.filter { try store.layer($0.digest) != nil }.count
                #expect(known == 3, "attempt \(attempt): \(known) layers")
            }
        }
        // One that the index has as a whole is not refused, whatever the limit.
        options.imageEntries = 1
        let narrow = try MergeEngine(store: store, options: options)
        defer { narrow.stop() }
        #expect(try fixture.index(narrow, "one").layers.count == 1)
    }

    @Test("a layer that takes too much memory is refused while it is read, not after")
    func memory() throws {
        var limits = FormatLimits()
        limits.entries = 210_000
        // Of each entry the names of 250 bytes take most.
        var layer = ForgedLayer()
        for number in 0..<200_000 {
            layer.entry(#""name":"\#(number)\#(String(repeating: "n", count: 245))","type":"fifo""#)
        }
        layer.finish()
        let fixture = try Fixture()
        try fixture.write(layer)
        var options = MergeEngine.Options()
        options.formatLimits = limits
        let engine = try MergeEngine(store: try fixture.openStore(), options: options)
        defer { engine.stop() }
        let error = try #require(#expect(throws: MergeError.self) { try fixture.index(engine) })
        #expect("\(error)".contains("too much memory"), "\(error)")
    }

    @Test("trees that are made at once have a sum, and everybody comes to their turn")
    func trees() throws {
        var limits = FormatLimits()
        limits.entries = 250_000
        let memory = TOCMemory(limits)
        var shares: [TOCMemory.Share] = []
        for _ in 0..<2 { shares.append(try memory.takeTree(limits.treeBytes / 2, { false })) }
        #expect(throws: MergeError.self) { try memory.takeTree(1, { true }) }
        shares.removeLast()
        shares.append(try memory.takeTree(limits.treeBytes / 2, { true }))
        shares = []
        // More than there is: alone.
        shares.append(try memory.takeTree(.max, { true }))
        #expect(throws: MergeError.self) { try memory.takeTree(1, { true }) }
    }

    @Test("JSON of several is in memory together only while it is little, and a large one waits for no crowd for ever")
    func alone() throws {
        let memory = TOCMemory(FormatLimits())
        var small = [try memory.take(bytes: 40 << 20, { true }), try memory.take(bytes: 20 << 20, { true })]
        #expect(throws: MergeError.self) { try memory.take(bytes: 20 << 20, { true }) }
        #expect(throws: MergeError.self) { try memory.take(bytes: 200 << 20, { true }) }
        // What was not needed is there for others.
        small[0].shrink(to: 1 << 20)
        small.append(try memory.take(bytes: 20 << 20, { true }))
        small = []
        let large = try memory.take(bytes: 200 << 20, { true })
        #expect(throws: MergeError.self) { try memory.take(bytes: 1, { true }) }
        large.shrink(to: 0)
        let held = try memory.take(bytes: 1, { true })
        let isStopping = Monitor(false)
        let thread = try Thread("large") {
            _ = try? memory.take(bytes: 200 << 20, { isStopping.withLock { $0 } })
        }
        // While a large one waits, no small one comes in front of it.
        let isBehind = eventually(seconds: 10) { (try? memory.take(bytes: 1, { true })) == nil }
        #expect(isBehind)
        isStopping.withLock { $0 = true }
        thread.join()
        withExtendedLifetime(held) {}
        _ = try memory.take(bytes: 1, { true })
    }

    @Test("a layer that has to be read as a stream waits for no memory that it has itself")
    func fallback() throws {
        var limits = FormatLimits()
        limits.chunkBytes = 1000
        let file = noise(5000, seed: 3)
        var tar: [UInt8] = []
        try TarWriter.append(
            TarHeader(kind: .regular, name: Array("file".utf8), mode: 0o644, size: Int64(file.count)), to: &tar)
        tar += file + [UInt8](repeating: 0, count: Tar.padding(Int64(file.count)))
        var layer = ForgedLayer()
        let offset = layer.member(tar)
        layer.entry(
            #""name":"file","type":"reg","size":5000,"mode":420,"digest":"\#(SHA256.hash(file))","offset":\#(offset),"innerOffset":512"#
        )
        // Of so much JSON a tree takes all the memory that there is for trees.
        layer.entry(#""name":"directory/","type":"dir"\#(String(repeating: " ", count: 1_200_000))"#)
        layer.finish()
        var hash = SHA256()
        try layer.blob.withUnsafeBytes { try StreamDecompressor(.gzip).push($0) { hash.update($0) } }
        let fixture = try Fixture()
        try writeImage(
            [ImageLayer(blob: layer.blob, tocDigest: layer.tocDigest, diffID: hash.digest())], tag: "a",
            layout: fixture.layout)
        var options = MergeEngine.Options()
        options.formatLimits = limits
        let engine = try MergeEngine(store: try fixture.openStore(), options: options)
        defer { engine.stop() }
        let end = ContinuousClock().now + .seconds(60)
        let image = try ImagePull(engine, shouldStop: { ContinuousClock().now > end }, report: { _ in })
            .index(try ImageReference(parsing: "oci:\(fixture.layout):a"), platform: nil, plainHTTP: true)
        #expect(try engine.store.index.ledger(of: image.layers[0]).format == Int(LayerFormat.stargz.rawValue))
    }

    @Test("layers that are put into the index at once are counted together")
    func together() throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            // Room for three and a half.
            let budget = EntryBudget(limit: 35)
            let refused = Monitor(0)
            let threads = try (0..<12).map { number in
                try Thread("take") {
                    do {
                        try budget.take(
                            IndexBytes(bytes: 10 * IndexBytes.entry), of: SHA256.hash([UInt8(number)]),
                            engine.store.index)
                    } catch {
                        refused.withLock { $0 += 1 }
                    }
                }
            }
            for thread in threads { thread.join() }
            #expect(refused.withLock { $0 } == 9)
        }
    }

    @Test("a layer of another repository is copied only where there is room for it")
    func copies() throws {
        let fixture = try Fixture()
        let layers = (0..<3).map { Self.layer("files", 500, seed: UInt64($0) + 1) }
        let other = fixture.directory + "/other"
        try writeImage(layers.map { ImageLayer($0) }, tag: "a", layout: other)
        for (number, layer) in layers.enumerated() {
            try writeImage([ImageLayer(layer)], tag: "a", layout: fixture.directory + "/\(number)")
        }
        let store = try fixture.openStore()
        func index(_ layout: String, _ engine: MergeEngine) throws -> ImageRecord {
            try ImagePull(engine, shouldStop: { false }, report: { _ in })
                .index(try ImageReference(parsing: "oci:\(layout):a"), platform: nil, plainHTTP: true)
        }
        let one = try fixture.withEngine(store: store) { engine in
            let images = try (0..<3).map { try index(fixture.directory + "/\($0)", engine) }
            // Only what was told is copied.
            for image in images { try store.recordDiffID(.proven, computed: nil, of: image.layers[0]) }
            return try store.index.bytes(of: images[0].layers[0]).bytes
        }
        var options = MergeEngine.Options()
        options.imageEntries = Int(one * 5 / 2 / IndexBytes.entry)
        let engine = try MergeEngine(store: store, options: options)
        defer { engine.stop() }
        let error = try #require(#expect(throws: MergeError.self) { try index(other, engine) })
        #expect(error.description.contains("max_image_entries"), "\(error)")
    }
}
