/// Media types of images, OCI's and Docker's.
///
/// https://github.com/opencontainers/image-spec/blob/main/media-types.md,
/// https://distribution.github.io/distribution/spec/manifest-v2-2/
public enum MediaType {
    public static let ociIndex = "application/vnd.oci.image.index.v1+json"
    public static let ociManifest = "application/vnd.oci.image.manifest.v1+json"
    public static let ociConfig = "application/vnd.oci.image.config.v1+json"
    public static let ociLayer = "application/vnd.oci.image.layer.v1.tar"
    public static let ociLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
    public static let ociLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
    public static let dockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
    public static let dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
    public static let dockerConfig = "application/vnd.docker.container.image.v1+json"
    public static let dockerLayer = "application/vnd.docker.image.rootfs.diff.tar"
    public static let dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    public static let dockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"

    /// How the tar of a layer is compressed, by its media type.
    public enum Compression: String, Sendable, Hashable {
        case none, gzip, zstd
    }

    /// The compression of a layer of this media type; `nil` if it is not a layer that lamina reads.
    public static func layerCompression(of mediaType: String) -> Compression? {
        switch mediaType {
        case ociLayer, dockerLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar":
            .some(.none)
        case ociLayerGzip, dockerLayerGzip, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
            .gzip
        case ociLayerZstd, dockerLayerZstd, "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
            .zstd
        default:
            nil
        }
    }

    static func isIndex(_ mediaType: String) -> Bool { mediaType == ociIndex || mediaType == dockerList }
    static func isManifest(_ mediaType: String) -> Bool { mediaType == ociManifest || mediaType == dockerManifest }
    static func isConfig(_ mediaType: String) -> Bool { mediaType == ociConfig || mediaType == dockerConfig }

    /// Docker's first manifest format, which registries stopped taking in 2024.
    static func isSchema1(_ mediaType: String) -> Bool {
        mediaType.hasPrefix("application/vnd.docker.distribution.manifest.v1+")
    }

    /// What lamina asks registries for, the best first.
    static let accepted = [ociIndex, ociManifest, dockerList, dockerManifest]
}

/// Annotation keys of https://github.com/opencontainers/image-spec/blob/main/annotations.md
public enum Annotation {
    /// The tag of a manifest in the index.json of a layout.
    public static let referenceName = "org.opencontainers.image.ref.name"
}
