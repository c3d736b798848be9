import Glibc
import LaminaDigest
import LaminaFilesystem
import LaminaMerge
import LaminaOCI
public import LaminaStore
import LaminaSystem
import Logging

// How things leave the store.

/// What `lamina rm` did.
public struct RemoveResult: Sendable, Codable, Equatable {
    /// The image's name in full.
    public var reference: String
    /// What was deleted with it; nil if that was left for `lamina gc`.
    public var garbage: GarbageReport?

    public init(reference: String, garbage: GarbageReport?) {
        self.reference = reference
        self.garbage = garbage
    }
}

/// What `lamina pin` and `lamina unpin` did.
public struct PinResult: Sendable, Codable, Equatable {
    public var reference: String
    public var pinned: Bool

    public init(reference: String, pinned: Bool) {
        self.reference = reference
        self.pinned = pinned
    }
}

extension Engine {
    /// Removes an image from the store, and with it what nothing else holds.
    ///
    /// - Parameter collects: false leaves its layers for `collectGarbage`.
    /// - Throws: `StoreError.notFound`; `.conflict` if it is mounted.
    public func removeImage(_ reference: String, collects: Bool) throws -> RemoveResult {
        let name = try ImageReference(parsing: reference).description
        // A mount that was ended with umount(8) is no reason to refuse.
        if isServing { _ = try activeMounts() }
        try requireUnused(name)
        try mounting.withLock { _ in
            let active = try activeTargets()
            try store.removeImage(name) { active.contains($0) }
        }
        log.info("an image is removed", metadata: ["image": "\(name)"])
        podman?.update()
        return RemoveResult(
            reference: name, garbage: collects ? try collectGarbage(dryRun: false, looksForUnknown: true) : nil)
    }

    /// Deletes what nothing holds, for a caller that asks often, as containerd does at each container's end. Unlike
    /// `collectGarbage` it does not look up each file in the index. Only a killed process leaves files that the index does not
    /// know, so one search in the life of this process finds them; it runs in the background. If there is nothing to delete, it
    /// takes less than a millisecond.
    func collectGarbageOften() throws {
        try store.settleGivenUp()
        if try store.mayHaveGarbage() { _ = try collectGarbage(dryRun: false, looksForUnknown: false) }
        try lookForUnknownFiles()
    }

    /// Once in the life of a process.
    private func lookForUnknownFiles() throws {
        guard !hasLookedForUnknown.exchange(true, ordering: .relaxed) else { return }
        let thread = try Thread("unknown") { [self] in
            do {
                let found = try store.removeUnknownFiles(dryRun: false) { self.isEnding }
                guard found.files > 0 else { return }
                merge.spaceChanged()
                log.info(
                    "files that an earlier process has left are gone",
                    metadata: ["files": "\(found.files)", "bytes": "\(found.bytes)"])
            } catch {
                log.error("files that the index does not know cannot be looked for", metadata: ["error": "\(error)"])
            }
        }
        sweeping.withLock { $0.append(thread) }
    }

    /// Deletes what nothing holds: layers of no image and no mount, contents of no layer, files of no content.
    ///
    /// - Parameter looksForUnknown: whether all files are listed and each is looked up in the index: some 5 µs a file.
    public func collectGarbage(dryRun: Bool, looksForUnknown: Bool) throws -> GarbageReport {
        if isServing { _ = try activeMounts() }
        // Mounts that are not in use any more hold layers until they are looked at.
        if !dryRun {
            try seals.tidy()
            // So does what podman had upon it.
            podman?.update(force: true)
            releasePodmanLayers()
        }
        let filesystem = servingFilesystem
        let hold = store.hold(try layersMountedAnywhere())
        defer { withExtendedLifetime(hold) {} }
        let marked = try store.markGarbage(open: filesystem?.openInodes ?? [], dryRun: dryRun)
        var report = marked.report
        if !dryRun {
            filesystem?.forget(marked)
            let swept = try store.sweep()
            (report.files, report.bytes) = (swept.files, swept.bytes)
        }
        if !dryRun {
            try store.removeUnknownImages()
            try store.removeUnheldTarSplits()
        }
        if looksForUnknown {
            let strays = try store.removeUnknownFiles(dryRun: dryRun)
            report.files += strays.files
            report.bytes += strays.bytes
        }
        if !dryRun {
            merge.spaceChanged()
            log.info(
                "garbage is collected",
                metadata: ["layers": "\(report.layers)", "files": "\(report.files)", "bytes": "\(report.bytes)"])
        }
        return report
    }

    /// Deletes what nothing holds, and files that the index does not know; also what interrupted pulls of containerd's would go on from.
    public func collectGarbage(dryRun: Bool) throws -> GarbageReport {
        if !dryRun {
            snapshotter.withLock { $0 }?.forgetInterruptedPulls()
            // A collection that somebody asks for may wait for podman.
            podman?.update(force: true, patience: PodmanKeeper.lockPatience)
        }
        return try collectGarbage(dryRun: dryRun, looksForUnknown: true)
    }

    /// The layers of images that are mounted in any namespace. The index knows those that are still mounted where lamina
    /// mounted them; an image may be mounted elsewhere after its umount, and be read there.
    private func layersMountedAnywhere() throws -> [Digest] {
        var views: Set<ViewID> = []
        for (_, mount) in try Mount.inAnyNamespace(where: { ImageMount.isOwn($0, root: root) }) {
            views.formUnion(ImageMount.views(of: mount, root: root))
        }
        return try store.index.layers(of: views)
    }

    /// Sets whether an image's files stay, however full the store is.
    ///
    /// - Throws: `StoreError.notFound`.
    public func pin(_ reference: String, _ isPinned: Bool) throws -> PinResult {
        let name = try ImageReference(parsing: reference).description
        try store.setPinned(isPinned, name)
        return PinResult(reference: name, pinned: isPinned)
    }

    /// Unlinks what a killed process had marked.
    func healSweep() throws {
        guard try store.hasMarkedFiles() else { return }
        let thread = try Thread("sweep") { [self] in
            do {
                let swept = try store.sweep { self.isEnding }
                log.info("what an earlier process had begun to delete is gone", metadata: ["files": "\(swept.files)"])
            } catch {
                log.error("garbage cannot be deleted", metadata: ["error": "\(error)"])
            }
        }
        sweeping.withLock { $0.append(thread) }
    }
}
