public import LaminaDigest

/// A SOCI index: which zTOC is whose layer's (https://github.com/awslabs/soci-snapshotter/blob/main/docs/soci-index-manifest-v1.md, `…-v2.md`).
///
/// It is written as an OCI image manifest whose configuration is empty and of a media type that says the version. Version 1 refers to its
/// image (`subject`); of version 2 the image's own manifest names the index's digest, so whoever made the image made the index.
public struct SOCIIndex: Sendable, Hashable {
    /// Which one.
    public enum Version: Int, Sendable, Hashable, CaseIterable {
        case v1 = 1
        case v2 = 2

        /// The media type of the configuration, and the `artifactType` of descriptors.
        public var mediaType: String { "application/vnd.amazon.soci.index.v\(rawValue)+json" }
    }

    /// The zTOC of a layer.
    public struct Layer: Sendable, Hashable {
        /// Of the layer's blob.
        public var digest: Digest
        /// Of the layer.
        public var mediaType: String
        public var ztoc: Descriptor
        /// In bytes, as the writer was asked for; nil if it is not said.
        public var spanSize: Int64?
        /// Whether the layer is said to have no extended attributes and no opaque directories.
        public var hasNoAttributes: Bool

        public init(
            digest: Digest, mediaType: String, ztoc: Descriptor, spanSize: Int64? = nil, hasNoAttributes: Bool = false
        ) {
            self.digest = digest
            self.mediaType = mediaType
            self.ztoc = ztoc
            self.spanSize = spanSize
            self.hasNoAttributes = hasNoAttributes
        }
    }

    /// The media type of zTOCs.
    public static let ztocMediaType = "application/octet-stream"
    /// The media type of the list of spans that are to be fetched first.
    public static let prefetchMediaType = "application/vnd.amazon.soci.prefetch.v1+json"

    public var version: Version
    /// In the order of the manifest; layers without a zTOC are missing.
    public var layers: [Layer]
    /// The image that an index of version 1 is of.
    public var subject: Descriptor?
    public var buildTool: String

    public init(version: Version, layers: [Layer], subject: Descriptor? = nil, buildTool: String = "") {
        self.version = version
        self.layers = layers
        self.subject = subject
        self.buildTool = buildTool
    }

    /// The zTOC of a layer; nil: the index leaves it out.
    public func layer(_ digest: Digest) -> Layer? { layers.first { $0.digest == digest } }

    /// Reads an index, whose digest was checked.
    ///
    /// - Parameter name: for errors: a digest, a file.
    /// - Throws: `badManifest`; `unsupported` for a manifest that is no SOCI index.
    public init(parsing bytes: [UInt8], name: String) throws(OCIError) {
        guard case .manifest(let manifest) = try ImageDocument(parsing: bytes, mediaType: nil, name: name) else {
            throw OCIError(.unsupported, "manifest \(name) is an index of images, and no SOCI index")
        }
        let type = manifest.config.mediaType
        guard let version = Version.allCases.first(where: { $0.mediaType == type }) else {
            throw OCIError(
                .unsupported, "manifest \(name) is no SOCI index: its config is of type '\(type.prefix(100))'")
        }
        let field = try JSONField(parsing: bytes, as: "SOCI index \(name)")
        self.version = version
        subject = nil
        if let value = try field.optional("subject") { subject = try Descriptor(value) }
        buildTool = manifest.annotations[SOCIAnnotation.buildTool] ?? ""
        layers = []
        var seen: Set<Digest> = []
        for (place, descriptor) in manifest.layers.enumerated() where descriptor.mediaType == Self.ztocMediaType {
            guard let text = descriptor.annotations[SOCIAnnotation.layerDigest], let digest = Digest(parsing: text)
            else {
                throw OCIError(.badManifest, "SOCI index \(name): layers[\(place)] does not say which layer it is of")
            }
            // The first one counts, as for the snapshotter.
            guard seen.insert(digest).inserted else { continue }
            layers.append(
                Layer(
                    digest: digest, mediaType: descriptor.annotations[SOCIAnnotation.layerMediaType] ?? "",
                    ztoc: descriptor, spanSize: descriptor.annotations[SOCIAnnotation.spanSize].flatMap { Int64($0) },
                    hasNoAttributes: descriptor.annotations[SOCIAnnotation.disableXattrs] == "true"))
        }
    }
}

/// Keys of annotations in SOCI indexes, and in the images that they are of.
public enum SOCIAnnotation {
    /// Of a zTOC: the digest of its layer's blob.
    public static let layerDigest = "com.amazon.soci.image-layer-digest"
    public static let layerMediaType = "com.amazon.soci.image-layer-mediaType"
    public static let spanSize = "com.amazon.soci.span-size"
    public static let disableXattrs = "com.amazon.soci.disable-xattrs"
    /// Of an index.
    public static let buildTool = "com.amazon.soci.build-tool-identifier"
    /// Of an image's manifest: the digest of its index of version 2.
    public static let indexDigest = "com.amazon.soci.index-digest"
    /// Of the index's descriptor in the image's OCI index: the digest of the image's manifest.
    public static let manifestDigest = "com.amazon.soci.image-manifest-digest"
}
