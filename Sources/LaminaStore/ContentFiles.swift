public import Glibc
import LaminaDigest
public import LaminaSystem
import Synchronization

/// The one owner of the names below `content/`: nothing else makes, links, renames or unlinks them.
///
/// A backing file is sparse at its full size until it is merged, and is named by its digest. Files are written with a
/// `WritingLease`. They are removed with what `NameLeases` calls a removal, after the index has certainly forgotten them. Only
/// `ContentHealth` says what is wrong with a file.
public final class ContentFiles: Sendable {
    let directory: File
    let leases = NameLeases()
    private let linking = Monitor(())
    /// Held while a name gets a file of its own.
    let copying = Monitor(())
    /// Names whose files are being written beside them; empty unless there was damage (`ContentFiles+Aside.swift`).
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
            // For each new file, ext4 passes over inodes that were deleted in the last minutes, one by one and from the group's
            // first on: if many are in few groups, that is most of the cost of a pull.
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

    /// Opens a backing file for reading. Its bytes stay readable, whatever happens to the name; for more than one call by name
    /// use `reading`.
    ///
    /// - Throws: ENOENT if there is none: the content has to be fetched.
    public func open(_ name: BackingName) throws(SystemError) -> File {
        try File(path(of: name), O_RDONLY | O_NOFOLLOW, in: directory)
    }

    /// Runs `body` with a backing file; its name stays meanwhile.
    public func reading<Result>(_ name: BackingName, _ body: (File) throws -> Result) throws -> Result {
        leases.beginReading(name)
        defer { leases.endReading(name) }
        return try body(open(name))
    }

    /// Whether two names mean one file.
    public func areSame(_ name: BackingName, _ other: BackingName) throws(SystemError) -> Bool {
        try open(name).status().st_ino == open(other).status().st_ino
    }

    /// Whether a name means this inode; about 1 µs.
    public func hasInode(_ inode: ino_t, _ name: BackingName) -> Bool { status(of: path(of: name))?.st_ino == inode }

    /// Whether the file is there and has its size; about 1 µs. Says nothing about its bytes.
    public func isThere(_ name: BackingName, size: Int64) -> Bool { status(of: path(of: name))?.st_size == off_t(size) }

    /// Whether there is a file; false only if there certainly is none.
    public func exists(_ name: BackingName) -> Bool { status(of: path(of: name)) != nil || errno != ENOENT }

    /// What unlinking a file would free, in bytes on disk; 0 if it has other names, or is not there.
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
    /// - Throws: a temporary error (EMFILE, ENOMEM): an incomplete listing must not look like an empty directory.
    func names(in part: String) throws(SystemError) -> [String] { try File.names(inDirectory: part, of: directory) }

    // MARK: Writing

    /// The right to write a name's file.
    public func lease(writing name: BackingName) -> WritingLease {
        var lease = WritingLease(self)
        lease.cover(name)
        return lease
    }

    /// A lease without a name yet.
    public func emptyLease() -> WritingLease { WritingLease(self) }

    /// Waits until all writes have reached the disk; see `File.syncFilesystem`.
    func synchronize() throws(SystemError) { try directory.syncFilesystem() }

    /// The file system of the contents: free and total bytes for users other than root.
    public func diskSpace() -> (free: Int64, total: Int64)? { directory.filesystemSpace() }

    /// The directory, to ask the file system what it can do with files like these.
    public var directoryFile: File { directory }

    // MARK: Removing

    /// Removes a name. Only for a name that `leases.removing` gave, and that the index has certainly forgotten.
    ///
    /// - Returns: whether it was there, and how many bytes on disk have no name any more.
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
        // One at a time: two writers may have the same name, and so use the same momentary name.
        try linking.withLock { _ throws(SystemError) in
            let momentary = path + ".link"
            unlinkat(directory.descriptor, momentary, 0)
            while linkat(directory.descriptor, existing, directory.descriptor, momentary, 0) != 0 {
                if errno != EINTR { throw SystemError.last("link", existing) }
            }
            try rename(momentary, to: path)
            // rename does nothing if both names already mean one file.
            unlinkat(directory.descriptor, momentary, 0)
        }
    }
}
