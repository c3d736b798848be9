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
    /// Of the layer's table of contents, as its manifest has it.
    var toc: Digest?
    /// All layers that it names.
    var layers: [Digest] { neighbours + (layer.map { [$0] } ?? []) }

    /// nil for a Prepare that offers nothing: one for a container.
    init?(labels: [String: String]) {
        guard let chain = labels[snapshotChainLabel], !chain.isEmpty else { return nil }
        self.chain = chain
        toc = labels["containerd.io/snapshot/stargz/toc.digest"].flatMap { Digest(parsing: $0) }
        // CRI's come from containerd itself, which puts them in the place of what a manifest has, if it is told to. Where one of them came,
        // nothing else says which image it is.
        let isByCRI = labels.keys.contains { $0.hasPrefix(Self.criPrefix) }
        for style in Self.styles where !isByCRI || style.manifest != nil {
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
        // CRI since 1.4 (pkg/snapshotters/annotations.go), nerdctl, Docker, and the transfer service since 2.1.
        Style(
            reference: Self.criPrefix + "image-ref", layer: Self.criPrefix + "layer-digest",
            layers: Self.criPrefix + "image-layers", manifest: Self.criPrefix + "manifest-digest"),
        Style(
            reference: Self.annotationPrefix + "reference", layer: Self.annotationPrefix + "digest",
            layers: Self.annotationPrefix + "layers"),
    ]

    /// What CRI's labels begin with.
    static let criPrefix = "containerd.io/snapshot/cri."
    /// What ctr-remote's labels begin with.
    static let annotationPrefix = "containerd.io/snapshot/remote/stargz."
}

extension SnapshotKey {
    /// containerd's namespace: its names of snapshots are NAMESPACE/SEQUENCE/KEY.
    var namespace: String { String(decoding: bytes.prefix { $0 != UInt8(ascii: "/") }, as: UTF8.self) }
}
