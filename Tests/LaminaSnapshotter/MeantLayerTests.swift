import LaminaDigest
import Testing

@testable import LaminaSnapshotter
@testable import LaminaStore

private let blob = SHA256.hash(Array("blob".utf8))
private let toc = SHA256.hash(Array("table of contents".utf8))
private let checksum = SHA256.hash(Array("compressed table of contents".utf8))
private let other = SHA256.hash(Array("another".utf8))

@Suite("Whether the layer that stands for a chain is the one that an image means")
struct MeantLayerTests {
    private static let own = "https://registry.example/own"
    private static let strange = "https://registry.example/strange"

    private func layer(_ proof: TOCProof, toc: Digest? = toc, checksum: Digest? = nil) -> LayerLedger {
        LayerLedger(
            digest: blob, format: 1, tocDigest: toc, tocChecksum: checksum, tocProof: proof, diffID: other,
            diffIDState: .unknown, computedDiffID: nil, areChunksProven: false, areFilesProven: false)
    }

    private func meant(_ toc: NamedTOC = NamedTOC(), isOfManifest: Bool = true) -> MeantLayer {
        MeantLayer(blob: blob, toc: toc, isOfManifest: isOfManifest, origin: Self.own)
    }

    @Test("a table of contents that one image names is not the layer of an image that names none, or another one")
    func claims() {
        let claimed = layer(.manifest, checksum: checksum)
        for origin in [Self.own, Self.strange] {
            // As of a plain layer, which most images have.
            #expect(!meant().isSame(as: claimed, of: origin))
            #expect(!meant(NamedTOC(digest: other)).isSame(as: claimed, of: origin))
            #expect(!meant(NamedTOC(checksum: other)).isSame(as: claimed, of: origin))
            #expect(!meant(NamedTOC(digest: toc, checksum: other)).isSame(as: claimed, of: origin))
            #expect(meant(NamedTOC(digest: toc)).isSame(as: claimed, of: origin))
            #expect(meant(NamedTOC(checksum: checksum)).isSame(as: claimed, of: origin))
            #expect(meant(NamedTOC(digest: toc, checksum: checksum)).isSame(as: claimed, of: origin))
        }
        // Of zstd:chunked the manifest names the checksum, and an eStargz layer has none that it could be.
        #expect(!meant(NamedTOC(checksum: checksum)).isSame(as: layer(.manifest), of: Self.own))
        // Another blob is another layer, and one that nobody names is none.
        #expect(!MeantLayer(blob: other, toc: NamedTOC(digest: toc)).isSame(as: claimed, of: Self.own))
        #expect(!MeantLayer(toc: NamedTOC(digest: toc), origin: Self.own).isSame(as: claimed, of: Self.own))
    }

    @Test("a layer whose blob was hashed as a whole is that of an image that names no table of contents")
    func hashed() {
        #expect(meant().isSame(as: layer(.blob), of: Self.strange))
        #expect(meant().isSame(as: layer(.whole, toc: nil), of: Self.strange))
        // A false table of contents is of no hashed blob.
        #expect(!meant(NamedTOC(digest: other)).isSame(as: layer(.blob), of: Self.own))
        #expect(meant(NamedTOC(digest: other)).isSame(as: layer(.whole, toc: nil), of: Self.own))
    }

    @Test("of a repository whose files are its own nothing stands for another one, nor the other way round")
    func isolated() {
        let image = meant()
        #expect(!image.isApart(from: Self.strange) { _ in false })
        #expect(!image.isApart(from: Self.own) { _ in true })
        #expect(image.isApart(from: Self.strange) { $0 == Self.own })
        #expect(image.isApart(from: Self.strange) { $0 == Self.strange })
        // An image of which nobody says where it is from.
        #expect(MeantLayer(blob: blob).isApart(from: Self.strange) { $0 == Self.strange })
        #expect(!MeantLayer(blob: blob).isApart(from: Self.strange) { $0 == Self.own })
    }

    @Test("where only a client's labels are known, a claim of the same repository is enough, and one of another is not")
    func labels() {
        let claimed = layer(.manifest, checksum: checksum)
        #expect(meant(isOfManifest: false).isSame(as: claimed, of: Self.own))
        #expect(!meant(isOfManifest: false).isSame(as: claimed, of: Self.strange))
        #expect(!MeantLayer(blob: blob).isSame(as: claimed, of: nil))
        #expect(meant(NamedTOC(digest: toc), isOfManifest: false).isSame(as: claimed, of: Self.strange))
    }
}
