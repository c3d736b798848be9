import LaminaMerge
import LaminaOCI
import LaminaPodman
import LaminaStore
import LaminaSystem
import Logging

extension Configuration {
    /// Whether podman is shown an image's layers by diff IDs that only its author says.
    func believesForPodman(_ reference: String) -> Bool {
        let policy = RepositoryPolicy(
            standard: podman.ids == .claimed, yes: podman.claimedRepositories, no: podman.provenRepositories)
        guard let parsed = try? ImageReference(parsing: reference),
            case .registry(let host, let repository) = parsed.place
        else { return false }
        return policy.holds(for: "\(host)/\(repository)")
    }

    /// The image store of a store; nil where none is wanted.
    ///
    /// - Throws: `PodmanError`, `SystemError` for a directory that cannot be one.
    func imageStore(_ store: Store, log: Logger) throws -> PodmanImageStore? {
        guard let directory = podman.images else { return nil }
        var options = PodmanImageStore.Options()
        options.believes = { [self] in believesForPodman($0) }
        options.graphRoots = podman.graphRoots
        try createDirectories(directory, mode: 0o700)
        return try PodmanImageStore(store: store, directory: resolvedPath(directory), options: options) {
            log.warning("\($0)")
        }
    }
}

extension Engine {
    /// Tells what of an image is still to be proven for podman, as far as it is here or the registry has it.
    ///
    /// - Throws: `MergeError` when it is stopped; anything else is logged, as the image itself is pulled.
    func proveForPodman(_ image: ImageRecord, shouldStop: @escaping @Sendable () -> Bool) throws {
        guard podman != nil, PodmanImageStore.canShow(image.reference) else { return }
        var seen: Set<LayerID> = []
        for layer in image.layers where seen.insert(layer).inserted {
            do {
                guard try merge.proveWhole(layer, shouldStop: shouldStop) == .proven else { continue }
                if try !merge.keepTarSplit(of: layer, shouldStop: shouldStop) {
                    log.warning(
                        "podman can run an image and build upon it, and cannot save or push it: a layer's tar cannot be put together again",
                        metadata: ["image": "\(image.reference)", "layer": "\(layer)"])
                }
            } catch {
                if shouldStop() { throw MergeError.stopped }
                log.warning(
                    "a layer cannot be proven for podman just now",
                    metadata: ["image": "\(image.reference)", "error": "\(error)"])
            }
        }
    }

    /// Where podman is to see nothing any more: lets go of what it was shown.
    func releasePodmanLayers() {
        guard configuration.podman.images == nil else { return }
        do {
            guard let reason = try PodmanImageStore.release(store) else { return }
            log.notice("what podman was shown stays in the store", metadata: ["reason": "\(reason)"])
        } catch {
            log.notice("what podman was shown stays in the store", metadata: ["error": "\(error)"])
        }
    }

    /// What a user is told about podman after a pull; nil where there is no image store.
    func podmanRemark(_ reference: String) -> String? {
        guard let podman else { return nil }
        guard let absence = podman.images.absence(of: reference) else { return "podman has it" }
        return "podman does not have it: \(absence)"
    }

    /// Refuses to remove an image that podman has something upon.
    func requireUnused(_ reference: String) throws {
        guard let podman else { return }
        let uses: [PodmanUse]
        do { uses = try podman.images.uses(of: reference) } catch let error as PodmanError {
            throw StoreError(.conflict, "what podman has upon \(reference) cannot be known: \(error)", cause: error)
        }
        guard let first = uses.first else { return }
        let more = uses.count > 1 ? ", and \(uses.count - 1) more" : ""
        let way =
            switch first.kind {
            case .container: "'podman rm \(first.name)' first"
            case .image: "'podman rmi \(first.name)' first"
            case .layer: "'podman system prune' may help"
            case .mount: "unmount it first"
            }
        throw StoreError(.conflict, "\(reference) is used by \(first.text)\(more): \(way)")
    }
}
