import Glibc
import LaminaDigest
import LaminaFilesystem
import LaminaMerge
import LaminaOCI
public import LaminaStore
import LaminaSystem
import Logging

extension Engine {
    /// Mounts an image; one that the store does not know is pulled lazily first.
    ///
    /// An image that the store knows is mounted without a question to its registry.
    ///
    /// - Parameters:
    ///   - target: an existing directory, absolute.
    ///   - upper: takes the writes; without it the mount is read-only.
    ///   - progress: told of each step of a pull; layers without a table of contents take their time.
    public func mount(
        _ reference: String, at target: String, upper: String?, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void = { _ in }, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> MountResult {
        guard isServing else { throw StoreError(.conflict, "the file system \(root)/fs is not mounted") }
        let parsed = try ImageReference(parsing: reference)
        var known = try store.index.image(parsed.description)
        if let platform, let image = known, image.platform != (try Platform(parsing: platform)).description {
            known = nil
        }
        let image: ImageRecord
        if let known {
            image = known
        } else {
            let name = parsed.description
            let pull = ImagePull(merge, shouldStop: shouldStop) { progress(PullProgress($0, reference: name)) }
            image = try counted {
                try pull.index(parsed, platform: try platform.map(Platform.init(parsing:)), plainHTTP: plainHTTP)
            }
            viewsChanged()
        }
        try requireProofs(of: image)
        let target = try realPath(target)
        return try mounting.withLock { _ in
            if try activeTargets().contains(target) {
                throw StoreError(.conflict, "\(target) has an image of lamina on it already; unmount it first")
            }
            // Recorded first: of a process that is killed in between a record is left, which the next one forgets, and not a
            // mount that nobody knows of.
            try store.addMount(target: target, image: image.id, upper: upper, views: image.views)
            do {
                try ImageMount.mount(image.views, root: root, at: target, upper: upper)
            } catch {
                try? store.removeMount(target: target)
                throw error
            }
            log.info("an image is mounted", metadata: ["image": "\(image.reference)", "target": "\(target)"])
            return MountResult(
                target: target, reference: image.reference, writable: upper, layers: image.layers.count)
        }
    }

    /// Refuses an image of which less is proven than `[store] require` wants.
    func requireProofs(of image: ImageRecord) throws {
        guard configuration.store.require == .diffID else { return }
        for layer in image.layers {
            let ledger = try store.index.ledger(of: layer)
            switch ledger.diffIDState {
            case .proven: continue
            case .mismatch:
                throw MergeError(
                    .badImage,
                    "layer \(ledger.digest) of \(image.reference) is not the layer that the image's configuration names: its "
                        + "tar has the digest \(ledger.computedDiffID?.description ?? "?"), not "
                        + "\(ledger.diffID?.description ?? "?"). Have the image built anew, or set [store] require = \"chunks\""
                )
            case .unknown, .notProvable:
                throw StoreError(
                    .conflict,
                    "the diff ID of layer \(ledger.digest) of \(image.reference) is not proven, and [store] require is "
                        + "\"diffid\": 'lamina pull --lazy \(image.reference)' reads the layer and proves it")
            }
        }
    }

    /// Unmounts an image.
    ///
    /// - Throws: `StoreError.notFound` when no image of this store is mounted there, `.conflict` when it is in use.
    public func unmount(_ target: String) throws {
        let target = (try? realPath(target)) ?? target
        try mounting.withLock { _ in
            guard try store.index.mounts().contains(where: { $0.target == target }) else {
                throw StoreError(.notFound, "no image of the store \(root) is mounted at \(target)")
            }
            recordUses()
            if try activeTargets().contains(target) {
                do throws(SystemError) {
                    try Mount.unmount(target)
                } catch  where error.code == EBUSY {
                    throw StoreError(
                        .conflict,
                        "\(target) is in use: end the processes that have files open in it (fuser -m \(target))",
                        cause: error)
                } catch {
                    throw StoreError(.system(error.code), "cannot unmount \(target)", cause: error)
                }
            }
            try store.removeMount(target: target)
        }
    }

    /// The images that are mounted now. Forgets those that somebody unmounted with umount(8).
    public func activeMounts() throws -> [MountRecord] {
        try mounting.withLock { _ in
            let active = try activeTargets()
            return try store.index.mounts().filter { mount in
                if active.contains(mount.target) { return true }
                try store.removeMount(target: mount.target)
                return false
            }
        }
    }

    /// Mounts the recorded images again, for a server that starts. What cannot be mounted is reported and forgotten.
    func restoreMounts() throws {
        for mount in try store.index.mounts() {
            do {
                try clearStaleMount(at: mount.target)
                // What was mounted before: a pull since may have given the image other layers.
                try ImageMount.mount(mount.views, root: root, at: mount.target, upper: mount.upper)
                log.info(
                    "an image is mounted again",
                    metadata: ["image": "\(mount.reference)", "target": "\(mount.target)"])
            } catch {
                log.error(
                    "an image cannot be mounted again",
                    metadata: ["image": "\(mount.reference)", "target": "\(mount.target)", "error": "\(error)"])
                try store.removeMount(target: mount.target)
            }
        }
    }

    /// Takes away what an ended server left at a place: its mounts have nobody behind them.
    func clearStaleMount(at target: String) throws {
        while let mount = try Mount.all().last(where: { $0.directory == target }),
            mount.type == "fuse.lamina" || (mount.type == "overlay" && mount.source == "lamina")
        {
            log.warning("a mount that an earlier server left is taken away", metadata: ["target": "\(target)"])
            // Forced: where somebody still holds its connection, what waits for an answer must not wait for ever.
            try Mount.unmount(target, detach: true, force: mount.type == "fuse.lamina")
        }
    }

    func unmountAll() {
        mounting.withLock { _ in
            do {
                for target in try activeTargets() {
                    do throws(SystemError) {
                        try Mount.unmount(target)
                    } catch {
                        log.warning(
                            "an image is still in use; its files end with the processes that have them open",
                            metadata: ["target": "\(target)"])
                        try? Mount.unmount(target, detach: true)
                    }
                }
            } catch {
                log.error("cannot unmount the images", metadata: ["error": "\(error)"])
            }
        }
    }

    /// The recorded targets that have an overlay of lamina on them.
    func activeTargets() throws -> Set<String> {
        let recorded = Set(try store.index.mounts().map(\.target))
        return Set(
            try Mount.all().filter { $0.type == "overlay" && $0.source == "lamina" && recorded.contains($0.directory) }
                .map(\.directory))
    }

    /// The path as the kernel's mount table shows it, without links.
    private func realPath(_ path: String) throws -> String {
        guard let resolved = realpath(path, nil) else {
            let error = SystemError.last("find", path)
            throw StoreError(.system(error.code), "\(path) is no directory to mount at: make it first", cause: error)
        }
        defer { free(resolved) }
        return String(cString: resolved)
    }
}
