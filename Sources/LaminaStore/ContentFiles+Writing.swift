import Glibc
import LaminaDigest
public import LaminaSystem

// What a writing lease may do with the files of its names.

extension WritingLease {
    /// Opens a backing file for writing chunks, making it sparse at its full size if it is not there.
    public func create(_ name: BackingName, size: Int64) throws(SystemError) -> File {
        var file = try open(name)
        // Another content has the same file: it is never written to again, least of all for a layer that claims other chunks.
        if try file.status().st_nlink > 1 { file = try privateCopy(of: file, name) }
        // Also corrects the size of a file that something else left: its landed chunks are on record, its size is not.
        try file.truncate(to: size)
        return file
    }

    /// Opens a backing file to write bytes into it that have the digest of the whole. This is allowed even if other contents
    /// have the same file, because the bytes are right for all of them, and for all processes that have it open. The file is
    /// made if it is not there, and gets its full size.
    public func openInPlace(_ name: BackingName, size: Int64) throws(SystemError) -> File {
        let file = try open(name)
        if try file.size() != size { try file.truncate(to: size) }
        return file
    }

    /// Opens a backing file for writing that other contents have too; nil if it is only this content's, or not there.
    public func openShared(_ name: BackingName) throws(SystemError) -> File? {
        assert(covers(name))
        do {
            let file = try File(files.path(of: name), O_RDWR | O_NOFOLLOW, in: files.directory)
            return try file.status().st_nlink > 1 ? file : nil
        } catch {
            if error.code == ENOENT { return nil }
            throw error
        }
    }

    /// Opens a backing file for writing chunks, as `create` does.
    public func writable(_ name: BackingName, size: Int64) throws(SystemError) -> BackingFile {
        BackingFile(try create(name, size: size))
    }

    /// Writes a content of one chunk.
    ///
    /// - Parameters:
    ///   - holes: its zeros that take no space on disk, as `ZeroRuns` finds them.
    ///   - keepsCached: whether it will be read soon.
    public func write(
        _ bytes: UnsafeRawBufferPointer, holes: [Range<Int>] = [], as name: BackingName, keepsCached: Bool
    ) throws(SystemError) {
        assert(covers(name))
        let isSmall = bytes.count < BackingFile.directSize
        do {
            // Most are new: then there is nobody to share it with and no other size to mend.
            let file = try File(
                files.path(of: name), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: StoreDirectory.fileMode,
                in: files.directory)
            if !isSmall || !holes.isEmpty { try file.truncate(to: Int64(bytes.count)) }
            return try BackingFile(file).write(bytes, holes: holes, at: 0, keepsCached: keepsCached)
        } catch {
            guard error.code == EEXIST else { throw error }
        }
        // It has one chunk: the file is named by these bytes, whichever content has it.
        let size = Int64(bytes.count)
        let file = try name.claim == nil ? BackingFile(openInPlace(name, size: size)) : writable(name, size: size)
        try file.write(bytes, holes: holes, at: 0, keepsCached: keepsCached)
    }

    /// Makes `name` another name of `existing`'s file, replacing what it named: the same bytes, the same page cache.
    func link(_ existing: BackingName, as name: BackingName) throws(SystemError) {
        assert(covers(name))
        try files.link(files.path(of: existing), as: name.path)
        files.dropAside(name)
    }

    /// Gives a stream's spool its name, replacing a file that the index does not know. The spool's own name stays until nothing
    /// needs it any more.
    public func link(spool: String, as name: BackingName) throws(SystemError) {
        assert(covers(name))
        try files.link(ContentFiles.path(ofSpool: spool), as: name.path)
        files.dropAside(name)
    }

    /// Copies a spool's bytes, which have the digest of the name, into a backing file that may be open.
    public func copy(spool: String, to name: BackingName, size: Int64) throws(SystemError) {
        let source = try File(ContentFiles.path(ofSpool: spool), O_RDONLY | O_NOFOLLOW, in: files.directory)
        // After a power cut both names may stand for one file: the index has lost that it is whole, and the stream has read it again.
        if try files.hasInode(source.status().st_ino, name) { return }
        try openInPlace(name, size: size).copyRange(from: source, at: 0, to: 0, count: Int(size))
    }

    private func open(_ name: BackingName) throws(SystemError) -> File {
        assert(covers(name))
        return try File(
            files.path(of: name), O_RDWR | O_CREAT | O_NOFOLLOW, mode: StoreDirectory.fileMode, in: files.directory)
    }

    /// Gives `name` its own file with the bytes of the file that it shares.
    private func privateCopy(of shared: File, _ name: BackingName) throws(SystemError) -> File {
        // One at a time: several writers may have the same name, and so use the same momentary name.
        try files.copying.withLock { _ throws(SystemError) in
            // Another writer may have made it meanwhile.
            let now = try open(name)
            if try now.status().st_ino != shared.status().st_ino { return now }
            let momentary = name.path + ".copy"
            let copy = try File(
                momentary, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: StoreDirectory.fileMode, in: files.directory)
            try copy.copyRange(from: shared, at: 0, to: 0, count: Int(try shared.size()))
            // The index may say that these bytes are on disk. The name must not come to mean a file that is not.
            try copy.synchronize()
            try files.rename(momentary, to: files.path(of: name))
            return copy
        }
    }
}
