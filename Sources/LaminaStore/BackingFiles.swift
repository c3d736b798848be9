import Glibc
public import LaminaDigest
public import LaminaSystem

/// Names a backing file: the content's digest and, for contents of several chunks, the chunk list that is claimed for it.
public struct BackingName: Hashable, Sendable {
    public var digest: Digest
    /// SHA-256 of the chunk list; nil for a content of one chunk.
    public var claim: Digest?

    public init(digest: Digest, claim: Digest?) {
        self.digest = digest
        self.claim = claim
    }

    /// `ab/abcd…` or `ab/abcd….<claim>`, relative to `content/`. The whole claim: of a part of it, someone could find two
    /// chunk lists that are alike, a true one and a false one, and have the false one written into the file of the true.
    public var path: String {
        let hex = digest.hex
        guard let claim else { return "\(hex.prefix(2))/\(hex)" }
        return "\(hex.prefix(2))/\(hex).\(claim.hex)"
    }
}

/// The files below `content/`: sparse at full size until merged, each named by its digest.
public final class BackingFiles: Sendable {
    private let directory: File
    /// Held while a file is evicted, from before the index says so until it has no name: who makes a file with that name
    /// meanwhile would see it vanish.
    private let evicting = Monitor(())

    init(root: String) throws {
        let path = root + "/content"
        do {
            try createDirectories(path)
            directory = try File(path, O_RDONLY | O_DIRECTORY)
            // Nobody asks for a backing file's access time, and each read that goes through the kernel would look whether it
            // is due: 6% of a read of 4 KiB.
            let isNew = directory.leaveNoAccessTimes()
            // ext4 passes over inodes that were deleted in the last minutes, one by one and from the group's first on for each new
            // file: where many are in few groups, that is most of what a pull costs.
            directory.spreadDirectories()
            let digits = Array("0123456789abcdef")
            for name in (0..<256).map({ String([digits[$0 >> 4], digits[$0 & 15]]) }) + [Self.temporaryDirectory] {
                if mkdirat(directory.descriptor, name, 0o755) == 0 { continue }
                guard errno == EEXIST else { throw SystemError.last("make directory", "\(path)/\(name)") }
                if isNew { try File(name, O_RDONLY | O_DIRECTORY, in: directory).leaveNoAccessTimes() }
            }
        } catch let error as SystemError {
            throw StoreError(.system(error.code), "cannot make the store \(root)", cause: error)
        }
    }

    /// Opens a backing file for reading.
    public func open(_ name: BackingName) throws(SystemError) -> File {
        try File(name.path, O_RDONLY, in: directory)
    }

    /// Opens a backing file for writing chunks, making it sparse at its full size where it is not there.
    public func create(_ name: BackingName, size: Int64) throws(SystemError) -> File {
        var file = try evicting.withLock { _ throws(SystemError) in
            try File(name.path, O_RDWR | O_CREAT, mode: 0o644, in: directory)
        }
        // Another content has the same file: nobody writes to it again, least of all for a layer that claims other chunks.
        if try file.status().st_nlink > 1 { file = try privateCopy(of: file, name) }
        // Also mends a file of another size, left by something else: its landed chunks are on record, the size is not.
        try file.truncate(to: size)
        return file
    }

    /// Opens a backing file for putting bytes into it that have the digest of the whole: also where other contents have the
    /// same file, as it is right for all of them, and for those who have it open. Made where it is not there, and brought to
    /// its size.
    public func openInPlace(_ name: BackingName, size: Int64) throws(SystemError) -> File {
        let file = try evicting.withLock { _ throws(SystemError) in
            try File(name.path, O_RDWR | O_CREAT, mode: 0o644, in: directory)
        }
        if try file.size() != size { try file.truncate(to: size) }
        return file
    }

    /// Opens a backing file for writing that other contents have too; nil for one that is this content's alone.
    public func openShared(_ name: BackingName) throws(SystemError) -> File? {
        let file = try File(name.path, O_RDWR, in: directory)
        return try file.status().st_nlink > 1 ? file : nil
    }

    /// Whether a name stands for this file.
    public func isSame(_ file: File, _ name: BackingName) throws(SystemError) -> Bool {
        try file.status().st_ino == open(name).status().st_ino
    }

    /// Opens a backing file for writing chunks, as `create` does.
    public func writable(_ name: BackingName, size: Int64) throws(SystemError) -> BackingFile {
        BackingFile(try create(name, size: size))
    }

    /// Writes a content of one chunk.
    ///
    /// - Parameter keepsCached: whether somebody is about to read it.
    public func write(
        _ bytes: UnsafeRawBufferPointer, as name: BackingName, keepsCached: Bool
    ) throws(SystemError) {
        let isSmall = bytes.count < BackingFile.directSize
        do {
            // Most are new: then there is nobody to share it with and no other size to mend.
            let file = try File(name.path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644, in: directory)
            if !isSmall { try file.truncate(to: Int64(bytes.count)) }
            return try BackingFile(file).write(bytes, at: 0, keepsCached: keepsCached)
        } catch {
            guard error.code == EEXIST else { throw error }
        }
        // Of one chunk: these bytes are what the file is named by, whoever has it.
        let size = Int64(bytes.count)
        let file = try name.claim == nil ? BackingFile(openInPlace(name, size: size)) : writable(name, size: size)
        try file.write(bytes, at: 0, keepsCached: keepsCached)
    }

    /// Gives `name` a file of its own with the bytes of the one that it shares.
    private func privateCopy(of shared: File, _ name: BackingName) throws(SystemError) -> File {
        let temporary = name.path + ".copy"
        let copy = try File(temporary, O_RDWR | O_CREAT | O_TRUNC, mode: 0o644, in: directory)
        try copy.copyRange(from: shared, at: 0, to: 0, count: Int(try shared.size()))
        guard renameat(directory.descriptor, temporary, directory.descriptor, name.path) == 0 else {
            throw SystemError.last("rename", temporary)
        }
        return copy
    }

    /// Makes `name` another name of `existing`'s file, replacing what it named: the same bytes, the same page cache.
    func link(_ existing: BackingName, as name: BackingName) throws(SystemError) {
        let temporary = name.path + ".link"
        unlinkat(directory.descriptor, temporary, 0)
        guard linkat(directory.descriptor, existing.path, directory.descriptor, temporary, 0) == 0 else {
            throw SystemError.last("link", existing.path)
        }
        guard renameat(directory.descriptor, temporary, directory.descriptor, name.path) == 0 else {
            throw SystemError.last("rename", temporary)
        }
        // rename does nothing when both names are one file already.
        unlinkat(directory.descriptor, temporary, 0)
    }

    /// Runs `body`, which says that the store has the files no more, and takes their names away. Whoever has one open or
    /// mapped keeps it.
    ///
    /// - Returns: the bytes on disk that these names were the last of.
    @discardableResult
    func evict(_ names: [BackingName], _ body: () throws -> Void) throws -> Int64 {
        try evicting.withLock { _ in
            try body()
            var freed: Int64 = 0
            for name in names {
                let size = allocatedSize(name.path)
                if unlinkat(directory.descriptor, name.path, 0) == 0 { freed += size }
            }
            return freed
        }
    }

    /// What unlinking a file would free, in bytes on disk; 0 where it has other names, or is not there.
    func allocatedSize(_ path: String) -> Int64 {
        var status = stat()
        guard fstatat(directory.descriptor, path, &status, AT_SYMLINK_NOFOLLOW) == 0, status.st_nlink == 1 else {
            return 0
        }
        return Int64(status.st_blocks) * 512
    }

    /// Waits until all writes have reached the disk; see `File.syncFilesystem`.
    func synchronize() throws(SystemError) { try directory.syncFilesystem() }

    /// The directory's descriptor, for questions about its file system.
    public var directoryFile: File { directory }
}
