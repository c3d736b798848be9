import CLinux
import Glibc

/// How much a directory takes on disk with everything below it.
public struct DirectoryUsage: Sendable, Equatable {
    /// Allocated, as `du` counts: a hard link once.
    public var bytes: Int64 = 0
    public var inodes: Int64 = 0
}

/// Whole trees of files; never into another file system, never through a symbolic link. Paths may have any length: each
/// directory is opened in its parent, which takes one descriptor for each level.
public enum DirectoryTree {
    /// How much a tree takes. What disappears during the walk is left out.
    public static func usage(of path: String) throws(SystemError) -> DirectoryUsage {
        let top = try File(path, directoryFlags)
        let status = try top.status()
        var count = Count(device: status.st_dev)
        count.add(status)
        try measure(top, &count)
        return count.usage
    }

    /// Removes a tree; does nothing if it is not there.
    public static func remove(_ path: String) throws(SystemError) {
        do throws(SystemError) {
            try empty(try File(path, directoryFlags))
        } catch  where error.code == ENOENT {
            return
        }
        guard rmdir(path) == 0 || errno == ENOENT else { throw SystemError.last("remove", path) }
    }

    private static var directoryFlags: Int32 { O_RDONLY | O_DIRECTORY | O_NOFOLLOW }

    private struct Count {
        var usage = DirectoryUsage()
        let device: dev_t
        var linked: Set<ino_t> = []

        init(device: dev_t) { self.device = device }

        mutating func add(_ status: stat) {
            if status.st_nlink > 1, status.st_mode & S_IFMT != S_IFDIR, !linked.insert(status.st_ino).inserted {
                return
            }
            usage.bytes += Int64(status.st_blocks) * 512
            usage.inodes += 1
        }
    }

    private static func measure(_ directory: File, _ count: inout Count) throws(SystemError) {
        for name in try File.rawNames(inDirectory: ".", of: directory) {
            var status = stat()
            guard fstatat(directory.descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else { continue }
            guard status.st_dev == count.device else { continue }
            count.add(status)
            guard status.st_mode & S_IFMT == S_IFDIR, let below = try open(name, in: directory) else { continue }
            try measure(below, &count)
        }
    }

    private static func empty(_ directory: File) throws(SystemError) {
        for name in try File.rawNames(inDirectory: ".", of: directory) {
            if unlinkat(directory.descriptor, name, 0) == 0 || errno == ENOENT { continue }
            guard errno == EISDIR || errno == EPERM else { throw SystemError.last("remove from", directory.path) }
            if let below = try open(name, in: directory) { try empty(below) }
            guard unlinkat(directory.descriptor, name, AT_REMOVEDIR) == 0 || errno == ENOENT else {
                throw SystemError.last("remove from", directory.path)
            }
        }
    }

    /// nil if it is gone.
    private static func open(_ name: [CChar], in directory: File) throws(SystemError) -> File? {
        let descriptor = openat(directory.descriptor, name, directoryFlags | O_CLOEXEC)
        if descriptor >= 0 { return File(adopting: descriptor, path: directory.path) }
        if errno == ENOENT || errno == ENOTDIR { return nil }
        throw SystemError.last("open a directory in", directory.path)
    }
}
