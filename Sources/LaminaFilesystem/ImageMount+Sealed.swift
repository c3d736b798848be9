public import LaminaStore
import LaminaSystem

// Images on sealed chains: the chain's own mount, at <root>/sealed/<id>, is shown at another place, or is below an upper
// directory.

extension ImageMount {
    /// What the mount table shows as the source of a sealed chain, also when the chain is shown as an image.
    public static func sealedSource(root: String) -> String { "lamina-sealed:\(root)" }

    /// Whether a mount is a sealed chain of this store that is shown as an image, and not the chain's own mount.
    static func isSealed(_ mount: Mount, root: String) -> Bool {
        mount.source == sealedSource(root: root) && !mount.directory.hasPrefix("\(root)/sealed/")
    }

    /// Mounts a sealed chain as an image. The chain itself must be mounted.
    ///
    /// - Parameter upper: takes the writes; without it the mount is read-only.
    /// - Throws: `StoreError` that says what the kernel refused.
    public static func mount(sealed id: SealedID, root: String, at target: String, upper: String?) throws {
        let directory = Store.directoryPath(of: id)
        do throws(SystemError) {
            guard let upper else {
                return try Mount.mount(type: "none", source: "\(root)/\(directory)", at: target, flags: .bind)
            }
            let work = workDirectory(of: upper)
            try createDirectories(upper)
            try createDirectories(work, mode: 0o700)
            try Mount.mount(
                type: "overlay", source: source(root: root), at: target,
                data: "lowerdir=\(directory),upperdir=\(escaped(upper)),workdir=\(escaped(work)),index=off,xino=on",
                relativeTo: root)
        } catch {
            throw StoreError(
                .system(error.code),
                "cannot mount a sealed image at \(target)" + (upper.map { " with \($0) above it" } ?? ""), cause: error)
        }
    }
}
