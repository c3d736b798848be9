import LaminaDigest
import LaminaStore
import Testing

@testable import LaminaSnapshotter

private let first = SHA256.hash(Array("first".utf8))
private let second = SHA256.hash(Array("second".utf8))

@Suite("What a client says of a layer")
struct OfferTests {
    @Test("is read from the labels of ctr-remote")
    func stargz() throws {
        let offer = try #require(
            LayerOffer(labels: [
                "containerd.io/snapshot.ref": "sha256:chain",
                "containerd.io/snapshot/remote/stargz.reference": "127.0.0.1:5000/a:1",
                "containerd.io/snapshot/remote/stargz.digest": "\(first)",
                "containerd.io/snapshot/remote/stargz.layers": "\(first),\(second)",
                "containerd.io/snapshot/remote/urls": "",
            ]))
        #expect(offer.chain == "sha256:chain" && offer.reference == "127.0.0.1:5000/a:1")
        #expect(offer.layer == first && offer.neighbours == [first, second] && offer.manifest == nil)
    }

    @Test("is read from the labels of CRI and of the transfer service, which know the manifest")
    func cri() throws {
        let offer = try #require(
            LayerOffer(labels: [
                "containerd.io/snapshot.ref": "sha256:chain",
                "containerd.io/snapshot/cri.image-ref": "docker.io/library/a:1",
                "containerd.io/snapshot/cri.layer-digest": "\(first)",
                // Cut off at 4,096 bytes, within a digest.
                "containerd.io/snapshot/cri.image-layers": "\(first),\(second),sha256:00",
                "containerd.io/snapshot/cri.manifest-digest": "\(second)",
            ]))
        #expect(offer.reference == "docker.io/library/a:1" && offer.manifest == second)
        #expect(offer.neighbours == [first, second])
    }

    @Test("is believed of containerd's own labels first, whatever a manifest's annotations say beside them")
    func annotations() throws {
        let annotated = [
            "containerd.io/snapshot.ref": "sha256:chain",
            "containerd.io/snapshot/remote/stargz.reference": "169.254.169.254/a:1",
            "containerd.io/snapshot/remote/stargz.digest": "\(second)",
        ]
        let byCRI = [
            "containerd.io/snapshot/cri.image-ref": "docker.io/library/a:1",
            "containerd.io/snapshot/cri.layer-digest": "\(first)",
        ]
        let offer = try #require(LayerOffer(labels: annotated.merging(byCRI) { $1 }))
        #expect(offer.reference == "docker.io/library/a:1" && offer.layer == first)
        // Where only a part of them came, as they are cut off: still nothing of the others.
        let part = ["containerd.io/snapshot/cri.image-layers": "\(first)"]
        #expect(try #require(LayerOffer(labels: annotated.merging(part) { $1 })).reference == nil)
        // Alone they may be a client's.
        #expect(try #require(LayerOffer(labels: annotated)).layer == second)
    }

    @Test("is nothing for a container, and no image for an ordinary pull")
    func none() throws {
        #expect(LayerOffer(labels: [:]) == nil)
        #expect(LayerOffer(labels: ["containerd.io/gc.root": "x"]) == nil)
        let offer = try #require(LayerOffer(labels: ["containerd.io/snapshot.ref": "sha256:chain"]))
        #expect(offer.reference == nil)
    }

    @Test("leads to a name of its own for each parent")
    func names() {
        let names = [nil, SnapshotKey("a"), SnapshotKey("b")].map {
            LayerNames.committed(chain: "sha256:c", parent: $0)
        }
        #expect(Set(names).count == 3)
        #expect(LayerNames.committed(chain: "sha256:d", parent: nil) != names[0])
    }

    @Test("has the chain IDs of the OCI image specification")
    func chains() {
        // https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid
        let chains = LayerNames.chains([first, second])
        #expect(chains == [first, SHA256.hash(Array("\(first) \(second)".utf8))])
    }
}
