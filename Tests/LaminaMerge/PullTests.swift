import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("an image that is pulled")
struct PullTests {
    /// A layer by the writer that `lamina convert` uses.
    private static func layer(_ files: [(String, [UInt8])], chunkSize: Int) throws -> ImageLayer {
        var blob: [UInt8] = []
        var options = LayerWriter.Options()
        options.chunkSize = chunkSize
        let writer = try LayerWriter(options: options) { blob += $0 }
        for (name, bytes) in files {
            try writer.append(
                TarHeader(kind: .regular, name: Array(name.utf8), mode: 0o644, size: Int64(bytes.count)))
            try bytes.withUnsafeBytes { try writer.write($0) }
        }
        let result = try writer.finish()
        return ImageLayer(blob: blob, tocDigest: result.tocDigest)
    }

    @Test(
        "has every content merged and right, and no byte fetched twice, with any buffer",
        arguments: [1, 100_000, 1 << 20, 24 << 20])
    func whole(bufferSize: Int) throws {
        let fixture = try Fixture()
        let layers = try (0..<3).map { layer in
            var files = (0..<60).map { ("small\($0)", noise(200 * $0 * (layer + 1), seed: UInt64(layer * 100 + $0))) }
            files.append(("large", noise(300_000 + layer, seed: UInt64(layer + 7000))))
            // The same in all layers.
            files.append(("shared", noise(90_000, seed: 5)))
            return try Self.layer(files, chunkSize: 4096 << layer)
        }
        try writeImage(layers, tag: "a", layout: fixture.layout)
        try fixture.withEngine(bufferSize: bufferSize) { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            let progress = Mutex<[ImagePull.Progress]>([])
            let pull = ImagePull(engine, shouldStop: { false }) { step in progress.withLock { $0.append(step) } }
            try pull.merge(image)
            #expect(try engine.store.isWholeAndRight())
            #expect(source.repeatedByteCount == 0)
            #expect(engine.isIdle)
            let last = try #require(progress.withLock { $0.last })
            #expect(last.stage == .done && last.bytes > 0 && last.landedBytes == last.bytes)
            #expect(try !engine.store.hasVolatileContent())
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test("comes from a registry as well, no byte of a layer twice", arguments: ["estargz", "estargz-64k"])
    func fromRegistry(layout: String) throws {
        let fixture = try Fixture()
        let registry = try RegistryFixture()
        defer { registry.stop() }
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        try registry.push(layout: Fixtures.layout(layout), name: "tree", tag: "1")
        try fixture.withEngine { engine in
            let pull = ImagePull(engine, shouldStop: { false }, report: { _ in })
            let image = try pull.index(
                try ImageReference(parsing: "\(proxy.host)/tree:1"), platform: nil, plainHTTP: true)
            proxy.reset()
            try pull.merge(image)
            #expect(try engine.store.isWholeAndRight())
            for blob in Set(proxy.requests.compactMap(\.blob)) { #expect(proxy.repeatedByteCount(of: blob) == 0) }
            proxy.reset()
            try engine.merge(image)
            #expect(proxy.requests.isEmpty, "what is merged is asked for again")
        }
    }

    @Test("asks for files of middle size that stand side by side as for one range")
    func neighbours() throws {
        let fixture = try Fixture()
        // Each must be looked up before it is fetched: it may be part of what the store has.
        let files = (0..<40).map { ("file\($0)", noise(70_000 + $0 * 1000, seed: UInt64($0))) }
        try writeImage([Self.layer(files, chunkSize: 1 << 20)], tag: "a", layout: fixture.layout)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
            #expect(source.reads.count <= 4, "3.6 MB, and nothing is known of the source at first")
            #expect(source.repeatedByteCount == 0)
        }
    }

    @Test("goes on after a stop midway: only what is missing is fetched, by another process's engine")
    func resumes() throws {
        let fixture = try Fixture()
        let registry = try RegistryFixture()
        defer { registry.stop() }
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        var layer = ForgedLayer()
        let chunk = 16 << 10
        for number in 0..<8 { layer.file("f\(number)", noise(16 * chunk, seed: UInt64(number)), chunkSize: chunk) }
        layer.finish()
        try fixture.write(layer)
        try registry.push(layout: fixture.layout, name: "r", tag: "1")
        let reference = try ImageReference(parsing: "\(proxy.host)/r:1")
        try fixture.withEngine { engine in
            let pull = ImagePull(engine, shouldStop: { false }, report: { _ in })
            let image = try pull.index(reference, platform: nil, plainHTTP: true)
            proxy.faults.bytesPerSecond = 2 << 20
            let landed = Flag()
            #expect(throws: MergeError.self) {
                try ImagePull(engine, shouldStop: { landed.isSet }) {
                    if $0.landedBytes > 0 { landed.set() }
                }.merge(image)
            }
        }
        proxy.faults = Faults()
        proxy.reset()
        let store = try fixture.openStore()
        let missing = 8 * 16 - Int(try store.landedByteCount()) / chunk
        #expect(missing > 0 && missing < 8 * 16, "it was stopped midway")
        try fixture.withEngine(store: store) { engine in
            let image = try #require(try engine.store.index.images(named: reference.description).first)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
            #expect(Int(engine.totalFetchedBytes) == missing * ForgedLayer.memberSize(chunk))
            #expect(Int(proxy.sentByteCount()) == missing * ForgedLayer.memberSize(chunk))
        }
    }

    @Test("leaves nothing behind in memory when it is cancelled, and can be pulled again")
    func cancelled() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        for number in 0..<20 { layer.file("f\(number)", noise(400_000, seed: UInt64(number)), chunkSize: 20_000) }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine(bufferSize: 200_000) { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.allowance = 1 << 20
            let shouldStop = Flag()
            let canceller = try Thread("cancel") {
                _ = source.waits()
                shouldStop.set()
            }
            let error = #expect(throws: MergeError.self) {
                try engine.merge(image) { shouldStop.isSet }
            }
            canceller.join()
            #expect(error?.code == .interrupted)
            source.behaviour.allowance = nil
            #expect(engine.isIdle, "contents of a cancelled pull stay")
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("is not fetched where another image has brought it, and a pull of both at once fetches once")
    func sharedContents() throws {
        let fixture = try Fixture()
        let shared = noise(200_000, seed: 1)
        let small = noise(500, seed: 2)
        for (tag, seed) in [("a", UInt64(10)), ("b", 11), ("c", 12)] {
            var layer = ForgedLayer()
            layer.file("first-\(tag)", noise(300, seed: seed))
            layer.file("shared", shared, chunkSize: 30_000)
            layer.file("small", small)
            layer.finish()
            try fixture.write(layer, tag: tag)
        }
        try fixture.withEngine { engine in
            let (a, b, c) = try (fixture.index(engine, "a"), fixture.index(engine, "b"), fixture.index(engine, "c"))
            let source = fixture.control(engine)
            try engine.merge(a)
            source.reset()
            try engine.merge(b)
            #expect(source.sentByteCount == ForgedLayer.memberSize(300))
            source.reset()
            let other = try Thread("other") { try? engine.merge(c) }
            try engine.merge(c)
            other.join()
            #expect(source.sentByteCount == ForgedLayer.memberSize(300))
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("may have two pulls at once, each of which ends with everything there and nothing fetched twice")
    func together() throws {
        let fixture = try Fixture()
        var layers: [ForgedLayer] = []
        for number in 0..<2 {
            var layer = ForgedLayer()
            layer.file("own", noise(70_000, seed: UInt64(number)), chunkSize: 9000)
            for file in 0..<300 { layer.file("f\(file)", noise(700, seed: 1000 + UInt64(file))) }
            layer.file("big", noise(400_000, seed: 99), chunkSize: 9000)
            layer.finish()
            layers.append(layer)
        }
        try fixture.write(layers[0], tag: "a")
        try fixture.write(layers[1], tag: "b")
        try fixture.withEngine { engine in
            let (a, b) = try (fixture.index(engine, "a"), fixture.index(engine, "b"))
            let source = fixture.control(engine)
            source.behaviour.pace = 0.0005
            let other = try Thread("other") { try? engine.merge(b) }
            try engine.merge(a)
            other.join()
            #expect(try engine.store.isWholeAndRight())
            // Each chunk once, from one layer or the other.
            let all =
                2 * (7 * ForgedLayer.memberSize(9000) + ForgedLayer.memberSize(7000))
                + 300 * ForgedLayer.memberSize(700) + 44 * ForgedLayer.memberSize(9000) + ForgedLayer.memberSize(4000)
            #expect(source.sentByteCount == all)
            #expect(engine.isIdle)
        }
    }

    @Test("of empty files, without files and without layers is merged at once")
    func empty() throws {
        let fixture = try Fixture()
        var files = ForgedLayer()
        files.directory("dir")
        files.file("dir/empty", [])
        files.finish()
        var none = ForgedLayer()
        none.finish()
        try fixture.write(files, none, tag: "a")
        try fixture.write(none, none, tag: "b")
        try writeImage([], tag: "c", layout: fixture.layout)
        try fixture.withEngine { engine in
            for tag in ["a", "b", "c"] { try engine.merge(try fixture.index(engine, tag)) }
            #expect(engine.totalFetchedBytes == 0)
            #expect(try engine.store.contents().isEmpty)
        }
    }

    @Test("may have several chunks and small files in one member")
    func innerOffsets() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let small = (0..<40).map { (name: "s\($0)", bytes: noise(100 + $0, seed: UInt64($0))) }
        layer.packed(small, gap: 13)
        // A file whose chunks share members with each other, and with a separate file.
        let large = noise(9000, seed: 77)
        let parts = [Array(large[..<4000]), Array(large[4000..<7000]), Array(large[7000...])]
        let first = layer.member(parts[0] + parts[1])
        let second = layer.member([1, 2, 3] + parts[2] + [9, 9])
        let places = [(first, 0, 0), (first, 4000, 4000), (second, 3, 7000)]
        for (part, (offset, inner, start)) in zip(parts, places) {
            let place =
                #""offset":\#(offset),"innerOffset":\#(inner),"chunkOffset":\#(start),"chunkSize":\#(part.count),"#
                + #""chunkDigest":"\#(SHA256.hash(part))""#
            layer.entry(
                start == 0
                    ? #""name":"large","type":"reg","size":9000,"digest":"\#(SHA256.hash(large))",\#(place)"#
                    : #""name":"large","type":"chunk",\#(place)"#)
        }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
            #expect(try engine.store.contents().count == 41)
            #expect(source.repeatedByteCount == 0)
        }
    }

    @Test("has every chunk recorded that its contents' states promise, at any moment of the merge")
    func recordOrder() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        for number in 0..<2 { layer.file("f\(number)", noise(1 << 20, seed: UInt64(number)), chunkSize: 50_000) }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.pace = 0.003
            let isDone = Flag()
            let pulling = try Thread("pull") {
                try? engine.merge(image)
                isDone.set()
            }
            defer { pulling.join() }
            var partial = 0
            while !isDone.isSet {
                for content in try engine.store.contents() where content.state != .absent {
                    let chunks = try engine.store.index.chunks(of: content, preferring: nil)
                    if content.state == .partial { partial += 1 }
                    if content.state == .merged { #expect(!chunks.contains { !$0.hasLanded }) }
                    let file = try engine.store.files.open(content.name)
                    for chunk in chunks where chunk.hasLanded {
                        #expect(SHA256.hash(try file.read(Int(chunk.size), at: chunk.offset)) == chunk.digest)
                    }
                }
                usleep(2000)
            }
            #expect(partial > 0, "nothing was seen on its way")
        }
    }
}
