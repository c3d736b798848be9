import Glibc
public import LaminaStore
import LaminaSystem

/// Mounts an image: overlayfs over the directories of its layers, as containerd would.
public enum ImageMount {
    /// Mounts an image's views at `target`.
    ///
    /// - Parameters:
    ///   - views: bottom first.
    ///   - root: the store, whose file system is mounted at `<root>/fs`.
    ///   - upper: takes the writes; without it the mount is read-only. A directory for overlayfs's own use is made beside it.
    /// - Throws: `StoreError` that says what overlayfs refused.
    public static func mount(_ views: [ViewID], root: String, at target: String, upper: String?) throws {
        // Lower directories are numbers relative to <root>/fs, as mount options have one page; top first.
        // Of a layer that an image has twice the upper one does: it adds and hides what the lower one did, and overlayfs
        // refuses one directory at two places (ELOOP).
        var seen: Set<ViewID> = []
        var lower = views.reversed().filter { seen.insert($0).inserted }.map(\.description)
        // overlayfs wants two lower directories where there is no upper one.
        if lower.count + (upper == nil ? 0 : 1) < 2 { lower.append("../empty") }
        var options = "lowerdir=\(lower.joined(separator: ":"))"
        var flags: Mount.Flags = []
        do throws(SystemError) {
            if let upper {
                let work = workDirectory(of: upper)
                try createDirectories(upper)
                try createDirectories(work, mode: 0o700)
                options += ",upperdir=\(escaped(upper)),workdir=\(escaped(work)),index=off"
            } else {
                flags.insert(.readOnly)
            }
            try Mount.mount(
                type: "overlay", source: "lamina", at: target, flags: flags, data: options, relativeTo: root + "/fs")
        } catch {
            throw StoreError(
                .system(error.code),
                "cannot mount \(views.count) layers at \(target)" + (upper.map { " with \($0) above them" } ?? ""),
                cause: error)
        }
    }

    /// The directory beside the upper one that overlayfs works in.
    public static func workDirectory(of upper: String) -> String {
        var components = upper.split(separator: "/").map(String.init)
        let name = components.popLast() ?? ""
        return "/" + (components + [".\(name).lamina-work"]).joined(separator: "/")
    }

    /// overlayfs's options are separated by commas, and its directories by colons; a backslash takes the meaning away.
    private static func escaped(_ path: String) -> String {
        path.reduce(into: "") { result, character in
            if character == "," || character == ":" || character == "\\" { result.append("\\") }
            result.append(character)
        }
    }
}
