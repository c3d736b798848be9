public import LaminaDigest

/// An image with everything that its mount needs, except the layers' bytes.
public struct ResolvedImage: Sendable {
    public let reference: ImageReference
    public let manifestDigest: Digest
    public let manifestBytes: [UInt8]
    public let manifest: ImageManifest
    public let configDescriptor: Descriptor
    public let configBytes: [UInt8]
    public let config: ImageConfig
    /// The lowest first; as many as `diffIDs`.
    public let layers: [Descriptor]
    public let diffIDs: [Digest]
    /// The platform that the config gives.
    public let platform: Platform
    /// The platform that the index gives, if the image was found through one: configs of other writers often lack the variant.
    public let listedPlatform: Platform?
}

/// Follows a reference to one image.
public enum ImageResolver {
    /// Reads the manifest and config that `reference` means; from an index, those that fit the platform best.
    ///
    /// Every document is verified against the digest that names it; only the meaning of a tag is taken on trust.
    /// - Parameters:
    ///   - platform: what the image must run on. Without it, this machine decides among the manifests of an index, and an image that
    ///     is no index is taken as it is.
    ///   - source: ``ImageReference/openSource(plainHTTP:registries:)``, or another one that has the same repository.
    ///   - knownConfig: a configuration of an image with this manifest, if there is one; verified like a fetched one.
    /// - Throws: `noPlatform` with a list of the platforms, `badManifest`, `unsupported` for what is not an image, and what the
    ///   source throws.
    public static func resolve(
        _ reference: ImageReference, platform: Platform? = nil, source: any BlobSource,
        shouldStop: @Sendable () -> Bool = { false }, knownConfig: (Digest) -> [UInt8]? = { _ in nil }
    ) throws -> ResolvedImage {
        try withoutActuallyEscaping(knownConfig) {
            try resolve(reference, platform, KnownConfigs(source: source, config: $0), shouldStop)
        }
    }

    /// A source, and the configurations that need not be fetched from it.
    private struct KnownConfigs {
        let source: any BlobSource
        let config: (Digest) -> [UInt8]?

        func config(_ descriptor: Descriptor, of manifest: Digest, _ shouldStop: @Sendable () -> Bool) throws -> [UInt8]
        {
            if let known = config(manifest), (try? descriptor.verify(known, from: "the store")) != nil { return known }
            return try source.blob(descriptor, shouldStop: shouldStop)
        }
    }

    private static func resolve(
        _ reference: ImageReference, _ platform: Platform?, _ documents: KnownConfigs,
        _ shouldStop: @Sendable () -> Bool
    ) throws -> ResolvedImage {
        let source = documents.source
        let found = try source.manifest(reference.target, shouldStop: shouldStop)
        switch try ImageDocument(parsing: found.bytes, mediaType: found.mediaType, name: found.digest.description) {
        case .manifest(let manifest):
            let image = try complete(manifest, found, nil, reference, documents, shouldStop)
            if let platform, platform.rank(of: image.platform) == nil {
                throw noPlatform(platform, reference, [image.platform])
            }
            return image
        case .index(let index):
            let choice = Choice(reference: reference, platform: platform ?? .host, documents: documents)
            var there: [Platform] = []
            if let image = try choice.image(in: index, depth: 1, seen: &there, shouldStop) { return image }
            throw noPlatform(choice.platform, reference, there)
        }
    }

    private struct Choice {
        let reference: ImageReference
        let platform: Platform
        let documents: KnownConfigs
        /// Manifests whose platform only their config tells: usually few, and each costs two requests.
        static let unnamedLimit = 16

        /// The best image of an index; `nil` if none fits.
        func image(
            in index: ImageIndex, depth: Int, seen: inout [Platform], _ shouldStop: @Sendable () -> Bool
        ) throws -> ResolvedImage? {
            // What is neither an image nor an index is not ours, whatever platform it names: "implementations … MUST NOT error
            // on encountering a value that is unknown" (image-index.md, mediaType).
            let manifests = index.manifests.filter {
                $0.mediaType.isEmpty || MediaType.isManifest($0.mediaType) || MediaType.isIndex($0.mediaType)
            }
            let ranked = manifests.enumerated().compactMap { place, descriptor in
                descriptor.platform.flatMap { platform.rank(of: $0) }.map {
                    (rank: $0, place: place, descriptor: descriptor)
                }
            }
            let best = ranked.min { ($0.rank, $0.place) < ($1.rank, $1.place) }
            if let best, let image = try image(best.descriptor, depth: depth, seen: &seen, shouldStop) { return image }
            for named in manifests.compactMap(\.platform) where !seen.contains(named) { seen.append(named) }
            for descriptor in manifests.filter({ $0.platform == nil }).prefix(Self.unnamedLimit) {
                if let image = try image(descriptor, depth: depth, seen: &seen, shouldStop) { return image }
            }
            return nil
        }

        private func image(
            _ descriptor: Descriptor, depth: Int, seen: inout [Platform], _ shouldStop: @Sendable () -> Bool
        ) throws -> ResolvedImage? {
            let found = try documents.source.manifest(.digest(descriptor.digest), shouldStop: shouldStop)
            guard found.bytes.count == descriptor.size else {
                throw OCIError(
                    .sizeMismatch,
                    "manifest \(descriptor.digest) has \(found.bytes.count) bytes; its index says \(descriptor.size)")
            }
            let mediaType = descriptor.mediaType.isEmpty ? found.mediaType : descriptor.mediaType
            let document: ImageDocument
            do throws(OCIError) {
                document = try ImageDocument(
                    parsing: found.bytes, mediaType: mediaType, name: descriptor.digest.description)
            } catch {
                // An artifact (a signature, an SBOM) that shares the index.
                if error.code == .unsupported, descriptor.platform == nil { return nil }
                throw error
            }
            switch document {
            case .index(let index):
                guard depth < ImageLimits.indexDepth else {
                    throw OCIError(
                        .badManifest, "the indexes of \(reference) nest deeper than \(ImageLimits.indexDepth)")
                }
                return try image(in: index, depth: depth + 1, seen: &seen, shouldStop)
            case .manifest(let manifest):
                if descriptor.platform == nil, !MediaType.isConfig(manifest.config.mediaType) { return nil }
                let image = try complete(manifest, found, descriptor.platform, reference, documents, shouldStop)
                // If the index names a platform, that counts: configs of other writers often lack the variant.
                if descriptor.platform != nil || platform.rank(of: image.platform) != nil { return image }
                if !seen.contains(image.platform) { seen.append(image.platform) }
                return nil
            }
        }
    }

    private static func complete(
        _ manifest: ImageManifest, _ found: ManifestBytes, _ listed: Platform?, _ reference: ImageReference,
        _ documents: KnownConfigs, _ shouldStop: @Sendable () -> Bool
    ) throws -> ResolvedImage {
        let name = found.digest.description
        guard MediaType.isConfig(manifest.config.mediaType) else {
            throw OCIError(
                .unsupported,
                "manifest \(name) of \(reference) is no image: its config is of type '\(manifest.config.mediaType.prefix(100))'"
            )
        }
        for (position, layer) in manifest.layers.enumerated()
        where MediaType.layerCompression(of: layer.mediaType) == nil {
            throw OCIError(
                .unsupported,
                "layer \(position) (\(layer.digest)) of \(reference) is of type '\(layer.mediaType.prefix(100))', which lamina does not read"
            )
        }
        let bytes = try documents.config(manifest.config, of: found.digest, shouldStop)
        let config = try ImageConfig(parsing: bytes, name: manifest.config.digest.description)
        guard config.diffIDs.count == manifest.layers.count else {
            throw OCIError(
                .badManifest,
                "manifest \(name) has \(manifest.layers.count) layers, its config \(config.diffIDs.count) diff IDs")
        }
        return ResolvedImage(
            reference: reference, manifestDigest: found.digest, manifestBytes: found.bytes, manifest: manifest,
            configDescriptor: manifest.config, configBytes: bytes, config: config, layers: manifest.layers,
            diffIDs: config.diffIDs, platform: config.platform, listedPlatform: listed)
    }

    private static func noPlatform(_ wanted: Platform, _ reference: ImageReference, _ there: [Platform]) -> OCIError {
        let names = Set(there.map(\.description)).sorted()
        let list = names.prefix(30).joined(separator: ", ") + (names.count > 30 ? ", …" : "")
        return OCIError(
            .noPlatform, "\(reference) has nothing for \(wanted); \(names.isEmpty ? "it is empty" : "it has \(list)")")
    }
}
