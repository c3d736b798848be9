import Glibc
import LaminaDigest
import LaminaFilesystem
import LaminaMerge
import LaminaOCI
public import LaminaStore
import LaminaSystem
import Logging

extension Engine {
    /// Mounts an image; if the store does not have it, it is pulled lazily first.
    ///
    /// An image that the store has is mounted without asking its registry.
    ///
    /// - Parameters:
    ///   - target: an existing directory, absolute.
    ///   - upper: takes the writes; without it the mount is read-only.
    ///   - sealed: insists on a mount that needs no server, and so on all of the image; without it such a mount is made where `[seal] mode` is "auto" and the chain is sealed.
    ///   - rights: what of an image's set-user-ID programs and device files works in it.
    ///   - progress: told of each step of a pull; layers without a table of contents take their time.
    public func mount(
        _ reference: String, at target: String, upper: String?, platform: String?, plainHTTP: Bool,
        sealed: Bool = false, rights: MountRights = MountRights(),
        progress: @escaping @Sendable (PullProgress) -> Void = { _ in },
        shouldStop: @escaping @Sendable () -> Bool
    ) throws -> MountResult {
        var image = try self.image(
            named: reference, platform: platform, plainHTTP: plainHTTP, progress: progress, shouldStop: shouldStop)
        try requireProofs(of: image)
        let target = try realPath(target)
        if sealed {
            image = try sealWhole(
                image, platform: platform, plainHTTP: plainHTTP, progress: progress, shouldStop: shouldStop)
        }
        return try mounting.withLock { [image] _ in
            let chain = sealed || seals.isAutomatic ? seals.hold(image.views) : nil
            defer { chain.map { seals.release($0.id) } }
            if sealed, chain == nil {
                throw StoreError(
                    .conflict, "the sealed image of \(image.reference) cannot be mounted: see the server's log")
            }
            if chain == nil { try attachFilesystem() }
            if try activeTargets().contains(target) {
                throw StoreError(.conflict, "\(target) has an image of lamina on it already; unmount it first")
            }
            // Recorded first: of a process that is killed in between a record is left, which the next one forgets, and not a
            // mount that nobody knows of.
            try store.addMount(
                target: target, image: image.id, upper: upper, views: image.views, sealed: chain?.id, rights: rights)
            do {
                if let chain {
                    try ImageMount.mount(
                        sealed: chain.id, form: chain.form, root: root, at: target, upper: upper, rights: rights)
                } else {
                    try ImageMount.mount(image.views, root: root, at: target, upper: upper, rights: rights)
                }
            } catch {
                try? store.removeMount(target: target)
                throw error
            }
            log.info(
                "an image is mounted",
                metadata: [
                    "image": "\(image.reference)", "target": "\(target)", "way": "\(chain == nil ? "fuse" : "sealed")",
                ])
            return MountResult(
                target: target, reference: image.reference, writable: upper, layers: image.layers.count,
                sealed: chain != nil,
                warning: platform == nil ? foreignness(of: image) : nil)
        }
    }

    /// Refuses an image of which less is proven than `[store] require` demands.
    func requireProofs(of image: ImageRecord) throws {
        try refuseQuarantined(image.views, of: image.reference)
        guard configuration.store.require == .diffID else { return }
        for layer in image.layers {
            let ledger = try store.index.ledger(of: layer)
            switch ledger.diffIDState {
            case .proven: continue
            case .mismatch, .unpadded:
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

    /// Refuses to mount what is served no more.
    private func refuseQuarantined(_ views: [ViewID], of reference: String) throws {
        guard let found = try store.index.quarantine(of: views).first else { return }
        throw MergeError(.badImage, "layer \(found.digest) of \(reference) is in quarantine: \(found.reason)")
    }

    /// The images that are mounted now. Forgets those that were unmounted with umount(8).
    public func activeMounts() throws -> [MountRecord] {
        try mounting.withLock { _ in
            let known = try store.index.mounts()
            var active = try activeTargets()
            // Forgetting a mount cannot be undone, so two looks at the table must agree.
            if known.contains(where: { !active.contains($0.target) }) { active.formUnion(try activeTargets()) }
            return try known.filter { mount in
                if active.contains(mount.target) { return true }
                try store.removeMount(target: mount.target)
                return false
            }
        }
    }

    /// Mounts the recorded images again, for a server that starts. An image that cannot be mounted is reported and forgotten.
    func restoreMounts() throws {
        let active = try activeTargets()
        for mount in try store.index.mounts() {
            do {
                // A mount that is still readable is not touched.
                if mount.sealed != nil, active.contains(mount.target) { continue }
                try refuseQuarantined(mount.views, of: mount.reference)
                if let sealed = mount.sealed {
                    if try restoreSealed(mount, sealed) { continue }
                    try store.setWay(of: mount.target, nil)
                }
                try clearStaleMount(at: mount.target)
                // What was mounted before: a pull since may have given the image other layers.
                try ImageMount.mount(
                    mount.views, root: root, at: mount.target, upper: mount.upper, rights: mount.rights)
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

    /// Removes what an ended server left at a place: mounts that no server answers for.
    func clearStaleMount(at target: String) throws {
        while let mount = try Mount.all().last(where: { $0.directory == target }),
            mount.type == "fuse.lamina" || ImageMount.isOwn(mount, root: root)
        {
            log.warning("a mount that an earlier server left is taken away", metadata: ["target": "\(target)"])
            // Forced: if its connection is still held, calls that wait for an answer must not wait for ever.
            try Mount.unmount(target, detach: true, force: mount.type == "fuse.lamina")
        }
    }

    /// The recorded targets that have an image of this store on them, on top or below something else.
    func activeTargets() throws -> Set<String> {
        let recorded = Set(try store.index.mounts().map(\.target))
        return Set(
            try Mount.all().filter { ImageMount.isOwn($0, root: root) && recorded.contains($0.directory) }
                .map(\.directory))
    }

    /// The path as in the kernel's mount table, without links.
    func realPath(_ path: String) throws -> String {
        guard let resolved = realpath(path, nil) else {
            let error = SystemError.last("find", path)
            throw StoreError(.system(error.code), "\(path) is no directory to mount at: make it first", cause: error)
        }
        defer { free(resolved) }
        return String(cString: resolved)
    }
}
