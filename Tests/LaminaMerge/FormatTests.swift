import Glibc
import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("layers of every format that has a table of contents")
struct FormatTests {
    static let layouts = Fixtures.layouts.filter { $0 != "plain-gzip" }

    private func index(_ engine: MergeEngine, _ layout: String) throws -> ImageRecord {
        try ImagePull(engine, shouldStop: { false }, report: { _ in }).index(
            try ImageReference(parsing: "oci:\(Fixtures.layout(layout))"), platform: nil, plainHTTP: true)
    }

    @Test("are merged whole and right, and nothing is fetched twice", arguments: layouts)
    func merged(layout: String) throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            let image = try index(engine, layout)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
            let size = try image.layers.reduce(0) { try $0 + (engine.store.index.blob(of: $1)?.size ?? 0) }
            #expect(engine.totalFetchedBytes <= UInt64(size))
        }
        // The operator is told of skopeo 1.9's wrong diff IDs.
        #expect(fixture.reports.withLock { $0 }.allSatisfy { $0.contains("its tar has the digest") })
    }

    @Test("in one store hold each distinct file once")
    func once() throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            for layout in Self.layouts { try engine.merge(try index(engine, layout)) }
            #expect(try engine.store.isWholeAndRight())
            // Contents of several chunks are kept apart by their chunk lists, but share one file.
            var files: [Digest: Set<UInt>] = [:]
            for content in try engine.store.contents() {
                files[content.name.digest, default: []].insert(
                    try engine.store.files.open(content.name).status().st_ino)
            }
            #expect(files.count > 1500 && files.values.allSatisfy { $0.count == 1 })
        }
    }

    /// What the ledgers of an image's layers say after a pull.
    private func ledgers(_ layout: String, _ fixture: Fixture) throws -> [LayerLedger] {
        try fixture.withEngine { engine in
            let image = try index(engine, layout)
            try engine.merge(image)
            return try image.layers.map { try engine.store.index.ledger(of: $0) }
        }
    }

    @Test("zstd-chunked-skopeo-1.9 has in its ledger that its tars lack zeros at their ends, and is served")
    func mismatch() throws {
        let fixture = try Fixture()
        let ledgers = try ledgers("zstd-chunked-skopeo-1.9", fixture)
        #expect(ledgers.map(\.diffIDState) == [.unpadded, .unpadded, .unpadded])
        #expect(ledgers.allSatisfy { $0.computedDiffID != nil && $0.computedDiffID != $0.diffID })
        #expect(ledgers.allSatisfy { $0.areChunksProven && $0.areFilesProven && $0.tocProof == .manifest })
        #expect(fixture.reports.withLock { $0 }.count { $0.contains("its tar has the digest") } == 3)
    }

    @Test(
        "of zstd:chunked has its diff ID proven when the last chunk has landed",
        arguments: ["zstd-chunked-stargz", "zstd-chunked-podman-5"])
    func proven(layout: String) throws {
        let ledgers = try ledgers(layout, try Fixture())
        #expect(ledgers.map(\.diffIDState) == [.proven, .proven, .proven])
        #expect(ledgers.allSatisfy { $0.areChunksProven && $0.areFilesProven && $0.computedDiffID == nil })
    }

    @Test(
        "of eStargz has its files proven when nothing is merged any more, and its diff ID, without a fetch beyond its blob"
    )
    func background() throws {
        var options = MergeEngine.Options()
        options.provingDelay = 0.01
        let fixture = try Fixture()
        let engine = try MergeEngine(store: try fixture.openStore(), options: options)
        defer { engine.stop() }
        let image = try index(engine, "estargz-64k")
        try engine.merge(image)
        let ledgers = {
            try image.layers.map { try engine.store.index.ledger(of: $0) }
        }
        for _ in 0..<3000 where try !ledgers().allSatisfy(\.areChunksProven) { usleep(10_000) }
        #expect(try ledgers().allSatisfy { $0.areChunksProven && $0.areFilesProven })
        #expect(try ledgers().map(\.diffIDState) == [.proven, .proven, .proven])
        let size = try image.layers.reduce(0) { try $0 + (engine.store.index.blob(of: $1)?.size ?? 0) }
        #expect(engine.totalFetchedBytes <= UInt64(size))
    }

    @Test("of eStargz has its diff ID proven before the first mount where that is required", arguments: [true, false])
    func required(wasKnown: Bool) throws {
        let fixture = try Fixture()
        let store = try fixture.openStore()
        if wasKnown {
            let engine = try MergeEngine(store: store, options: .init())
            defer { engine.stop() }
            let image = try index(engine, "estargz")
            #expect(try image.layers.allSatisfy { try store.index.ledger(of: $0).diffIDState == .unknown })
        }
        var options = MergeEngine.Options()
        options.requiresDiffID = true
        let engine = try MergeEngine(store: store, options: options)
        defer { engine.stop() }
        let image = try index(engine, "estargz")
        #expect(try image.layers.allSatisfy { try store.index.ledger(of: $0).diffIDState == .proven })
    }

    /// Writes an image whose layer has its table of contents in another image, `a-esgztoc`.
    private func writeExternal(_ layer: ForgedLayer, annotated: Bool, to layout: String) throws -> Descriptor {
        let footer: [UInt8] =
            [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 21, 0] + Array("SG".utf8) + [17, 0] + Array("STARGZEXTERNALTOC".utf8)
            + [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
        let members = Array(layer.blob[..<Int(layer.tocOffset)])
        let toc = Array(layer.blob[Int(layer.tocOffset)..<(layer.blob.count - 51)])
        let descriptors = try writeImage(
            [ImageLayer(blob: members + footer, tocDigest: annotated ? layer.tocDigest : nil)], tag: "a", layout: layout
        )
        let writer = try OCILayoutWriter(directory: layout, durable: false)
        var blob = try writer.addBlob(toc, mediaType: MediaType.ociLayerGzip)
        blob.annotations["containerd.io/snapshot/stargz/layer.digest"] = descriptors[0].digest.description
        let config = try writer.addBlob(Array("{}".utf8), mediaType: MediaType.ociConfig)
        let manifest = ImageManifest(config: config, layers: [blob])
        try writer.setManifest(
            try writer.addBlob(manifest.serialized(), mediaType: MediaType.ociManifest), tag: "a-esgztoc")
        return descriptors[0]
    }

    private func externalLayer() -> ForgedLayer {
        var layer = ForgedLayer()
        layer.file("file", noise(150_000, seed: 3))
        layer.file("other", noise(10, seed: 4))
        layer.finish()
        return layer
    }

    @Test("of eStargz with an external table of contents are found in the image beside")
    func external() throws {
        let fixture = try Fixture()
        _ = try writeExternal(externalLayer(), annotated: true, to: fixture.layout)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
            #expect(try engine.store.contents().count == 2)
            #expect(try engine.store.index.blob(of: image.layers[0])?.format == 4)
        }
    }

    @Test("of eStargz with an external table of contents that no manifest vouches for are refused")
    func externalWithoutVoucher() throws {
        let fixture = try Fixture()
        _ = try writeExternal(externalLayer(), annotated: false, to: fixture.layout)
        try fixture.withEngine { engine in
            let error = #expect(throws: MergeError.self) { try fixture.index(engine) }
            #expect(error?.code == .badImage)
        }
    }
}
