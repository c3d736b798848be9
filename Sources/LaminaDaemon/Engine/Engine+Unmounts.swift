import Glibc
import LaminaFilesystem
import LaminaStore
import LaminaSystem
import Logging

// How the mounts of images end. Only mounts of this store are taken down: the mount table says which store a mount belongs to.

extension Engine {
    /// Unmounts an image.
    ///
    /// - Throws: `StoreError.notFound` if no image of this store is mounted there, `.conflict` if it is in use, or something
    ///   else is mounted over it.
    public func unmount(_ target: String) throws { try unmount(target, isAlone: false) }

    /// - Parameter isAlone: no server runs, so the mount may have been made from another mount namespace than this process is in.
    func unmount(_ target: String, isAlone: Bool) throws {
        let target = (try? realPath(target)) ?? target
        try mounting.withLock { _ in
            guard try store.index.mounts().contains(where: { $0.target == target }) else {
                throw StoreError(.notFound, "no image of the store \(root) is mounted at \(target)")
            }
            recordUses()
            let mounts = try Mount.all()
            if let own = ownMount(at: target, among: mounts) {
                if let above = cover(of: own, among: mounts) {
                    throw StoreError(
                        .conflict,
                        "\(target) is hidden by another mount, of \(Self.name(above)) at \(above.directory): unmount that first"
                    )
                }
                do throws(SystemError) {
                    try Mount.unmount(target)
                } catch  where error.code == EBUSY {
                    throw StoreError(.conflict, busy(own))
                } catch {
                    throw StoreError(.system(error.code), "cannot unmount \(target)", cause: error)
                }
            } else if isAlone, let elsewhere = try mountElsewhere(target) {
                throw StoreError(
                    .conflict,
                    "\(target) is mounted in another mount namespace, that of \(elsewhere): "
                        + "'nsenter --mount --target \(elsewhere.process) lamina umount \(target)' ends it there")
            }
            try store.removeMount(target: target)
        }
        seals.poke()
    }

    /// A process that sees a mount of this store at a place, in another mount namespace.
    private func mountElsewhere(_ target: String) throws -> MountUser? {
        try Mount.inAnyNamespace { $0.directory == target && ImageMount.isOwn($0, root: root) }.first?.user
    }

    /// The mount of an image of this store at a place; if there are several, the last.
    private func ownMount(at target: String, among mounts: [Mount]) -> Mount? {
        mounts.last { $0.directory == target && ImageMount.isOwn($0, root: root) }
    }

    /// What hides a mount from its path: umount2 would take that instead. nil if nothing does.
    private func cover(of own: Mount, among mounts: [Mount]) -> Mount? {
        if let reached = Mount.reached(by: own.directory, among: mounts) { return reached.id == own.id ? nil : reached }
        // The path does not lead to it any more: something further up is in the way.
        var around: Set<Int32> = []
        var place: Mount? = own
        while let mount = place, around.insert(mount.id).inserted {
            place = mounts.first { $0.id == mount.parent }
        }
        return mounts.last { !around.contains($0.id) && own.directory.hasPrefix($0.directory + "/") }
    }

    /// A mount as a user knows it: `tmpfs`, or its type and its source.
    private static func name(_ mount: Mount) -> String {
        mount.source.isEmpty || mount.source == mount.type ? mount.type : "\(mount.type) (\(mount.source))"
    }

    /// How many of the processes that keep a mount busy are named.
    private static let nameLimit = 5

    /// Why a mount is busy: what is mounted in it, or the processes that use it.
    private func busy(_ own: Mount) -> String {
        let inner = ((try? Mount.all()) ?? []).filter { $0.parent == own.id && $0.id != own.id }
        if !inner.isEmpty {
            let names = inner.prefix(Self.nameLimit).map { "\($0.directory) (\(Self.name($0)))" }.joined(
                separator: ", ")
            return
                "\(own.directory) is in use: in it \(inner.count == 1 ? "is" : "are") mounted \(names); unmount that first"
        }
        let users = own.users()
        guard !users.isEmpty else {
            return
                "\(own.directory) is in use, by no process that can be seen from here: a loop device, perhaps, or swap"
        }
        let more = users.count > Self.nameLimit ? " and \(users.count - Self.nameLimit) more" : ""
        return
            "\(own.directory) is in use by \(users.prefix(Self.nameLimit).map(\.description).joined(separator: ", "))\(more): "
            + "end \(users.count == 1 ? "it" : "them") first"
    }

    func unmountAll() {
        mounting.withLock { _ in
            do {
                // The last first, because one may be mounted in another. Those that need no server stay.
                let sealed = try sealedTargets()
                for mount in try Mount.all().reversed()
                where try !sealed.contains(mount.directory) && activeTargets().contains(mount.directory) {
                    guard ImageMount.isOwn(mount, root: root) else { continue }
                    end(mount)
                }
            } catch {
                log.error("cannot unmount the images", metadata: ["error": "\(error)"])
            }
        }
    }

    private func end(_ mount: Mount) {
        if let above = (try? Mount.all()).flatMap({ cover(of: mount, among: $0) }) {
            return log.warning(
                "an image stays mounted, as another mount hides it; its files end",
                metadata: ["target": "\(mount.directory)", "hidden by": "\(Self.name(above)) at \(above.directory)"])
        }
        do throws(SystemError) {
            try Mount.unmount(mount.directory)
        } catch {
            log.warning(
                "an image is still in use; its files end with the processes that have them open",
                metadata: ["target": "\(mount.directory)", "why": "\(busy(mount))"])
            try? Mount.unmount(mount.directory, detach: true)
        }
    }
}
