import Glibc
public import LaminaStore
public import LaminaSystem

/// Mounts an image: overlayfs over the directories of its layers, as containerd would.
public enum ImageMount {
    /// What the mount table shows as the source of an image's mount: it names the store, because two stores may mount at one
    /// place.
    public static func source(root: String) -> String { "lamina:\(root)" }

    /// Whether a mount is an image of this store. An earlier lamina did not say which store.
    public static func isOwn(_ mount: Mount, root: String) -> Bool {
        mount.type == "overlay"
            && (mount.source == source(root: root) || mount.source == "lamina" || isSealed(mount, root: root))
    }

    /// The views that a mount of this store is made of, from its options.
    public static func views(of mount: Mount, root: String) -> [ViewID] {
        guard isOwn(mount, root: root) else { return [] }
        let lower = mount.filesystemOptions.split(separator: ",").filter { $0.hasPrefix("lowerdir") }
        return lower.flatMap { option in
            option.drop { $0 != "=" }.dropFirst().split(separator: ":").compactMap { Int64($0) }.map { ViewID($0) }
        }
    }

    /// How many lower directories overlayfs takes (OVL_MAX_STACK in fs/overlayfs/params.h).
    static let lowerLimit = 500
    /// mount(2) takes one page of options, and silently cuts off what is longer.
    static let optionLimit = 4095

    /// Mounts an image's views at `target`.
    ///
    /// - Parameters:
    ///   - views: bottom first.
    ///   - root: the store, whose file system is mounted at `<root>/fs`.
    ///   - upper: takes the writes; without it the mount is read-only. A directory for overlayfs's own use is made beside it.
    ///   - rights: what it allows.
    /// - Throws: `StoreError` that says what overlayfs refused.
    public static func mount(
        _ views: [ViewID], root: String, at target: String, upper: String?, rights: MountRights = MountRights()
    ) throws {
        // Lower directories are numbers relative to <root>/fs, as mount options have one page; top first.
        // Of a layer that an image has twice the upper one does: it adds and hides what the lower one did, and overlayfs
        // refuses one directory at two places (ELOOP).
        var seen: Set<ViewID> = []
        var lower = views.reversed().filter { seen.insert($0).inserted }.map(\.description)
        guard lower.count <= lowerLimit else {
            throw StoreError(
                .conflict,
                "the image has \(lower.count) layers, and overlayfs takes \(lowerLimit) at most: have it built with fewer"
            )
        }
        let hasLayers = !lower.isEmpty
        // overlayfs wants two lower directories without an upper one, and one lower directory with it. The second one must be
        // on the layers' file system: otherwise a file's device number would not be its directory's, and `find -xdev` and
        // similar programs would skip it.
        if upper == nil {
            if lower.count < 2 { lower.append(LayerFilesystem.emptyName) }
            if lower.count < 2 { lower.append("../empty") }
        } else if !hasLayers {
            lower.append("../empty")
        }
        var options = "lowerdir=\(lower.joined(separator: ":"))"
        var flags = flags(rights)
        do throws(SystemError) {
            if let upper {
                let work = workDirectory(of: upper)
                try makeUpper(upper)
                try createDirectories(work, mode: 0o700)
                options += ",upperdir=\(escaped(upper)),workdir=\(escaped(work)),index=off"
                // The upper directory is on another file system. With xino there is still one device number, and listings have
                // the inode numbers of stat(2). The layers' numbers are small enough to leave room for it.
                if hasLayers { options += ",xino=on" }
            } else {
                flags.insert(.readOnly)
                // No layer redirects (docs/decisions/006-trusted-attributes.md). If overlayfs need not ask for redirects, it
                // also does not ask whether a directory is opaque if no layer below has a directory of that name.
                options += ",redirect_dir=nofollow"
            }
            guard options.utf8.count <= optionLimit else {
                throw SystemError(
                    code: E2BIG, operation: "give mount(2) \(options.utf8.count) bytes of options for", subject: target)
            }
            try Mount.mount(
                type: "overlay", source: source(root: root), at: target, flags: flags, data: options,
                relativeTo: root + "/fs")
        } catch {
            throw StoreError(
                .system(error.code),
                "cannot mount \(views.count) layers at \(target)" + (upper.map { " with \($0) above them" } ?? ""),
                cause: error)
        }
    }

    /// The flags of a mount at a directory of the host, beside those of the file system.
    static func flags(_ rights: MountRights) -> Mount.Flags {
        var flags: Mount.Flags = []
        if !rights.setUserID { flags.insert(.noSetUserID) }
        if !rights.devices { flags.insert(.noDevices) }
        return flags
    }

    /// Makes the upper directory where it is missing. Its mode is that of the mount's root, which everybody may enter.
    static func makeUpper(_ upper: String) throws(SystemError) {
        let isNew = access(upper, F_OK) != 0
        try createDirectories(upper)
        // Not by the process's mask.
        guard !isNew || chmod(upper, 0o755) == 0 else { throw SystemError.last("change the mode of", upper) }
    }

    /// The directory beside the upper one that overlayfs works in.
    public static func workDirectory(of upper: String) -> String {
        var components = upper.split(separator: "/").map(String.init)
        let name = components.popLast() ?? ""
        return "/" + (components + [".\(name).lamina-work"]).joined(separator: "/")
    }

    /// Commas separate overlayfs's options, and colons its directories; a backslash escapes them.
    static func escaped(_ path: String) -> String {
        path.reduce(into: "") { result, character in
            if character == "," || character == ":" || character == "\\" { result.append("\\") }
            result.append(character)
        }
    }
}
