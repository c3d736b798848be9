import Glibc
import LaminaFilesystem
import LaminaSnapshotter
import LaminaStore
import Logging

/// What `lamina seal` did.
public struct SealResult: Sendable, Codable, Equatable {
    /// The image's name in full.
    public var reference: String
    /// Where the chain's image is.
    public var path: String
    /// The size of that image.
    public var bytes: Int64
    public var inodes: Int64
    /// What this machine cannot do with it, as a sentence.
    public var warning: String?

    public init(reference: String, path: String, bytes: Int64, inodes: Int64, warning: String? = nil) {
        self.reference = reference
        self.path = path
        self.bytes = bytes
        self.inodes = inodes
        self.warning = warning
    }
}

extension Engine {
    /// Seals an image; what is missing of it is pulled first. If all of it is there, no registry is asked.
    ///
    /// - Throws: `StoreError` if EROFS cannot show it.
    public func seal(
        _ reference: String, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> SealResult {
        let image = try image(
            named: reference, platform: platform, plainHTTP: plainHTTP, progress: progress, shouldStop: shouldStop)
        let name = image.reference
        let chain = try sealed(
            try whole(
                image, platform: platform, plainHTTP: plainHTTP, progress: progress, shouldStop: shouldStop))
        var result = SealResult(
            reference: name, path: "\(root)/\(Store.imagePath(of: chain.id))", bytes: chain.bytes, inodes: chain.inodes)
        if case .off(let reason) = seals.ability() {
            result.warning = "sealed images are not mounted on this machine: \(reason)"
        }
        return result
    }

    private func sealed(_ image: ImageRecord) throws -> SealedChain {
        // What has landed is in the index some milliseconds later.
        for _ in 0..<100 {
            if let chain = try seals.seal(image.views) { return chain }
            if try store.index.isComplete(image.views) { continue }
            usleep(20_000)
        }
        throw StoreError(
            .conflict,
            "not all of \(image.reference) is in the store: 'lamina pull \(image.reference)' fetches the rest")
    }

    /// Gets all of an image into the store and its chain sealed, to mount it without a server.
    ///
    /// - Returns: the image, which may differ from the store's if it was pulled.
    /// - Throws: `StoreError` if this machine cannot mount any.
    func sealWhole(
        _ image: ImageRecord, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> ImageRecord {
        if case .off(let reason) = seals.ability() {
            throw StoreError(.conflict, "sealed images are not mounted on this machine: \(reason)")
        }
        let whole = try whole(
            image, platform: platform, plainHTTP: plainHTTP, progress: progress, shouldStop: shouldStop)
        _ = try sealed(whole)
        return whole
    }

    /// The image with all of it in the store: if something had to be fetched, what its reference names now.
    private func whole(
        _ image: ImageRecord, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> ImageRecord {
        guard try !store.index.isComplete(image.views) else { return image }
        _ = try pull(
            image.reference, platform: platform ?? image.platform, plainHTTP: plainHTTP, lazy: false,
            progress: progress, shouldStop: shouldStop)
        let pulled = try store.index.images(named: image.reference)
        return pulled.first { $0.platform == image.platform } ?? image
    }

    /// Mounts a recorded image on its sealed chain again, for a server that starts.
    ///
    /// - Returns: whether it is mounted; false if it cannot be: then it goes through FUSE.
    func restoreSealed(_ mount: MountRecord, _ sealed: SealedID) throws -> Bool {
        do {
            guard let form = try seals.attach(sealed) else { return false }
            try ImageMount.mount(
                sealed: sealed, form: form, root: root, at: mount.target, upper: mount.upper, rights: mount.rights)
            return true
        } catch {
            log.warning(
                "a sealed image cannot be mounted again, and goes by way of FUSE",
                metadata: ["target": "\(mount.target)", "error": "\(error)"])
            return false
        }
    }

    /// Ends the chains' own mounts that nothing uses any more, for a command without a server to do it later.
    func tidySeals() throws {
        // What an ending process had open is closed some milliseconds later; what is in use elsewhere stays.
        for _ in 0..<25 {
            try seals.tidy()
            let answered = try store.index.answeredChains()
            if try store.index.sealedMounts().allSatisfy({ answered.contains($0.sealed) }) { return }
            usleep(20_000)
        }
    }

    /// The recorded targets that need no server.
    func sealedTargets() throws -> Set<String> {
        Set(try store.index.mounts().filter { $0.sealed != nil }.map(\.target))
    }

    /// What the snapshotter asks of sealed chains.
    var sealing: Snapshotter.Sealing {
        var sealing = Snapshotter.Sealing()
        sealing.hold = { [seals] in seals.hold($0)?.id }
        sealing.release = { [seals] in seals.release($0) }
        sealing.attach = { [seals, root] id in
            try seals.attach(id)?.lower(
                directory: "\(root)/\(Store.directoryPath(of: id))", content: "\(root)/\(Store.contentPath)")
        }
        sealing.changed = { [seals] in seals.poke() }
        return sealing
    }
}
