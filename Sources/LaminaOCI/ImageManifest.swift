/// The parts of one image: its config and its layers, the lowest first.
///
/// https://github.com/opencontainers/image-spec/blob/main/manifest.md,
/// https://distribution.github.io/distribution/spec/manifest-v2-2/
public struct ImageManifest: Sendable, Hashable {
    /// OCI's or Docker's.
    public var mediaType: String
    public var config: Descriptor
    public var layers: [Descriptor]
    public var annotations: [String: String]

    public init(
        mediaType: String = MediaType.ociManifest, config: Descriptor, layers: [Descriptor],
        annotations: [String: String] = [:]
    ) {
        self.mediaType = mediaType
        self.config = config
        self.layers = layers
        self.annotations = annotations
    }

    init(_ field: JSONField, mediaType: String) throws(OCIError) {
        self.mediaType = mediaType
        config = try Descriptor(field.required("config"))
        layers = []
        for layer in try field.required("layers").elements(atMost: ImageLimits.layerCount) {
            layers.append(try Descriptor(layer))
        }
        annotations = try field.optional("annotations")?.strings(atMost: ImageLimits.annotationCount) ?? [:]
    }

    /// The manifest in the form that registries take; the same manifest always gives the same bytes.
    public func serialized() -> [UInt8] {
        var members = [
            JSON.Member("schemaVersion", .integer(2)), JSON.Member("mediaType", .string(mediaType)),
            JSON.Member("config", config.json), JSON.Member("layers", .array(layers.map(\.json))),
        ]
        if !annotations.isEmpty { members.append(JSON.Member("annotations", .strings(annotations))) }
        return JSON.object(members).sortedBytes()
    }
}

/// Several images under one name, one for each platform.
///
/// https://github.com/opencontainers/image-spec/blob/main/image-index.md
public struct ImageIndex: Sendable, Hashable {
    /// OCI's index or Docker's manifest list.
    public var mediaType: String
    public var manifests: [Descriptor]
    public var annotations: [String: String]

    public init(
        mediaType: String = MediaType.ociIndex, manifests: [Descriptor], annotations: [String: String] = [:]
    ) {
        self.mediaType = mediaType
        self.manifests = manifests
        self.annotations = annotations
    }

    init(_ field: JSONField, mediaType: String) throws(OCIError) {
        self.mediaType = mediaType
        manifests = []
        for manifest in try field.required("manifests").elements(atMost: ImageLimits.indexCount) {
            manifests.append(try Descriptor(manifest))
        }
        annotations = try field.optional("annotations")?.strings(atMost: ImageLimits.annotationCount) ?? [:]
    }

    /// The index in the form that registries take; the same index always gives the same bytes.
    public func serialized() -> [UInt8] {
        var members = [
            JSON.Member("schemaVersion", .integer(2)), JSON.Member("mediaType", .string(mediaType)),
            JSON.Member("manifests", .array(manifests.map(\.json))),
        ]
        if !annotations.isEmpty { members.append(JSON.Member("annotations", .strings(annotations))) }
        return JSON.object(members).sortedBytes()
    }
}

/// What a reference leads to: one image, or an index of several.
public enum ImageDocument: Sendable, Hashable {
    case manifest(ImageManifest)
    case index(ImageIndex)

    /// Reads a manifest or an index of OCI or of Docker's schema 2.
    ///
    /// The document's own `mediaType` decides; if it has none, the argument `mediaType` (a descriptor's, or a Content-Type). A
    /// document that could be read as both is refused (CVE-2021-41190).
    /// - Parameter name: the name for errors: a digest, a URL.
    /// - Throws: `badManifest`, `unsupported`.
    public init(parsing bytes: [UInt8], mediaType: String?, name: String) throws(OCIError) {
        let field = try JSONField(parsing: bytes, as: "manifest \(name)")
        let own = try field.optional("mediaType")?.string()
        let version = try field.optional("schemaVersion")?.integer()
        if version == 1 || MediaType.isSchema1(own ?? mediaType ?? "") {
            throw OCIError(
                .unsupported,
                "manifest \(name) is of Docker's schema 1, which carries no sizes and no config; push the image again with a newer client"
            )
        }
        if let version, version != 2 {
            throw OCIError(.unsupported, "manifest \(name) has schemaVersion \(version); lamina reads version 2")
        }
        let layers = try field.optional("layers")
        let config = try field.optional("config")
        let hasLayers = layers != nil || config != nil
        let hasManifests = try field.optional("manifests") != nil
        guard hasLayers != hasManifests else {
            throw OCIError(
                .badManifest,
                "manifest \(name) has \(hasLayers ? "both layers and manifests" : "neither layers nor manifests")")
        }
        let known = Self.known(own) ?? Self.known(mediaType)
        if let own, known != own {
            throw OCIError(
                .unsupported, "manifest \(name) has media type '\(own.prefix(100))', which is no image or index")
        }
        if let known, MediaType.isIndex(known) != hasManifests {
            throw OCIError(
                .badManifest, "manifest \(name) is called \(known) but has \(hasManifests ? "manifests" : "layers")")
        }
        if hasManifests {
            self = .index(try ImageIndex(field, mediaType: known ?? MediaType.ociIndex))
        } else {
            self = .manifest(try ImageManifest(field, mediaType: known ?? MediaType.ociManifest))
        }
    }

    private static func known(_ mediaType: String?) -> String? {
        guard let mediaType, MediaType.isIndex(mediaType) || MediaType.isManifest(mediaType) else { return nil }
        return mediaType
    }
}
