public import LaminaSeal
public import LaminaStore
import LaminaSystem

// Images on sealed chains, which have a mount of their own at <root>/sealed/<id>: an overlay above it, or, where that is an overlay
// already and nothing is to be written, the same in another place.

extension ImageMount {
    /// What the mount table shows as the source of a sealed chain, also when the chain is shown as an image.
    public static func sealedSource(root: String) -> String { "lamina-sealed:\(root)" }

    /// Whether a mount is a sealed chain of this store that is shown as an image, and not the chain's own mount.
    static func isSealed(_ mount: Mount, root: String) -> Bool {
        mount.source == sealedSource(root: root) && !mount.directory.hasPrefix("\(root)/sealed/")
    }

    /// Mounts a sealed chain as an image. The chain itself must be mounted.
    ///
    /// - Parameters:
    ///   - form: what the chain's own mount is.
    ///   - upper: takes the writes; without it the mount is read-only.
    ///   - rights: what it allows.
    /// - Throws: `StoreError` that says what the kernel refused.
    public static func mount(
        sealed id: SealedID, form: SealedMount.Form, root: String, at target: String, upper: String?,
        rights: MountRights
    ) throws {
        let directory = Store.directoryPath(of: id)
        let lower = form.lower(directory: directory, content: Store.contentPath)
        do throws(SystemError) {
            guard let upper else {
                if form == .overlay { return try show("\(root)/\(directory)", at: target, rights) }
                return try Mount.mount(
                    type: "overlay", source: sealedSource(root: root), at: target,
                    flags: flags(rights).union(.readOnly), data: "lowerdir=\(lower)", relativeTo: root)
            }
            let work = workDirectory(of: upper)
            try makeUpper(upper)
            try createDirectories(work, mode: 0o700)
            try Mount.mount(
                type: "overlay", source: source(root: root), at: target, flags: flags(rights),
                data: "lowerdir=\(lower),upperdir=\(escaped(upper)),workdir=\(escaped(work)),index=off,xino=on",
                relativeTo: root)
        } catch {
            throw StoreError(
                .system(error.code),
                "cannot mount a sealed image at \(target)" + (upper.map { " with \($0) above it" } ?? ""), cause: error)
        }
    }

    /// Shows a chain's own mount in another place. mount(2) gives a bind mount the flags of its source; its own come with a second
    /// call. The chain's own mount allows nothing, so there is no moment at which this one allows what was not asked for.
    private static func show(_ directory: String, at target: String, _ rights: MountRights) throws(SystemError) {
        try Mount.mount(type: "none", source: directory, at: target, flags: .bind)
        do throws(SystemError) {
            try Mount.mount(
                type: "none", source: "none", at: target,
                flags: flags(rights).union([.bind, .remount, .readOnly]))
        } catch {
            try? Mount.unmount(target, detach: true)
            throw error
        }
    }
}
