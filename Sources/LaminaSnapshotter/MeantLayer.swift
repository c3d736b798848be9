import LaminaDigest
import LaminaStore

/// The layer that an image means, as far as that is known before anything of it is fetched. It is held against a layer that stands for
/// the image's chain already, and that another image may have brought.
struct MeantLayer: Sendable, Equatable {
    /// Its blob; nil where nobody says it.
    var blob: Digest?
    /// The table of contents that the image names for it.
    var toc = NamedTOC()
    /// Whether `toc` is all that the manifest says. A client's labels have only the digest of an eStargz layer.
    var isOfManifest = false
    /// The repository that the image is of; nil where nobody says it who is believed.
    var origin: String?

    /// Whether a layer of the index is this one.
    ///
    /// A table of contents that nobody has held against the blob is a claim of the image that brought it. It holds for an image that
    /// makes the same claim, and for no other one: one that makes none means what is in the blob.
    /// - Parameter origin: the repository of that layer.
    func isSame(as layer: LayerLedger, of origin: String?) -> Bool {
        guard let blob, blob == layer.digest else { return false }
        // It was made of the blob itself while that was hashed: it is what its digest says, whatever anybody claims.
        if layer.tocProof == .whole { return true }
        if !toc.isEmpty { return toc.isOf(layer) }
        if layer.tocProof == .blob { return true }
        // What the manifest says is not known: only that it is of the same repository.
        return !isOfManifest && origin != nil && origin == self.origin
    }

    /// Whether a layer of a repository is kept from this image however well it is proven: the files of one of the two are its
    /// repository's alone.
    func isApart(from origin: String?, isolates: (String) -> Bool) -> Bool {
        guard origin != self.origin else { return false }
        for repository in [origin, self.origin] {
            if let repository, isolates(repository) { return true }
        }
        return false
    }
}
