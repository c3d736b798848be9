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

/// Two images of two repositories that list the same files; one of them means harm.
@Suite("what one image may do to another")
struct OriginTests {
    private static let shared = noise(300_000, seed: 40)
    private static let secret = noise(20_000, seed: 41)

    private struct Images {
        var fixture: Fixture
        var own: String { fixture.directory + "/own" }
        var other: String { fixture.directory + "/other" }

        init() throws {
            fixture = try Fixture()
            var first = ForgedLayer()
            first.file("padding", noise(1000, seed: 7))
            first.file("file", shared, chunkSize: 50_000)
            first.file("secret", secret)
            first.finish()
            try writeImage([ImageLayer(first)], tag: "a", layout: other)
            var second = ForgedLayer()
            second.file("file", shared, chunkSize: 50_000)
            second.file("secret", secret)
            second.finish()
            try writeImage([ImageLayer(second)], tag: "a", layout: own)
        }

        func index(_ layout: String, _ engine: MergeEngine) throws -> ImageRecord {
            try ImagePull(engine, shouldStop: { false }, report: { _ in })
                .index(try ImageReference(parsing: "oci:\(layout):a"), platform: nil, plainHTTP: true)
        }

        func control(_ layout: String, _ engine: MergeEngine) -> ControlledSource {
            let source = ControlledSource(OCILayoutSource(directory: layout))
            engine.sources.add(source)
            return source
        }
    }

    enum Harm: CaseIterable { case lies, isGone, stalls }

    @Test(
        "an image reads right within its own source's time, whatever the source of another one that lists its files does",
        arguments: Harm.allCases)
    func otherSource(harm: Harm) throws {
        let images = try Images()
        try images.fixture.withEngine { engine in
            // Indexed first: its places are the first of each digest.
            let other = try images.index(images.other, engine)
            let own = try images.index(images.own, engine)
            let (bad, good) = (images.control(images.other, engine), images.control(images.own, engine))
            switch harm {
            case .lies: bad.behaviour.substitute = noise(1 << 20, seed: 99)
            case .isGone: bad.behaviour.isDown = true
            case .stalls: bad.behaviour.allowance = 0
            }
            let content = try engine.content(SHA256.hash(Self.shared))
            let answers = Answers()
            // Under way already, for the other image.
            engine.whole(content.id, of: other.layers[0], answers.take(0))
            if harm == .stalls {
                #expect(bad.waits())
            } else {
                #expect(answers.wait())
                #expect(engine.isIdle)
            }
            let asked = bad.reads.count
            let took = seconds {
                engine.whole(content.id, of: own.layers[0], answers.take(1))
                #expect(answers.wait(for: harm == .stalls ? 1 : 2, seconds: 5))
            }
            #expect(took < 2, "\(took) s")
            guard case .success? = answers[1].first else {
                Issue.record("\(answers.all)")
                return
            }
            #expect(bad.reads.count == asked, "the other image's source was asked")
            #expect(!good.reads.isEmpty)
            bad.behaviour.allowance = nil
        }
    }

    @Test("an image's request that stalls behind its first byte does not hold the memory that another one's needs")
    func memory() throws {
        let fixture = try Fixture()
        let (large, small) = (noise(2_000_000, seed: 50), noise(40_000, seed: 51))
        let other = noise(1_500_000, seed: 52)
        var first = ForgedLayer()
        first.file("large", large, chunkSize: large.count)
        first.finish()
        try writeImage([ImageLayer(first)], tag: "a", layout: fixture.directory + "/other")
        var second = ForgedLayer()
        second.file("small", small)
        second.file("large", other, chunkSize: other.count)
        second.finish()
        try writeImage([ImageLayer(second)], tag: "a", layout: fixture.directory + "/own")
        let images = try Images()
        // Each of the large chunks takes more than all of it.
        try fixture.withEngine(bufferSize: 1 << 20) { engine in
            let records = try ["other", "own"].map { try images.index("\(fixture.directory)/\($0)", engine) }
            let bad = images.control("\(fixture.directory)/other", engine)
            bad.behaviour.allowance = 1
            let answers = Answers()
            engine.whole(
                try engine.content(SHA256.hash(large)).id, of: records[0].layers[0], answers.take(0))
            #expect(bad.waits())
            #expect(eventually { engine.inFlightBytes >= 4_000_000 })
            let own = records[1].layers[0]
            let took = try seconds {
                engine.whole(try engine.content(SHA256.hash(small)).id, of: own, answers.take(1))
                #expect(answers.wait(for: 1, seconds: 20))
            }
            #expect(took < 2, "\(took) s")
            // What is large waits until the other one has been given up.
            engine.whole(try engine.content(SHA256.hash(other)).id, of: own, answers.take(2))
            #expect(answers.wait(for: 2, seconds: 30))
            #expect(answers[0].isEmpty, "it is asked for again")
            bad.behaviour.allowance = nil
            #expect(answers.wait(for: 3, seconds: 30))
            #expect(answers.allSucceededOnce, "\(answers.all)")
            #expect(engine.isIdle)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("no source is asked for a file that an image of another repository lists")
    func credentials() throws {
        let images = try Images()
        try images.fixture.withEngine { engine in
            let own = try images.index(images.own, engine)
            let other = try images.index(images.other, engine)
            let (thief, owner) = (images.control(images.other, engine), images.control(images.own, engine))
            // It lists the digest, and does not have the bytes.
            thief.behaviour.isDown = true
            let content = try engine.content(SHA256.hash(Self.secret))
            let answers = Answers()
            engine.whole(content.id, of: other.layers[0], answers.take(0))
            #expect(answers.wait())
            #expect(answers.error()?.code == .fetch)
            engine.range(0..<1000, of: content.id, in: other.layers[0], answers.take(1))
            #expect(answers.wait(for: 2))
            #expect(answers.error(1)?.code == .fetch)
            #expect(throws: MergeError.self) { try engine.merge(other) }
            #expect(owner.reads.isEmpty, "fetched from the owner's source for somebody else")
            // What the owner has brought is shared, unless an operator says otherwise.
            try engine.merge(own)
            engine.whole(content.id, of: other.layers[0], answers.take(2))
            #expect(answers.wait(for: 3))
            if case .success? = answers[2].first {} else { Issue.record("\(answers[2])") }
        }
    }

    @Test("a blob that two repositories have is a layer of each, and each asks its own")
    func sameBlob() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        layer.file("file", Self.shared)
        layer.finish()
        for name in ["own", "other"] {
            try writeImage([ImageLayer(layer)], tag: "a", layout: "\(fixture.directory)/\(name)")
        }
        let images = try Images()
        try fixture.withEngine { engine in
            let records = try ["own", "other"].map { try images.index("\(fixture.directory)/\($0)", engine) }
            #expect(records[0].layers != records[1].layers)
            let origins = try records.map { try engine.store.index.origin(of: $0.layers[0]) }
            #expect(origins == ["oci:\(fixture.directory)/own", "oci:\(fixture.directory)/other"])
            let sources = ["own", "other"].map { images.control("\(fixture.directory)/\($0)", engine) }
            try engine.merge(records[1])
            #expect(sources[0].reads.isEmpty && !sources[1].reads.isEmpty)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("of a repository's own layers one is asked where the other's blob is gone")
    func sameRepository() throws {
        let fixture = try Fixture()
        var layers: [ForgedLayer] = []
        for number in 0..<2 {
            var layer = ForgedLayer()
            layer.file("padding\(number)", noise(1000 + 100 * number, seed: UInt64(number)))
            layer.file("file", Self.shared, chunkSize: 50_000)
            layer.finish()
            layers.append(layer)
        }
        try fixture.write(layers[0], tag: "a")
        try fixture.write(layers[1], tag: "b")
        try fixture.withEngine { engine in
            let (a, _) = try (fixture.index(engine, "a"), fixture.index(engine, "b"))
            let blob = try #require(try engine.store.index.blob(of: a.layers[0]))
            #expect(unlink("\(fixture.layout)/blobs/sha256/\(blob.digest.hex)") == 0)
            let content = try engine.content(SHA256.hash(Self.shared))
            let answers = Answers()
            engine.whole(content.id, of: a.layers[0], answers.take())
            #expect(answers.wait())
            if case .success? = answers[0].first {} else { Issue.record("\(answers[0])") }
            #expect(try SHA256.hash(engine.store.bytes(content)) == content.name.digest)
        }
    }

    @Test(
        "isolated, an image gets what its own source has delivered once, and a shared one nothing of an isolated one",
        arguments: [true, false])
    func isolated(isOwner: Bool) throws {
        let images = try Images()
        var options = MergeEngine.Options()
        let path = images.own
        // Both, or one of them.
        options.isolates = { isOwner || $0.hasSuffix(path) }
        let engine = try MergeEngine(store: try images.fixture.openStore(), options: options)
        defer { engine.stop() }
        let own = try images.index(images.own, engine)
        let other = try images.index(images.other, engine)
        let (thief, owner) = (images.control(images.other, engine), images.control(images.own, engine))
        try engine.merge(own)
        #expect(!owner.reads.isEmpty)
        thief.behaviour.isDown = true
        #expect(throws: MergeError.self) { try engine.merge(other) }
        thief.behaviour.isDown = false
        try engine.merge(other)
        #expect(thief.sentByteCount >= Self.shared.count + Self.secret.count)
        #expect(try engine.store.isWholeAndRight())
    }

    @Test(
        "isolated, a plain layer is read once, also when a file comes again, and nothing of it is another repository's")
    func isolatedPlain() throws {
        let fixture = try Fixture()
        let large = noise(900_000, seed: 43)
        let layer = try PlainLayer([("file", Self.shared), ("secret", Self.secret), ("large", large)])
        let descriptor = try fixture.write(layer, .gzip)
        var options = MergeEngine.Options()
        options.isolates = { _ in true }
        let engine = try MergeEngine(store: try fixture.openStore(), options: options)
        defer { engine.stop() }
        func source(_ name: String) -> ControlledSource {
            let source = ControlledSource(OCILayoutSource(directory: fixture.layout), location: "oci:/\(name)")
            engine.sources.add(source)
            return source
        }
        let (own, other) = (source("own"), source("other"))
        let id = try fixture.stream(engine, descriptor, layer.diffID, from: own)
        // Nothing is left to be asked for.
        #expect(try engine.store.index.isWhole(id))
        #expect(try engine.store.isWholeAndRight())
        #expect(own.sentByteCount == Int(descriptor.size))
        for (digest, size) in [(SHA256.hash(Self.secret), Self.secret.count), (SHA256.hash(large), large.count)] {
            #expect(try !engine.store.hasMerged(BackingName(digest: digest, claim: nil), size: Int64(size)))
            let content = try engine.content(digest)
            #expect(content.name == .ofOneChunk(digest, size: Int64(size), isolation: own.location))
            #expect(try engine.evict(content))
            let answers = Answers()
            engine.whole(content.id, of: id, answers.take())
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(try SHA256.hash(engine.store.bytes(content)) == digest)
        }
        // Readers are answered before what they got is on record.
        try engine.recorder.flush()
        let second = try fixture.stream(engine, descriptor, layer.diffID, from: other)
        #expect(second != id && other.sentByteCount == Int(descriptor.size))
        #expect(try engine.store.index.isWhole(second))
        #expect(try engine.store.isWholeAndRight())
    }

    // MARK: Squatting

    private func layer(_ seed: UInt64) -> ForgedLayer {
        var layer = ForgedLayer()
        layer.file("file", noise(450_000, seed: seed))
        layer.finish()
        return layer
    }

    @Test(
        "two tables of contents of one blob stand beside each other until the blob was hashed; then the false one is refused",
        arguments: [true, false], [true, false])
    func squatting(liarIsFirst: Bool, isSameRepository: Bool) throws {
        let fixture = try Fixture()
        let (honest, forged) = (layer(1), layer(2))
        #expect(honest.blob.count == forged.blob.count)
        let store = try fixture.openStore()
        func index(_ toc: Digest, _ bytes: [UInt8], _ location: String, proving: Bool = false) throws -> LayerID {
            try LayerIndexer(
                store: store, source: OneBlob(bytes: bytes, location: location), requiresDiffID: proving,
                shouldStop: { false },
                didFetch: { _ in }
            ).index(
                Descriptor(
                    mediaType: MediaType.ociLayerGzip, digest: honest.digest, size: Int64(honest.blob.count),
                    annotations: ["containerd.io/snapshot/stargz/toc.digest": toc.description]), diffID: nil)
        }
        func right() throws -> LayerID { try index(honest.tocDigest, honest.blob, "oci:/honest") }
        func wrong() throws -> LayerID {
            try index(forged.tocDigest, forged.blob, isSameRepository ? "oci:/honest" : "oci:/liar")
        }
        let (first, second) = liarIsFirst ? (try wrong(), try right()) : (try right(), try wrong())
        #expect(first != second)
        #expect(try (liarIsFirst ? wrong() : right()) == first)
        #expect(try store.index.quarantine().isEmpty)
        // Read as a whole: for an image of a third repository.
        _ = try index(honest.tocDigest, honest.blob, "oci:/third", proving: true)
        let error = #expect(throws: MergeError.self) { try wrong() }
        #expect(error?.code == .badImage)
        #expect(try right() == (liarIsFirst ? second : first))
        #expect(try store.index.quarantine().map(\.layer) == [liarIsFirst ? first : second])
    }

    // MARK: Proofs

    /// A layer by the writer that `lamina convert` uses.
    private func written() throws -> ImageLayer {
        var blob: [UInt8] = []
        var options = LayerWriter.Options()
        options.chunkSize = 64 << 10
        let writer = try LayerWriter(options: options) { blob += $0 }
        try writer.append(TarHeader(kind: .directory, name: Array("etc/".utf8), mode: 0o755, size: 0))
        for number in 0..<200 {
            let bytes = noise(100 * number, seed: UInt64(number))
            try writer.append(
                TarHeader(kind: .regular, name: Array("etc/\(number)".utf8), mode: 0o644, size: Int64(bytes.count)))
            try bytes.withUnsafeBytes { try writer.write($0) }
        }
        let result = try writer.finish()
        return ImageLayer(blob: blob, tocDigest: result.tocDigest, diffID: result.diffID)
    }

    private func settled(
        _ layer: ImageLayer, _ fixture: Fixture, _ body: (MergeEngine, LayerID, LayerLedger) throws -> Void
    ) throws {
        try writeImage([layer], tag: "a", layout: fixture.layout)
        var options = MergeEngine.Options()
        options.provingDelay = 0.01
        let engine = try MergeEngine(store: try fixture.openStore(), options: options)
        defer { engine.stop() }
        engine.setErrorReporter { error in fixture.reports.withLock { $0.append("\(error)") } }
        let image = try fixture.index(engine)
        try engine.merge(image)
        let layer = image.layers[0]
        for _ in 0..<1000 where try engine.store.index.ledger(of: layer).diffIDState == .unknown { usleep(10_000) }
        try body(engine, layer, try engine.store.index.ledger(of: layer))
    }

    @Test("an eStargz layer is proven by its diff ID when all of it is here, and nothing of it was fetched twice")
    func proven() throws {
        let fixture = try Fixture()
        let layer = try written()
        try settled(layer, fixture) { engine, id, ledger in
            #expect(ledger.diffIDState == .proven, "\(fixture.reports.withLock { $0 })")
            #expect(Int(engine.totalFetchedBytes) <= layer.blob.count)
            let (state, places) = try (engine.store.index.chainState(of: id), engine.store.index.tarPartPlaces(of: id))
            #expect(state == .proven && places.isEmpty)
        }
        // Known for ever, also of a layer that comes again after it was collected.
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test("a proof from what is in the store asks nobody, and says nothing where a part of the tar was never fetched")
    func proofFromStore() throws {
        let fixture = try Fixture()
        try writeImage([try written()], tag: "a", layout: fixture.layout)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            try engine.merge(image)
            let layer = image.layers[0]
            let source = fixture.control(engine)
            source.behaviour.isDown = true
            // The headers before the first file are in no member that was fetched.
            #expect(try engine.proveFromStore(layer) == .claimed)
            #expect(source.reads.isEmpty)
            source.behaviour.isDown = false
            #expect(try engine.proveWhole(layer, shouldStop: { false }) == .proven)
            source.reset()
            #expect(try engine.proveFromStore(layer) == .proven)
            #expect(source.reads.isEmpty)
        }
    }

    @Test("a tar that lacks only zeros at its end is a layer's if it has the layer's tree, and says nothing otherwise")
    func unpadded() throws {
        let fixture = try Fixture()
        let store = try fixture.openStore()
        let bytes = noise(10_000, seed: 53)
        var layer = ForgedLayer()
        layer.file("file", bytes)
        layer.finish()
        let indexer = LayerIndexer(
            store: store, source: OneBlob(bytes: layer.blob, location: "oci:/own"), shouldStop: { false },
            didFetch: { _ in })
        let id = try indexer.index(
            Descriptor(
                mediaType: MediaType.ociLayerGzip, digest: layer.digest, size: Int64(layer.blob.count),
                annotations: ["containerd.io/snapshot/stargz/toc.digest": layer.tocDigest.description]), diffID: nil)
        for (name, state) in [("other", DiffIDState.notProvable), ("file", DiffIDState.unpadded)] {
            let witness = TarWitness(FormatLimits())
            let tar = try PlainLayer([(name, bytes)]).tar
            try tar.withUnsafeBytes { try witness.take($0) }
            try indexer.record(.unpadded, SHA256.hash(tar), of: id, witness)
            let ledger = try store.index.ledger(of: id)
            #expect(ledger.diffIDState == state, "\(name)")
            #expect((ledger.computedDiffID == nil) == (state == .notProvable), "\(name)")
            #expect(try store.index.chainState(of: id) == .claimed)
        }
    }

    /// A layer whose tar has a large file that its table of contents does not list.
    private func hiding() throws -> ImageLayer {
        var layer = ForgedLayer()
        let (file, hidden) = (noise(10_000, seed: 51), noise(3 << 20, seed: 52))
        func header(_ name: String, _ bytes: [UInt8]) throws -> [UInt8] {
            var header: [UInt8] = []
            try TarWriter.append(
                TarHeader(kind: .regular, name: Array(name.utf8), mode: 0o644, size: Int64(bytes.count)), to: &header)
            return header
        }
        func padding(_ bytes: [UInt8]) -> [UInt8] {
            [UInt8](repeating: 0, count: Tar.padding(Int64(bytes.count)))
        }
        _ = layer.member(try header("file", file))
        layer.file("file", file)
        _ = layer.member(padding(file) + (try header("hidden", hidden)) + hidden + padding(hidden))
        layer.finish()
        var tar: [UInt8] = []
        let stream = try StreamDecompressor(.gzip)
        try layer.blob.withUnsafeBytes { try stream.push($0) { tar += $0 } }
        return ImageLayer(blob: layer.blob, tocDigest: layer.tocDigest, diffID: SHA256.hash(tar))
    }

    @Test("a layer of which too much is hidden stays a claim, and read as a plain layer it is what its blob holds")
    func hidden() throws {
        let fixture = try Fixture()
        try settled(try hiding(), fixture) { engine, id, ledger in
            #expect(ledger.diffIDState == .notProvable, "\(fixture.reports.withLock { $0 })")
            #expect(try engine.store.index.chainState(of: id) == .claimed)
            #expect(try engine.proveFromStore(id) == .claimed)
            let image = try RemoteImage(
                engine, ImageReference(parsing: "oci:\(fixture.layout):a"), plainHTTP: true, shouldStop: { false })
            let whole = try image.stream(0, shouldStop: { false })
            #expect(whole != id)
            #expect(try engine.store.index.ledger(of: whole).tocProof == .whole)
            #expect(try engine.store.index.chainState(of: whole) == .proven)
            // The layer by its table of contents is what it was.
            #expect(try engine.store.index.chainState(of: id) == .claimed)
        }
    }

    @Test("of an eStargz layer whose tar differs by one byte of a header nothing is served any more")
    func mismatch() throws {
        let fixture = try Fixture()
        var layer = try written()
        // The image means another tar: one byte of the first header is another one.
        var tar: [UInt8] = []
        let stream = try StreamDecompressor(.gzip)
        try layer.blob.withUnsafeBytes { try stream.push($0) { tar += $0 } }
        #expect(SHA256.hash(tar) == layer.diffID)
        tar[102] ^= 1
        layer.diffID = SHA256.hash(tar)
        try settled(layer, fixture) { engine, id, ledger in
            #expect(ledger.diffIDState == .mismatch)
            let quarantine = try engine.store.index.quarantine()
            #expect(quarantine.map(\.layer) == [id])
            let reason = quarantine.first?.reason ?? ""
            let said = layer.diffID?.description ?? "?"
            #expect(reason.contains(said))
            let inodes = try #require(quarantine.first?.inodes)
            let isRefused = engine.store.quarantined.contains(inodes.lowerBound + 1)
            #expect(isRefused)
            let state = try engine.store.index.chainState(of: id)
            #expect(state == .quarantined)
        }
        #expect(fixture.reports.withLock { $0 }.contains { $0.contains("nothing of it is served any more") })
        // The next process knows it, too.
        let store = try fixture.openStore()
        let inodes = try #require(try store.index.quarantine().first?.inodes)
        #expect(store.quarantined.contains(inodes.lowerBound))
    }
}
