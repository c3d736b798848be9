import CLinux
import Glibc

/// What the kernel says about a directory's file system.
public struct FilesystemFacts: Sendable, Equatable {
    /// `f_type` of statfs(2): the magic number in linux/magic.h.
    public var magic: Int
    /// Whether files can share blocks (FICLONE), as on XFS and btrfs; tried with two unlinked files. nil if that cannot be
    /// tried.
    public var sharesBlocks: Bool?
    /// Bytes that this user may still write.
    public var freeBytes: Int64
    /// Inodes that are left; nil if the file system has no fixed number.
    public var freeInodes: Int64?

    public init(magic: Int, sharesBlocks: Bool?, freeBytes: Int64, freeInodes: Int64?) {
        self.magic = magic
        self.sharesBlocks = sharesBlocks
        self.freeBytes = freeBytes
        self.freeInodes = freeInodes
    }

    /// Asks about an existing directory.
    public init(ofDirectory path: String) throws(SystemError) {
        let directory = try File(path, O_RDONLY | O_DIRECTORY)
        var statistics = statvfs()
        guard fstatvfs(directory.descriptor, &statistics) == 0 else { throw SystemError.last("statfs", path) }
        let clone = lamina_supports_clone(directory.descriptor)
        let (bytes, overflow) = UInt64(statistics.f_bavail).multipliedReportingOverflow(by: UInt64(statistics.f_frsize))
        self.init(
            magic: lamina_filesystem_type(path), sharesBlocks: clone < 0 ? nil : clone == 1,
            freeBytes: overflow ? .max : Int64(clamping: bytes),
            freeInodes: statistics.f_files == 0 ? nil : Int64(clamping: statistics.f_favail))
    }

    /// Bytes of a directory's file system: all, and those that this user may still write.
    public static func space(ofDirectory path: String) throws(SystemError) -> (total: Int64, free: Int64) {
        var statistics = Glibc.statvfs()
        guard statvfs(path, &statistics) == 0 else { throw SystemError.last("statfs", path) }
        func bytes(_ blocks: UInt64) -> Int64 {
            let (bytes, overflow) = blocks.multipliedReportingOverflow(by: UInt64(statistics.f_frsize))
            return overflow ? .max : Int64(clamping: bytes)
        }
        return (bytes(UInt64(statistics.f_blocks)), bytes(UInt64(statistics.f_bavail)))
    }

    /// The name of the type if lamina knows it, else the number.
    public var typeName: String {
        switch magic {
        case 0xEF53: "ext4"
        case 0x5846_5342: "XFS"
        case 0x9123_683E: "btrfs"
        case 0x0102_1994: "tmpfs"
        case 0x2FC1_2FC1: "ZFS"
        case 0xF2F5_2010: "F2FS"
        case 0xCA45_1A4E: "bcachefs"
        case 0x6969: "NFS"
        case 0xFF53_4D42, 0xFE53_4D42: "SMB"
        case Self.overlay: "overlayfs"
        case Self.fuse: "FUSE"
        case 0xF15F: "eCryptfs"
        default: "type 0x" + String(magic, radix: 16)
        }
    }

    private static let overlay = 0x794C_7630
    private static let fuse = 0x6573_5546

    /// Whether the file system is stacked on another, or served by a process: the kernel then refuses it as the backing of
    /// passthrough, because the overlay above uses up the allowed depth of two.
    public var isStacked: Bool { magic == Self.overlay || magic == Self.fuse || magic == 0xF15F }
}

extension Capability {
    /// CAP_SYS_ADMIN, which mounting and passthrough need.
    public static var hasSystemAdministration: Bool { lamina_has_capability(LAMINA_CAP_SYS_ADMIN) == 1 }
}

/// Rights of this thread beyond those of its user (capabilities(7)).
public enum Capability {}
