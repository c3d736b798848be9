import Glibc
public import LaminaSystem

/// Mounts of sealed chains: an EROFS image, which has the names, under an overlay with the directory of the contents as its data-only
/// lower directory, which has the bytes (https://docs.kernel.org/filesystems/overlayfs.html). The kernel needs no server for them.
public enum SealedMount {
    /// What EROFS reads the image from.
    public enum Backing: String, Sendable, Codable {
        /// The file itself: Linux 6.12 and newer.
        case file
        /// A loop device.
        case loop
    }

    /// How a machine does it; `SealTrial` finds out.
    public struct Way: Sendable, Equatable, Codable {
        public var backing: Backing
        /// Whether overlayfs has to be told that it may follow an image to the contents. Newer kernels do so without it.
        public var saysMetacopy: Bool
        /// What stands at the chain's own directory.
        public var form: Form

        public init(backing: Backing, saysMetacopy: Bool, form: Form) {
            (self.backing, self.saysMetacopy, self.form) = (backing, saysMetacopy, form)
        }
    }

    /// What stands at the chain's own directory.
    public enum Form: String, Sendable, Codable {
        /// The image alone. An overlay takes it as a lower directory with the contents beneath: one overlay from the container to the
        /// bytes, which is the fastest way.
        case names
        /// An overlay of the image and the contents. A container's overlay above it is a second one.
        case overlay

        /// The value of `lowerdir` for an overlay above a chain.
        ///
        /// - Parameters:
        ///   - directory: the chain's own directory.
        ///   - content: the directory of the contents.
        public func lower(directory: String, content: String) -> String {
            switch self {
            case .names: "\(directory)::\(content)"
            case .overlay: directory
            }
        }
    }

    /// Where a sealed chain is, relative to one directory: paths in mount options must not hold what separates them.
    public struct Place: Sendable {
        public var base: String
        public var image: String
        public var content: String
        /// An empty directory where the image is mounted for a moment; for one caller at a time.
        public var names: String

        public init(base: String, image: String, content: String, names: String) {
            (self.base, self.image, self.content, self.names) = (base, image, content, names)
        }
    }

    /// Mounts a sealed chain at a directory, in the form of `way`.
    ///
    /// Under an overlay of ours the image's own mount is taken away again: overlayfs keeps what it needs of it.
    ///
    /// No set-user-ID program and no device file works in it, as in the mount of FUSE: an overlay above has flags of its own, and so has
    /// a bind mount of it.
    ///
    /// - Parameter source: what the table of mounts shows for an overlay; for an image that is its file or its loop device.
    /// - Returns: what the kernel calls the image's file system, for `isAlive`.
    public static func mount(
        _ place: Place, at target: String, source: String, way: Way
    ) throws(SystemError) -> String {
        if way.form == .names { return try mountImage(place, at: target, way.backing) }
        let names = "\(place.base)/\(place.names)"
        let device = try mountImage(place, at: names, way.backing)
        defer { try? Mount.unmount(names, detach: true) }
        var options = "lowerdir=" + Form.names.lower(directory: place.names, content: place.content)
        if way.saysMetacopy { options += ",metacopy=on,redirect_dir=follow" }
        try Mount.mount(
            type: "overlay", source: source, at: target, flags: [.readOnly, .noSetUserID, .noDevices], data: options,
            relativeTo: place.base)
        return device
    }

    /// Mounts the image, and finds out what the kernel calls its file system: the name that is new in sysfs. For an image that
    /// is mounted from a file, nothing else tells that name. If another process mounts one at the same moment, it is one of
    /// several new names.
    private static func mountImage(
        _ place: Place, at names: String, _ backing: Backing
    ) throws(SystemError) -> String {
        let image = "\(place.base)/\(place.image)"
        let flags: Mount.Flags = [.readOnly, .noSetUserID, .noDevices]
        for _ in 0..<8 {
            let before = known()
            switch backing {
            case .file:
                try Mount.mount(type: "erofs", source: image, at: names, flags: flags)
            case .loop:
                let device = try LoopDevice(of: File(image, O_RDONLY))
                try Mount.mount(type: "erofs", source: device.path, at: names, flags: flags)
            }
            guard let before, let after = known() else { return unknown }
            let new = after.subtracting(before)
            if !new.isEmpty { return new.sorted().joined(separator: separator) }
            // It has the name of a file system that ended in between.
            try Mount.unmount(names, detach: true)
        }
        throw SystemError(code: EAGAIN, operation: "tell which file system is", subject: image)
    }

    /// What stands at a chain's own directory.
    ///
    /// - Returns: nil for a mount that is neither an image nor an overlay.
    public static func form(of mount: Mount) -> Form? {
        switch mount.type {
        case "erofs": .names
        case "overlay": .overlay
        default: nil
        }
    }

    private static let directory = "/sys/fs/erofs"
    private static let separator = ","
    /// The name on a machine without sysfs.
    private static let unknown = "?"

    private static func known() -> Set<String>? { (try? File.names(inDirectory: directory)).map { Set($0) } }

    /// Whether anything still needs the image that the kernel has by this name: its mount, an overlay above it in any mount
    /// namespace, or an open file. EROFS has a directory for each of its file systems in sysfs, from the first moment to the
    /// last.
    ///
    /// If this cannot be told, or another image has the name meanwhile, the answer is yes: the caller then keeps what it could
    /// have given up.
    public static func isAlive(_ device: String) -> Bool {
        if device == unknown || access(directory, F_OK) != 0 { return true }
        return device.split(separator: separator).contains {
            access("\(directory)/\($0)", F_OK) == 0 || errno != ENOENT
        }
    }
}
