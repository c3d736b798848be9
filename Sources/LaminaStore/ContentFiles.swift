public import Glibc
import LaminaDigest
public import LaminaSystem
import Synchronization

/// The one owner of the names below `content/`: nothing else makes, links, renames or unlinks them.
///
/// A backing file is sparse at its full size until it is merged, and is named by its digest. Files are written with a
/// `WritingLease`, and taken away with what `NameLeases` calls a removal, after the index has forgotten them for certain. What
/// may be wrong with a file is said by `ContentHealth` alone.
public final class ContentFiles: Sendable {
    let directory: File
    let leases = NameLeases()
    private let linking = Monitor(())
    /// Names whose files are written beside them just now; empty but for damage (`ContentFiles+Aside.swift`).
    let aside = Monitor<Set<BackingName>>([])
    let asideCount = Atomic<Int>(0)

    /// - Parameter store: the root, open.
    init(root: String, in store: File) throws {
        do throws(SystemError) {
            _ = try store.makeDirectory("content", mode: StoreDirectory.mode)
            directory = try File("content", O_RDONLY | O_DIRECTORY, in: store)
            // Nobody asks for a backing file's access time, and each read that goes through the kernel would look whether it
            // is due: 6% of a read of 4 KiB.
            let isNew = directory.leaveNoAccessTimes()
            // ext4 passes over inodes that were deleted in the last minutes, one by one and from the group's first on for each new
            // file: where many are in few groups, that is most of what a pull costs.
            directory.spreadDirectories()
            for name in Self.parts + [Self.spoolDirectory] {
                // What is made in a directory has its attributes from the start.
                if try !directory.makeDirectory(name, mode: StoreDirectory.mode), isNew {
                    try File(name, O_RDONLY | O_DIRECTORY, in: directory).leaveNoAccessTimes()
                }
            }
        } catch {
            throw StoreError(.system(error.code), "cannot make the store \(root)", cause: error)
        }
    }

    /// The directories that backing files are in.
    static let parts = (0..<256).map { byte in
        let digits = String(byte, radix: 16)
        return digits.count == 1 ? "0" + digits : digits
    }

    // MARK: Reading

    /// Opens a backing file for reading. Its bytes stay readable, whatever becomes of the name; for more than one call by name
    /// there is `reading`.
    ///
    /// - Throws: ENOENT where there is none: the content is to be fetched.
    public func open(_ name: BackingName) throws(SystemError) -> File {
        try File(path(of: name), O_RDONLY | O_NOFOLLOW, in: directory)
    }

    /// Runs `body` with a backing file whose name stays meanwhile.
    public func reading<Result>(_ name: BackingName, _ body: (File) throws -> Result) throws -> Result {
        leases.beginReading(name)
        defer { leases.endReading(name) }
        return try body(open(name))
    }

    /// Whether two names stand for one file.
    public func areSame(_ name: BackingName, _ other: BackingName) throws(SystemError) -> Bool {
        try open(name).status().st_ino == open(other).status().st_ino
    }

    /// Whether a name stands for this inode; about 1 µs.
    public func hasInode(_ inode: ino_t, _ name: BackingName) -> Bool { status(of: path(of: name))?.st_ino == inode }

    /// Whether the file is there and has its size; about 1 µs. Says nothing of what is in it.
    public func isThere(_ name: BackingName, size: Int64) -> Bool { status(of: path(of: name))?.st_size == off_t(size) }

    /// Whether there is a file; false only where there is none for certain.
    public func exists(_ name: BackingName) -> Bool { status(of: path(of: name)) != nil || errno != ENOENT }

    /// What unlinking a file would free, in bytes on disk; 0 where it has other names, or is not there.
    func allocatedSize(_ path: String) -> Int64 {
        guard let status = status(of: path), status.st_nlink == 1 else { return 0 }
        return Int64(status.st_blocks) * 512
    }

    private func status(of path: String) -> stat? {
        var status = stat()
        return fstatat(directory.descriptor, path, &status, AT_SYMLINK_NOFOLLOW) == 0 ? status : nil
    }

    /// The names in a directory below `content/`.
    ///
    /// - Throws: an error of the moment (EMFILE, ENOMEM): an incomplete listing must not pass for an empty directory.
    func names(in part: String) throws(SystemError) -> [String] { try File.names(inDirectory: part, of: directory) }

    // MARK: Writing

    /// The right to write a name's file.
    public func lease(writing name: BackingName) -> WritingLease {
        var lease = WritingLease(self)
        lease.cover(name)
        return lease
    }

    /// The right to write no file yet.
    public func emptyLease() -> WritingLease { WritingLease(self) }

    /// Waits until all writes have reached the disk; see `File.syncFilesystem`.
    func synchronize() throws(SystemError) { try directory.syncFilesystem() }

    /// The file system that the contents are on: free and total bytes for who is not root.
    public func diskSpace() -> (free: Int64, total: Int64)? { directory.filesystemSpace() }

    /// Has the file system tell what it is able to do with files like these.
    public var directoryFile: File { directory }

    // MARK: Removing

    /// Takes a name away. Only for a name that `leases.removing` gave, and that the index has forgotten for certain.
    ///
    /// - Returns: whether it was there, and the bytes on disk that nobody has a name for any more.
    @discardableResult
    func remove(_ name: BackingName) throws -> (isThere: Bool, bytes: Int64) {
        do {
            dropAside(name)
            return try removePath(name.path)
        } catch {
            throw StoreError(.system(error.code), "cannot take \(name.digest) out of the store", cause: error)
        }
    }

    func removePath(_ path: String) throws(SystemError) -> (isThere: Bool, bytes: Int64) {
        let size = allocatedSize(path)
        while unlinkat(directory.descriptor, path, 0) != 0 {
            if errno == ENOENT { return (false, 0) }
            if errno != EINTR { throw SystemError.last("unlink", path) }
        }
        return (true, size)
    }

    func rename(_ path: String, to newPath: String) throws(SystemError) {
        while renameat(directory.descriptor, path, directory.descriptor, newPath) != 0 {
            if errno != EINTR { throw SystemError.last("rename", path) }
        }
    }

    /// Makes `path` another name of `existing`, replacing what it named.
    func link(_ existing: String, as path: String) throws(SystemError) {
        // One at a time: two writers may have the same name, and so the same one beside it.
        try linking.withLock { _ throws(SystemError) in
            let momentary = path + ".link"
            unlinkat(directory.descriptor, momentary, 0)
            while linkat(directory.descriptor, existing, directory.descriptor, momentary, 0) != 0 {
                if errno != EINTR { throw SystemError.last("link", existing) }
            }
            try rename(momentary, to: path)
            // rename does nothing when both names are one file already.
            unlinkat(directory.descriptor, momentary, 0)
        }
    }
}
