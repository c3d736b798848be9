import Glibc
public import LaminaSystem

/// Mounts of sealed chains: overlayfs over an EROFS image, which has the names, and the directory of the contents, which has
/// the bytes (https://docs.kernel.org/filesystems/overlayfs.html, data-only lower layers). The kernel needs no process for
/// them.
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

        public init(backing: Backing, saysMetacopy: Bool) {
            (self.backing, self.saysMetacopy) = (backing, saysMetacopy)
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

    /// Mounts a sealed chain at a directory.
    ///
    /// The image's own mount is removed again: overlayfs keeps what it needs of it.
    ///
    /// - Parameter source: what the table of mounts shows.
    /// - Returns: what the kernel calls the image's file system, for `isAlive`.
    public static func mount(
        _ place: Place, at target: String, source: String, way: Way
    ) throws(SystemError) -> String {
        let names = "\(place.base)/\(place.names)"
        let device = try mountImage(place, at: names, way.backing)
        defer { try? Mount.unmount(names, detach: true) }
        var options = "lowerdir=\(place.names)::\(place.content)"
        if way.saysMetacopy { options += ",metacopy=on,redirect_dir=follow" }
        try Mount.mount(
            type: "overlay", source: source, at: target, flags: .readOnly, data: options, relativeTo: place.base)
        return device
    }

    /// Mounts the image, and finds out what the kernel calls its file system: the name that is new in sysfs. For an image that
    /// is mounted from a file, nothing else tells that name. If another process mounts one at the same moment, it is one of
    /// several new names.
    private static func mountImage(
        _ place: Place, at names: String, _ backing: Backing
    ) throws(SystemError) -> String {
        let image = "\(place.base)/\(place.image)"
        for _ in 0..<8 {
            let before = known()
            switch backing {
            case .file:
                try Mount.mount(type: "erofs", source: image, at: names, flags: .readOnly)
            case .loop:
                let device = try LoopDevice(of: File(image, O_RDONLY))
                try Mount.mount(type: "erofs", source: device.path, at: names, flags: .readOnly)
            }
            guard let before, let after = known() else { return unknown }
            let new = after.subtracting(before)
            if !new.isEmpty { return new.sorted().joined(separator: separator) }
            // It has the name of a file system that ended in between.
            try Mount.unmount(names, detach: true)
        }
        throw SystemError(code: EAGAIN, operation: "tell which file system is", subject: image)
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
