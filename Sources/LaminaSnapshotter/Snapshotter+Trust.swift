import LaminaDigest
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem
import Logging

// What chains are made of. A chain ID is the digest of tars that were not read yet when the first container starts. Until they were
// hashed, only the author of the first image says that a layer is the one of its chain.

extension Snapshotter {
    /// Refuses what stands on a layer that was found to be another one than was said.
    func refuseQuarantined(_ key: SnapshotKey) throws {
        guard let found = try store.index.quarantine(below: key) else { return }
        throw SnapshotError(
            .failedPrecondition,
            "the layer \(found.digest) below is in quarantine: \(found.reason); pull an image that has the right one through lamina's "
                + "image service, and it takes its place")
    }

    /// Whether a layer that stands for a chain is good enough for an image that has the chain, too.
    ///
    /// - Parameter reference: of the image, as far as somebody says it.
    func stands(_ layer: LayerID, for meant: MeantLayer, of reference: String?) throws -> Bool {
        if try meant.isApart(from: store.index.origin(of: layer), isolates: merge.isolates) { return false }
        switch try store.index.chainState(of: layer) {
        case .proven: return true
        case .quarantined: return false
        case .claimed:
            guard !requiresProof(reference ?? "") else { return false }
            return try meant.isSame(as: store.index.ledger(of: layer), of: store.index.origin(of: layer))
        }
    }

    /// What a client says of the layer that it wants.
    ///
    /// - Parameter isBelieved: whether no author of an image has written the labels. Else no repository is believed to be the image's.
    func meant(by offer: LayerOffer, isBelieved: Bool) -> MeantLayer {
        let reference = isBelieved ? offer.reference : nil
        return MeantLayer(
            blob: offer.layer, toc: NamedTOC(digest: offer.toc), origin: reference.flatMap { layers.location(of: $0) })
    }

    /// Whether a layer that stands for a chain by a claim alone says the same as the image's own, so that it makes no difference which of
    /// the two it is.
    func isAlike(_ standing: LayerID, _ own: LayerID, for offer: LayerOffer) throws -> Bool {
        guard !requiresProof(offer.reference ?? ""), try store.index.chainState(of: standing) == .claimed else {
            return false
        }
        if standing == own { return true }
        let image = MeantLayer(origin: try store.index.origin(of: own))
        if try image.isApart(from: store.index.origin(of: standing), isolates: merge.isolates) { return false }
        let (one, other) = try (store.index.ledger(of: standing), store.index.ledger(of: own))
        return one.digest == other.digest && one.diffID == other.diffID && one.format == other.format
            && one.tocDigest != nil && one.tocDigest == other.tocDigest && one.tocChecksum == other.tocChecksum
    }

    /// Reads all of a layer and hashes its tar; blocks until that is done.
    ///
    /// - Throws: `LayerRefusal` where it is another one, or cannot be told.
    func requireProof(of layer: LayerID, _ offer: LayerOffer) throws {
        let state = try merge.proveWhole(layer, shouldStop: { [layers] in layers.hasStopped })
        guard state == .proven else { throw try refusal(of: layer, offer) }
    }

    private func refusal(of layer: LayerID, _ offer: LayerOffer) throws -> LayerRefusal {
        LayerRefusal(
            "its tar is not known to be the one of the chain \(offer.chain): "
                + (try reason(layer) ?? "parts of it were never fetched"))
    }

    /// Lets a layer stand for a chain in place of another layer, once its own tar was hashed. So no image is believed, and the
    /// registry of the other one need not answer.
    func replace(_ offer: LayerOffer, by layer: LayerID, of image: SnapshotImage?) throws {
        guard try isRight(layer),
            try !requiresProof(offer.reference ?? "") || store.index.chainState(of: layer) == .proven
        else { throw try refusal(of: layer, offer) }
        try takePlaces([(offer.chain, layer)], of: image)
    }

    private func reason(_ layer: LayerID) throws -> String? {
        try store.index.quarantine().first { $0.layer == layer }?.reason
    }

    private func takePlaces(_ layers: [(chain: String, layer: LayerID?)], of image: SnapshotImage?) throws {
        let changed = try store.takePlaces(layers, of: image)
        guard changed > 0 else { return }
        viewsChanged()
        sealing.changed()
        log.warning(
            "a layer that was proven has taken the place of another one in its chain",
            metadata: ["image": "\(image?.reference ?? "?")", "snapshots": "\(changed)"])
    }

    /// Sees that the chains of an image are that image's, as far as they are on record: one that is another layer, or in
    /// quarantine, is proven first, or replaced by the image's own layer when that is proven. Where the files of the image's repository are
    /// its own, another repository's layer is replaced also if it is proven.
    ///
    /// Asks the registry for the manifest; of layers only where something differs, and then all of those.
    /// - Throws: `SnapshotError.failedPrecondition` where a chain cannot be told to be the image's.
    public func settle(_ reference: String) throws {
        let layers = try self.layers.image(reference)
        let (image, chains) = try layers.resolved()
        let hold = store.hold(image.resolved.layers.map(\.digest))
        defer { withExtendedLifetime(hold) {} }
        var places: [(chain: String, layer: LayerID?)] = []
        var differs = false
        for (position, chain) in chains.enumerated() {
            places.append((chain, nil))
            for known in try store.index.layers(ofChain: chain) {
                if try isGood(known, position, of: image, reference) { continue }
                differs = true
                let own = try self.own(position, of: image, chain: chain)
                if own != known { places[position].layer = own }
            }
        }
        if differs { try takePlaces(places, of: layers.image) }
    }

    private func isGood(
        _ known: LayerID, _ position: Int, of image: RemoteImage, _ reference: String
    ) throws -> Bool {
        let meant = MeantLayer(
            blob: image.resolved.layers[position].digest, toc: image.namedTOC(position), isOfManifest: true,
            origin: image.location)
        if try stands(known, for: meant, of: reference) { return true }
        // The other image's registry is not asked for this one's sake: it may never answer. So only what is here already can tell.
        guard try store.index.chainState(of: known) == .claimed, try store.index.isWhole(known) else { return false }
        do {
            return try merge.proveFromStore(known) == .proven
        } catch {
            log.debug(
                "a layer cannot be told from what is here", metadata: ["layer": "\(known)", "error": "\(error)"])
            return false
        }
    }

    /// Whether an image's own layer has the tar that the image says, up to zeros that are missing at its end and are no part of what it
    /// unpacks to; fetches and hashes all of it.
    private func isRight(_ layer: LayerID) throws -> Bool {
        if try merge.proveWhole(layer, shouldStop: { [layers] in layers.hasStopped }) == .proven { return true }
        let isUnpadded = try store.index.ledger(of: layer).diffIDState == .unpadded
        return try isUnpadded && store.index.chainState(of: layer) == .claimed
    }

    /// The image's own layer, which is right.
    private func own(_ position: Int, of image: RemoteImage, chain: String) throws -> LayerID {
        let digest = image.resolved.layers[position].digest
        let stop: @Sendable () -> Bool = { [layers] in layers.hasStopped }
        do {
            // Whoever gets plain layers here: containerd has the chain already, and asks for none.
            let own = try image.index(position, plain: .streamed, shouldStop: stop)
            if try isRight(own) { return own }
            if let cause = try reason(own) { throw LayerRefusal(cause) }
            // Its table of contents says other things than its tar does, or nothing can be made of it. What is in its blob is the layer.
            return try image.stream(position, shouldStop: stop)
        } catch {
            throw SnapshotError(
                .failedPrecondition,
                "another image has brought another layer for the chain \(chain), and that \(digest) of \(image.resolved.reference) is the "
                    + "right one cannot be proven: \(error)")
        }
    }
}
