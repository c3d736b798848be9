import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("a layer that is indexed")
struct IndexingTests {
    private func layer(_ seed: UInt64, padding: Int = 0) -> ForgedLayer {
        var layer = ForgedLayer()
        layer.file("file", noise(50_000 + padding, seed: seed))
        layer.finish()
        return layer
    }

    @Test("without toc.digest is believed once its whole blob was hashed", arguments: [0, 600_000])
    func withoutAnnotation(padding: Int) throws {
        let fixture = try Fixture()
        let layer = layer(1, padding: padding)
        try writeImage([ImageLayer(blob: layer.blob, tocDigest: nil)], tag: "a", layout: fixture.layout)
        try fixture.withEngine { engine in
            let fetched = Mutex<Int64>(0)
            let image = try ImagePull(engine, shouldStop: { false }) { step in
                fetched.withLock { $0 = step.fetchedBytes }
            }
            .index(try ImageReference(parsing: "oci:\(fixture.layout):a"), platform: nil, plainHTTP: true)
            #expect(fetched.withLock { $0 } >= Int64(layer.blob.count))
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("is refused when its table of contents is not the manifest's, and nothing is recorded")
    func wrongAnnotation() throws {
        let fixture = try Fixture()
        let wrong = SHA256.hash(Array("other".utf8))
        try writeImage(
            [ImageLayer(blob: layer(1).blob, tocDigest: wrong)], tag: "a", layout: fixture.layout)
        try fixture.withEngine { engine in
            let error = try #require(#expect(throws: MergeError.self) { try fixture.index(engine) })
            #expect(error.code == .badImage)
            #expect(error.description.contains("\(wrong)") && error.description.contains("\(layer(1).tocDigest)"))
            #expect(try engine.store.contents().isEmpty)
            #expect(try engine.store.index.images().isEmpty)
            #expect(try engine.store.layer(layer(1).digest) == nil)
        }
    }

    @Test("is not lent to an image whose manifest vouches for another table of contents", arguments: [true, false])
    func madeUpTable(isAnnotated: Bool) throws {
        let fixture = try Fixture()
        let (honest, forged) = (layer(1, padding: 400_000), layer(2, padding: 400_000))
        try writeImage([ImageLayer(blob: honest.blob, tocDigest: nil)], tag: "a", layout: fixture.layout)
        let store = try fixture.openStore()
        let source = OCILayoutSource(directory: fixture.layout)
        func index(_ tocDigest: Digest?, from source: any BlobSource) throws -> LayerID {
            let annotations = tocDigest.map { ["containerd.io/snapshot/stargz/toc.digest": $0.description] } ?? [:]
            return try LayerIndexer(store: store, source: source, shouldStop: { false }, didFetch: { _ in }).index(
                Descriptor(
                    mediaType: MediaType.ociLayerGzip, digest: honest.digest, size: Int64(honest.blob.count),
                    annotations: annotations), diffID: nil)
        }
        // A registry that gives its own bytes for the honest layer's digest, and a manifest to fit.
        let liar = try index(forged.tocDigest, from: TwoFaced(honest: source, forged: forged.blob))
        let right = try index(isAnnotated ? honest.tocDigest : nil, from: source)
        #expect(right != liar)
        if isAnnotated {
            // Nobody has read the blob: each has its own.
            #expect(try index(forged.tocDigest, from: source) == liar)
        } else {
            let error = #expect(throws: MergeError.self) { try index(forged.tocDigest, from: source) }
            #expect(error?.code == .badImage)
            #expect(error?.description.contains("\(honest.tocDigest)") == true)
            #expect(try store.index.quarantine().map(\.layer) == [liar])
        }
    }

    /// Gives another blob's bytes to a client that asks for a part.
    private struct TwoFaced: BlobSource {
        let honest: any BlobSource
        let forged: [UInt8]
        var location: String { honest.location }

        func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
            try honest.manifest(target, shouldStop: shouldStop)
        }

        func read(
            _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
            into sink: (UnsafeRawBufferPointer) throws -> Void
        ) throws {
            guard range.count < size else {
                return try honest.read(digest, size: size, range: range, shouldStop: shouldStop, into: sink)
            }
            try forged[Int(range.lowerBound)..<Int(range.upperBound)].withUnsafeBytes { try sink($0) }
        }
    }

    @Test("without toc.digest is refused when its source shows another table of contents than the blob's")
    func twoFaced() throws {
        let fixture = try Fixture()
        let (honest, forged) = (layer(1, padding: 400_000), layer(2, padding: 400_000))
        #expect(honest.blob.count == forged.blob.count)
        try writeImage([ImageLayer(blob: honest.blob, tocDigest: nil)], tag: "a", layout: fixture.layout)
        let store = try fixture.openStore()
        let source = TwoFaced(honest: OCILayoutSource(directory: fixture.layout), forged: forged.blob)
        let indexer = LayerIndexer(store: store, source: source, shouldStop: { false }, didFetch: { _ in })
        let descriptor = Descriptor(
            mediaType: MediaType.ociLayerGzip, digest: honest.digest, size: Int64(honest.blob.count))
        let error = #expect(throws: MergeError.self) { try indexer.index(descriptor, diffID: nil) }
        #expect(error?.code == .badImage)
        #expect(try store.contents().isEmpty)
    }

    @Test("that is not the blob that the manifest names is refused without toc.digest")
    func wrongBlob() throws {
        let fixture = try Fixture()
        let store = try fixture.openStore()
        let (named, given) = (layer(1), layer(2))
        let source = TwoFaced(honest: OneBlob(bytes: given.blob), forged: given.blob)
        let indexer = LayerIndexer(store: store, source: source, shouldStop: { false }, didFetch: { _ in })
        let descriptor = Descriptor(
            mediaType: MediaType.ociLayerGzip, digest: named.digest, size: Int64(given.blob.count))
        let error = try #require(#expect(throws: MergeError.self) { try indexer.index(descriptor, diffID: nil) })
        #expect(error.description.contains("\(named.digest)") && error.description.contains("\(given.digest)"))
    }

    @Test("without a table of contents is read as a whole, and its ledger says that all of it is proven")
    func plain() throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            let image = try ImagePull(engine, shouldStop: { false }, report: { _ in }).index(
                try ImageReference(parsing: "oci:\(Fixtures.layout("plain-gzip"))"), platform: nil, plainHTTP: true)
            for layer in image.layers {
                let ledger = try engine.store.index.ledger(of: layer)
                #expect(ledger.tocProof == .whole && ledger.diffIDState == .proven)
                #expect(ledger.areChunksProven && ledger.areFilesProven)
            }
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("twice is one layer with two places")
    func known() throws {
        let fixture = try Fixture()
        try fixture.write(layer(1), tag: "a")
        try fixture.write(layer(1), tag: "b")
        try fixture.withEngine { engine in
            let (a, b) = try (fixture.index(engine, "a"), fixture.index(engine, "b"))
            #expect(a.layers == b.layers && a.views == b.views)
            try engine.store.addSource("oci:/elsewhere", to: a.layers[0])
            #expect(try engine.store.index.blob(of: a.layers[0])?.locations.count == 2)
        }
    }
}
