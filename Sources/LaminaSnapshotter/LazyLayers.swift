import LaminaDigest
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem
import Synchronization

/// The images whose layers clients are asking for, each resolved once.
final class LazyLayers: Sendable {
    private struct Key: Hashable {
        var reference: String
        var manifest: Digest?
    }

    private struct Entry {
        var image: ImageLayers
        var lastUse: ContinuousClock.Instant
    }

    /// How long an image is taken for what its reference means: a pull asks for its layers within seconds.
    private static let lifetime = Duration.seconds(60)

    private let merge: MergeEngine
    private let speaksPlainHTTP: @Sendable (String) -> Bool
    private let entries = Mutex<[Key: Entry]>([:])
    private let isStopping = Flag()

    private final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        var isSet: Bool { value.load(ordering: .relaxed) }
        func set() { value.store(true, ordering: .relaxed) }
    }

    init(merge: MergeEngine, speaksPlainHTTP: @escaping @Sendable (String) -> Bool) {
        self.merge = merge
        self.speaksPlainHTTP = speaksPlainHTTP
    }

    /// How long streams have to end. They look for the stop several times a second, except while they write.
    private static let patience = 10.0

    /// Callers that wait for the network are told that it ends. Waits until nothing works for them any more.
    func stop() {
        isStopping.set()
        for image in entries.withLock({ $0.values.map(\.image) }) { image.waitForEnd(seconds: Self.patience) }
    }

    var hasStopped: Bool { isStopping.isSet }

    /// Has the layer that is offered in the index.
    ///
    /// - Parameters:
    ///   - below: the chain ID of the layer below.
    ///   - plain: what becomes of plain layers.
    ///   - isCancelled: whether nobody waits for the answer any more.
    /// - Returns: the layer, and the image that it is of.
    /// - Throws: `LayerRefusal` where it cannot be lazy, and what the registry's answer was otherwise; `SnapshotError.unavailable` where
    ///   the call is over.
    func layer(
        _ offer: LayerOffer, below: String?, plain: RemoteImage.PlainLayers, isCancelled: () -> Bool
    ) throws -> (LayerID, ImageLayers) {
        guard let reference = offer.reference else {
            throw LayerRefusal(
                "the client does not say what image it is of: it pulls the ordinary way, or passes no annotations "
                    + "(disable_snapshot_annotations)")
        }
        let key = Key(reference: reference, manifest: offer.manifest)
        let image = image(key)
        // It may have taken minutes, and the client asks for the next layer now.
        defer { entries.withLock { $0[key]?.lastUse = .now } }
        do {
            return (try image.layer(offer, below: below, plain: plain, isCancelled: isCancelled), image)
        } catch {
            if error is SnapshotError { throw error }
            // The client gets the layers above elsewhere, too.
            if plain == .streamed { image.abandon() }
            // The next caller asks the registry again.
            if !(error is LayerRefusal), !image.isResolved { forget(key, image) }
            throw error
        }
    }

    /// The repository of an image, as the index names it; nil for what is no image of a registry. Nobody is asked.
    func location(of reference: String) -> String? {
        guard let parsed = try? ImageReference(parsing: reference), case .registry = parsed.place else { return nil }
        return merge.location(of: parsed, plainHTTP: speaksPlainHTTP(reference))
    }

    /// An image of a registry, resolved now or a moment ago.
    func image(_ reference: String) throws -> ImageLayers {
        let key = Key(reference: reference, manifest: nil)
        let image = image(key)
        // One that could not be had is asked for anew the next time.
        if !image.isResolved { forget(key, image) }
        return image
    }

    private func image(_ key: Key) -> ImageLayers {
        let (image, isNew) = entry(key)
        if isNew { image.begin { try resolve(key.reference, key.manifest) } }
        return image
    }

    private func resolve(_ reference: String, _ manifest: Digest?) throws -> RemoteImage {
        var parsed = try ImageReference(parsing: reference)
        guard case .registry = parsed.place else { throw LayerRefusal("'\(reference.prefix(300))' is in no registry") }
        if let manifest { parsed = parsed.with(digest: manifest) }
        return try RemoteImage(
            merge, parsed, plainHTTP: speaksPlainHTTP(reference), shouldStop: { [isStopping] in isStopping.isSet })
    }

    private func entry(_ key: Key) -> (ImageLayers, isNew: Bool) {
        entries.withLock { entries in
            let now = ContinuousClock.now
            entries = entries.filter { now - $0.value.lastUse < Self.lifetime || $0.value.image.isBusy }
            if let known = entries[key] {
                entries[key]?.lastUse = now
                return (known.image, false)
            }
            let image = ImageLayers(shouldStop: { [isStopping] in isStopping.isSet })
            entries[key] = Entry(image: image, lastUse: now)
            return (image, true)
        }
    }

    private func forget(_ key: Key, _ image: ImageLayers) {
        entries.withLock { if $0[key]?.image === image { $0[key] = nil } }
    }
}
