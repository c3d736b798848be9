import CLinux
import Glibc

/// A mount of this mount namespace, as in `/proc/self/mountinfo`; and the calls that make and end mounts.
public struct Mount: Sendable, Equatable {
    /// The ID of the mount, and of the one that it is in. An ID may be reused after an unmount.
    public var id: Int32
    public var parent: Int32
    /// The device number of the file system, as in stat(2).
    public var major: UInt32
    public var minor: UInt32
    /// The directory of the file system that is the root of this mount.
    public var root: String
    /// Where it is mounted, relative to the root of the process.
    public var directory: String
    /// Options of the mount: `ro,nosuid,nodev`.
    public var options: String
    /// `ext4`, `overlay`, `fuse.lamina`.
    public var type: String
    public var source: String
    /// Options of the file system.
    public var filesystemOptions: String

    /// Flags of mount(2).
    public struct Flags: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }

        public static let readOnly = Flags(rawValue: LAMINA_MS_RDONLY)
        public static let noSetUserID = Flags(rawValue: LAMINA_MS_NOSUID)
        public static let noDevices = Flags(rawValue: LAMINA_MS_NODEV)
        public static let noAccessTime = Flags(rawValue: LAMINA_MS_NOATIME)
        public static let bind = Flags(rawValue: LAMINA_MS_BIND)
        /// With `bind`: the flags of one mount are set anew.
        public static let remount = Flags(rawValue: LAMINA_MS_REMOUNT)
    }

    /// mount(2).
    ///
    /// - Parameter data: options of the file system, separated by commas; at most 4,095 bytes.
    public static func mount(
        type: String, source: String, at directory: String, flags: Flags = [], data: String = ""
    ) throws(SystemError) {
        guard lamina_mount(source, directory, type, flags.rawValue, data) == 0 else {
            throw SystemError.last("mount \(type) at", directory)
        }
    }

    /// umount2(2): ends the topmost mount at `directory`. EBUSY while something is open in it, unless `detach` is set.
    ///
    /// - Parameters:
    ///   - detach: takes it out of the tree of directories now, and ends it when its last file is closed.
    ///   - force: a file system that can (FUSE, NFS) gives up the requests in flight first; FUSE ends its connection.
    public static func unmount(_ directory: String, detach: Bool = false, force: Bool = false) throws(SystemError) {
        let flags = (detach ? LAMINA_MNT_DETACH : 0) | (force ? Int32(MNT_FORCE) : 0)
        guard lamina_umount(directory, flags) == 0 else { throw SystemError.last("unmount", directory) }
    }

    /// The mounts that this process sees, in the order of mounting: if several are at one directory, the last is on top.
    public static func all() throws(SystemError) -> [Mount] {
        parse(try readFile("/proc/self/mountinfo", limit: 64 << 20))
    }

    /// Reads the lines of mountinfo (proc_pid_mountinfo(5)); malformed lines are left out.
    public static func parse(_ mountinfo: [UInt8]) -> [Mount] {
        mountinfo.split(separator: UInt8(ascii: "\n")).compactMap { Mount(line: $0) }
    }

    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, with any number of optional
    /// fields before the dash.
    private init?(line: ArraySlice<UInt8>) {
        let fields = line.split(separator: UInt8(ascii: " "))
        guard let dash = fields.dropFirst(6).firstIndex(where: { $0.elementsEqual([UInt8(ascii: "-")]) }),
            fields.count >= dash + 3,
            let id = Int32(Self.text(fields[0])), let parent = Int32(Self.text(fields[1]))
        else { return nil }
        let device = Self.text(fields[2]).split(separator: ":")
        guard device.count == 2, let major = UInt32(device[0]), let minor = UInt32(device[1]) else { return nil }
        self.id = id
        self.parent = parent
        self.major = major
        self.minor = minor
        root = Self.text(fields[3])
        directory = Self.text(fields[4])
        options = Self.text(fields[5])
        type = Self.text(fields[dash + 1])
        source = Self.text(fields[dash + 2])
        filesystemOptions = fields.count > dash + 3 ? Self.text(fields[dash + 3]) : ""
    }

    /// Undoes the kernel's escapes: a space, tab, newline, backslash (and `#` at the start) are `\040` and the like.
    private static func text(_ field: ArraySlice<UInt8>) -> String {
        guard field.contains(UInt8(ascii: "\\")) else { return String(decoding: field, as: UTF8.self) }
        var bytes: [UInt8] = []
        var rest = field
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3, digits.allSatisfy({ (0x30...0x37).contains($0) }) {
                bytes.append(UInt8(truncatingIfNeeded: digits.reduce(0) { $0 << 3 | Int($1 - 0x30) }))
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
