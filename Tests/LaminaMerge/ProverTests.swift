import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("the proof of a layer")
struct ProverTests {
    /// Refuses what is at the beginning of a blob, which is of no file.
    private struct Refusing: BlobSource {
        let upstream: OCILayoutSource
        var location: String { upstream.location }

        func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
            try upstream.manifest(target, shouldStop: shouldStop)
        }

        func read(
            _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
            into sink: (UnsafeRawBufferPointer) throws -> Void
        ) throws {
            if range.lowerBound == 0 { throw OCIError(.notFound, "there is nothing there") }
            try upstream.read(digest, size: size, range: range, shouldStop: shouldStop, into: sink)
        }
    }

    /// Two images, each in a layout of its own.
    private struct Images {
        let fixture: Fixture
        var gapped: String { fixture.directory + "/gapped" }
        var good: String { fixture.directory + "/good" }

        init() throws {
            fixture = try Fixture()
            var layer = ForgedLayer()
            // Of no file: only the proof asks for it.
            _ = layer.member(noise(2000, seed: 1))
            layer.file("file", noise(100_000, seed: 2))
            layer.finish()
            try writeImage([ImageLayer(layer)], tag: "a", layout: gapped)
            var blob: [UInt8] = []
            let writer = try LayerWriter(options: LayerWriter.Options()) { blob += $0 }
            let bytes = noise(150_000, seed: 3)
            try writer.append(
                TarHeader(kind: .regular, name: Array("other".utf8), mode: 0o644, size: Int64(bytes.count)))
            try bytes.withUnsafeBytes { try writer.write($0) }
            let result = try writer.finish()
            try writeImage(
                [ImageLayer(blob: blob, tocDigest: result.tocDigest, diffID: result.diffID)], tag: "a", layout: good)
        }

        func index(_ layout: String, _ engine: MergeEngine) throws -> ImageRecord {
            try ImagePull(engine, shouldStop: { false }, report: { _ in })
                .index(try ImageReference(parsing: "oci:\(layout):a"), platform: nil, plainHTTP: true)
        }

        /// Brings both; the one with the gap has the lower number, and comes from `source`.
        func merge(_ engine: MergeEngine, from source: any BlobSource) throws -> (gapped: LayerID, good: LayerID) {
            let (first, second) = (try index(gapped, engine), try index(good, engine))
            engine.sources.add(source)
            try engine.merge(first)
            try engine.merge(second)
            #expect(first.layers[0].row < second.layers[0].row)
            return (first.layers[0], second.layers[0])
        }
    }

    @Test("does not wait for that of another layer, whose registry refuses what it needs")
    func refused() throws {
        let images = try Images()
        var options = MergeEngine.Options()
        options.provingDelay = 0.01
        let engine = try MergeEngine(store: try images.fixture.openStore(), options: options)
        defer { engine.stop() }
        engine.setErrorReporter { error in images.fixture.reports.withLock { $0.append("\(error)") } }
        let layers = try images.merge(
            engine, from: Refusing(upstream: OCILayoutSource(directory: images.gapped)))
        let isProven = try eventually(seconds: 20) {
            try engine.store.index.ledger(of: layers.good).diffIDState == .proven
        }
        let reports = images.fixture.reports.withLock { $0 }
        #expect(isProven, "\(reports)")
        #expect(reports.contains { $0.contains("cannot be proven now") })
        #expect(try engine.store.index.ledger(of: layers.gapped).diffIDState == .unknown)
    }

    @Test("does not wait for that of another layer, whose registry stalls")
    func stalled() throws {
        let images = try Images()
        try images.fixture.withEngine { engine in
            let source = ControlledSource(OCILayoutSource(directory: images.gapped))
            let layers = try images.merge(engine, from: source)
            source.behaviour.held = 0..<1
            let thread = try Thread("prove") { _ = try? engine.prover.prove(layers.gapped) }
            #expect(source.waits())
            let took = try seconds { _ = try engine.prover.prove(layers.good) }
            #expect(took < 20, "\(took) s")
            #expect(try engine.store.index.ledger(of: layers.good).diffIDState == .proven)
            let isDone = try engine.prover.prove(layers.gapped, waits: false)
            #expect(!isDone, "it is being proven")
            source.behaviour.held = nil
            thread.join()
        }
    }

    @Test("does not wait for ever for a merge of another layer that never ends")
    func unquiet() throws {
        let images = try Images()
        var options = MergeEngine.Options()
        options.provingDelay = 0.01
        options.provingPatience = 0.1
        let engine = try MergeEngine(store: try images.fixture.openStore(), options: options)
        defer { engine.stop() }
        let (other, good) = (try images.index(images.gapped, engine), try images.index(images.good, engine))
        let source = ControlledSource(OCILayoutSource(directory: images.gapped))
        engine.sources.add(source)
        source.behaviour.allowance = 0
        let answers = Answers()
        let content = try engine.content(SHA256.hash(noise(100_000, seed: 2)))
        engine.whole(content.id, of: other.layers[0], answers.take())
        #expect(source.waits())
        try engine.merge(good)
        let isProven = try eventually(seconds: 20) {
            try engine.store.index.ledger(of: good.layers[0]).diffIDState == .proven
        }
        #expect(isProven)
        source.behaviour.allowance = nil
        #expect(answers.wait())
    }

    @Test("ends when the registry takes longer than it may")
    func late() throws {
        let images = try Images()
        try images.fixture.withEngine { engine in
            let source = ControlledSource(OCILayoutSource(directory: images.gapped))
            let layers = try images.merge(engine, from: source)
            // A byte now and then.
            source.behaviour.pieceSize = 1
            source.behaviour.pace = 0.05
            var failure: (any Error)?
            let took = seconds {
                do { _ = try engine.prover.prove(layers.gapped, readingAtMost: 0.5) } catch { failure = error }
            }
            #expect(took < 20, "\(took) s")
            #expect((failure as? MergeError)?.code == .fetch, "\(String(describing: failure))")
            // It can be proven later.
            #expect(try engine.store.index.ledger(of: layers.gapped).diffIDState == .unknown)
            source.behaviour = .init()
            try engine.prover.prove(layers.gapped)
            #expect(try engine.store.index.ledger(of: layers.gapped).diffIDState != .unknown)
        }
    }

    @Test("is tried again later and later, behind that of layers which have not failed")
    func trials() {
        let now = ContinuousClock.now
        let layers = [LayerID(1), LayerID(2), LayerID(3)]
        var trials = ProofTrials()
        let atFirst = trials.due(of: layers, at: now)
        #expect(atFirst == layers && trials.next == nil)
        #expect(trials.readLimit(of: layers[0]) == ProofTrials.firstRead)
        var pause = trials.failed(layers[0], at: now)
        #expect(pause == ProofTrials.firstPause)
        #expect(trials.readLimit(of: layers[0]) == ProofTrials.longestBackgroundRead)
        #expect(trials.next == now + .seconds(ProofTrials.firstPause))
        let (before, after) = (
            trials.due(of: layers, at: now + .seconds(9)), trials.due(of: layers, at: now + .seconds(10))
        )
        #expect(before == [layers[1], layers[2]])
        #expect(after == [layers[1], layers[2], layers[0]])
        pause = trials.failed(layers[0], at: now)
        #expect(pause == 2 * ProofTrials.firstPause)
        for _ in 0..<20 { pause = trials.failed(layers[0], at: now) }
        #expect(pause == ProofTrials.longestPause)
        trials.postpone(layers[1], at: now)
        #expect(trials.readLimit(of: layers[1]) == ProofTrials.firstRead, "it has not failed")
        trials.succeeded(layers[1])
        // What is not in the index any more is forgotten.
        _ = trials.due(of: [], at: now)
        #expect(trials.next == nil)
    }

    @Test("stops to read where nothing comes for a while, and where all reads together take too long")
    func reads() {
        let start = ContinuousClock.now
        let reads = ProofReads(seconds: 50)
        #expect(!reads.isStalled(at: start) && !reads.isOver(at: start))
        reads.begin(at: start)
        #expect(!reads.isStalled(at: start + .seconds(30)))
        #expect(reads.isStalled(at: start + .seconds(31)))
        reads.arrived(at: start + .seconds(31))
        #expect(!reads.isStalled(at: start + .seconds(60)))
        #expect(!reads.isOver(at: start + .seconds(50)) && reads.isOver(at: start + .seconds(51)))
        reads.end(at: start + .seconds(40))
        // What the hashing of files takes between two reads does not count.
        #expect(!reads.isOver(at: start + .seconds(1000)))
        reads.begin(at: start + .seconds(1000))
        #expect(!reads.isOver(at: start + .seconds(1010)) && reads.isOver(at: start + .seconds(1011)))
    }
}
