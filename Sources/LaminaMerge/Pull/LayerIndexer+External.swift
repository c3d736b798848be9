import LaminaDigest
import LaminaFormats
import LaminaOCI

// eStargz whose table of contents is in a separate image, `<reference>-esgztoc`.

extension LayerIndexer {
    /// On a layer of the other image, names the layer whose table of contents it is
    /// (https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md#external-toc).
    private static let layerAnnotation = "containerd.io/snapshot/stargz/layer.digest"

    /// The table of contents of a layer whose footer says that it is elsewhere.
    func fetchExternal(_ descriptor: Descriptor, membersEnd: Int64) throws -> FetchedTOC {
        guard let tag else {
            throw MergeError(
                .badImage,
                "layer \(descriptor.digest) has its table of contents in another image, which is found by the tag: "
                    + "pull this one by a tag")
        }
        let other = tag + "-esgztoc"
        let bytes: ManifestBytes
        do {
            bytes = try source.manifest(.tag(other), shouldStop: shouldStop)
        } catch {
            throw MergeError(
                .badImage,
                "layer \(descriptor.digest) has its table of contents in the image '\(other)', which cannot be had",
                cause: error)
        }
        let document = try ImageDocument(parsing: bytes.bytes, mediaType: bytes.mediaType, name: other)
        guard case .manifest(let manifest) = document else {
            throw MergeError(.badImage, "the image '\(other)' is an index, and no image of tables of contents")
        }
        let layer = manifest.layers.first { $0.annotations[Self.layerAnnotation] == descriptor.digest.description }
        guard let layer else {
            throw MergeError(.badImage, "the image '\(other)' has no table of contents of layer \(descriptor.digest)")
        }
        try checkSize(layer.size, at: 0)
        let share = try takeCompressed(layer.size)
        let blob = try source.blob(layer, limit: Int(Self.memberLimit), shouldStop: shouldStop)
        didFetch(blob.count)
        let toc = compressed(blob, share) { [limits] in try EStargz.extractTOC(fromMember: $0, limits: limits) }
        return try FetchedTOC(toc, format: .estargzExternal, membersEnd: membersEnd)
    }
}
