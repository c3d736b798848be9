import LaminaDigest
import LaminaSystem

/// Mounts that stand upon the image store's layers: also those of containers whose graph root nobody told lamina of.
enum LayerMounts {
    /// - Parameter proc: where the kernel shows its processes.
    /// - Throws: `PodmanError.unreadable` where not all tables of mounts can be read.
    static func uses(of layers: some Sequence<Digest>, proc: String = "/proc") throws(PodmanError) -> [PodmanUse] {
        let byLink = Dictionary(layers.map { (StorageNames.link($0), $0) }, uniquingKeysWith: { first, _ in first })
        if byLink.isEmpty { return [] }
        let mounts: [(user: MountUser, mount: Mount)]
        do throws(SystemError) {
            mounts = try Mount.inAnyNamespace(proc: proc) { mount in
                mount.type == "overlay" && links(in: mount.filesystemOptions).contains { byLink[$0] != nil }
            }
        } catch {
            throw PodmanError.unreadable(proc, "\(error)")
        }
        return mounts.flatMap { user, mount in
            links(in: mount.filesystemOptions).compactMap { byLink[$0] }.map { layer in
                PodmanUse(
                    kind: .mount, name: mount.directory, place: "\(mount.directory), seen by \(user)", layer: layer)
            }
        }
    }

    /// What has the form of a layer's short name, in a mount's options. By what path podman comes to the directory is its own affair:
    /// storage.conf may name it by a symbolic link, and a path may have any character.
    static func links(in options: String) -> [String] {
        options.utf8.split { !StorageNames.isOfLink($0) }.filter { $0.count == StorageNames.linkLength }
            .map { String(decoding: $0, as: UTF8.self) }
    }
}
