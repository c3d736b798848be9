import LaminaDigest
import LaminaStore

/// What a client says about a layer in a Prepare, so that the layer need not be downloaded: by the labels of ctr-remote, of
/// CRI, nerdctl and Docker, and of containerd's transfer service.
struct LayerOffer: Sendable, Equatable {
    /// The chain ID of the layer and all below it: a committed snapshot of it is found by this.
    var chain: String
    /// The image of the layer; nil if the client does not say it, as in an ordinary pull.
    var reference: String?
    /// The layer's blob.
    var layer: Digest?
    /// The layers that will be requested next, as far as 4,096 bytes of label name them; this one is the first.
    var neighbours: [Digest] = []
    /// The image's manifest, which CRI knows.
    var manifest: Digest?

    /// nil for a Prepare that offers nothing: one for a container.
    init?(labels: [String: String]) {
        guard let chain = labels[snapshotChainLabel], !chain.isEmpty else { return nil }
        self.chain = chain
        for style in Self.styles {
            guard let reference = labels[style.reference], !reference.isEmpty, let layer = labels[style.layer] else {
                continue
            }
            self.reference = reference
            self.layer = Digest(parsing: layer)
            neighbours = (labels[style.layers] ?? "").split(separator: ",").compactMap { Digest(parsing: $0) }
            manifest = style.manifest.flatMap { labels[$0] }.flatMap { Digest(parsing: $0) }
            return
        }
    }

    private struct Style {
        var reference: String
        var layer: String
        var layers: String
        var manifest: String?
    }

    private static let styles = [
        Style(
            reference: "containerd.io/snapshot/remote/stargz.reference",
            layer: "containerd.io/snapshot/remote/stargz.digest",
            layers: "containerd.io/snapshot/remote/stargz.layers"),
        // CRI since 1.4 (pkg/snapshotters/annotations.go), nerdctl, Docker, and the transfer service since 2.1.
        Style(
            reference: "containerd.io/snapshot/cri.image-ref", layer: "containerd.io/snapshot/cri.layer-digest",
            layers: "containerd.io/snapshot/cri.image-layers", manifest: "containerd.io/snapshot/cri.manifest-digest"),
    ]
}
