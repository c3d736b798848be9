import CLinux
public import Glibc

/// An open file: owns its descriptor and closes it with the last reference.
///
/// All reads and writes are at explicit offsets and whole: short ones are continued, EINTR is retried. Safe to share between
/// threads, because the descriptor never changes and pread/pwrite keep no position.
public final class File: Sendable {
    /// The descriptor; valid as long as this object lives.
    public let descriptor: Int32
    /// Where it was opened, for errors.
    public let path: String

    /// Takes ownership of an open descriptor.
    public init(adopting descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    /// Opens `path`; `O_CLOEXEC` is always added.
    ///
    /// - Parameter directory: the directory that a relative `path` starts at; by default the working directory.
    public init(_ path: String, _ flags: Int32, mode: mode_t = 0o600, in directory: File? = nil) throws(SystemError) {
        var opened: Int32
        repeat {
            opened = openat(directory?.descriptor ?? AT_FDCWD, path, flags | O_CLOEXEC, mode)
        } while opened < 0
            && errno == EINTR
        guard opened >= 0 else { throw SystemError.last("open", path) }
        self.descriptor = opened
        self.path = path
    }

    deinit { close(descriptor) }

    /// The same file, for writing past the page cache (O_DIRECT); nil if its file system does not support that.
    public func reopenedDirect() -> File? {
        // Not by its name, which may mean another file by now.
        try? File("/proc/self/fd/\(descriptor)", O_WRONLY | lamina_o_direct)
    }

    /// The size in bytes.
    public func size() throws(SystemError) -> Int64 { Int64(try status().st_size) }

    /// fstat(2).
    public func status() throws(SystemError) -> stat {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw SystemError.last("stat", path) }
        return status
    }

    /// Whether a path names a socket; a symbolic link to one does not count.
    public static func isSocket(at path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
    }

    /// Where a symbolic link leads; nil if it is none. Asks nothing of a file system that is mounted there.
    public static func linkTarget(of path: String) -> String? {
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink(path, &target, target.count)
        guard count > 0 else { return nil }
        return String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Device and inode number of an open file, joined by a colon; nil if nothing is open.
    public static func identity(of descriptor: Int32) -> String? {
        var status = stat()
        return fstat(descriptor, &status) == 0 ? "\(status.st_dev):\(status.st_ino)" : nil
    }

    /// Reads until `buffer` is full or the file ends; returns how many bytes were read.
    public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws(SystemError) -> Int {
        var done = 0
        while done < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, off_t(offset) + off_t(done))
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError.last("read", path)
            }
            done += count
        }
        return done
    }

    /// Reads what comes next, also from a pipe or a terminal; 0 at its end. Waits for at least one byte.
    public func readNext(into buffer: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
        while true {
            let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
            if count >= 0 { return count }
            if errno != EINTR { throw .last("read", path) }
        }
    }

    /// Reads exactly `count` bytes, or as many as the file has behind `offset`.
    public func read(_ count: Int, at offset: Int64) throws(SystemError) -> [UInt8] {
        do {
            return try [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
                filled = try read(into: UnsafeMutableRawBufferPointer(buffer), at: offset)
            }
        } catch let error as SystemError {
            throw error
        } catch {
            throw SystemError(code: EIO, operation: "read", subject: path)
        }
    }

    /// Writes all of `buffer`.
    public func write(_ buffer: UnsafeRawBufferPointer, at offset: Int64) throws(SystemError) {
        var done = 0
        while done < buffer.count {
            let count = pwrite(
                descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, off_t(offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError.last("write", path)
            }
            done += count
        }
    }

    /// Sets the size; a new part reads as zeros and takes no space.
    public func truncate(to size: Int64) throws(SystemError) {
        while ftruncate(descriptor, off_t(size)) != 0 {
            if errno != EINTR { throw SystemError.last("truncate", path) }
        }
    }

    /// Copies a range of another file in the kernel, sharing blocks if the file system can (FICLONERANGE).
    public func copyRange(
        from source: File, at sourceOffset: Int64, to offset: Int64, count: Int
    ) throws(SystemError) {
        guard
            lamina_copy_range(source.descriptor, sourceOffset, descriptor, offset, count) == 0
        else { throw SystemError.last("copy \(source.path) to", path) }
    }

    /// The first offset without data; equals the size if the file has no hole (SEEK_HOLE).
    public func firstHole() throws(SystemError) -> Int64 {
        let hole = lamina_first_hole(descriptor)
        guard hole >= 0 else { throw SystemError.last("seek to the first hole of", path) }
        return hole
    }

    /// How many bytes of the file have no data.
    public func holeBytes() throws(SystemError) -> Int64 {
        let count = lamina_hole_bytes(descriptor)
        guard count >= 0 else { throw SystemError.last("look for the holes of", path) }
        return count
    }

    /// The holes of the file within a range, in order: where there is no data (SEEK_HOLE, SEEK_DATA).
    public func holes(in range: Range<Int64>) throws(SystemError) -> [Range<Int64>] {
        var holes: [Range<Int64>] = []
        let end = min(range.upperBound, try size())
        var position = range.lowerBound
        while position < end {
            let hole = lamina_next_hole(descriptor, position)
            guard hole >= 0 else { throw SystemError.last("seek to a hole of", path) }
            if hole >= end { break }
            var data = lamina_next_data(descriptor, hole)
            // Only a hole from there on.
            if data < 0, errno == ENXIO { data = end }
            guard data >= 0 else { throw SystemError.last("seek to the data of", path) }
            holes.append(hole..<min(data, end))
            position = data
        }
        return holes
    }

    /// Whether a range has no data.
    public func isHole(_ range: Range<Int64>) throws(SystemError) -> Bool {
        try holes(in: range).reduce(0) { $0 + Int64($1.count) } == Int64(range.count)
    }

    /// Makes a range of the file zeros that take no space, if the file system has holes; else writes zeros.
    public func clear(_ range: Range<Int64>) throws(SystemError) {
        var result: Int32
        repeat {
            result = lamina_punch_hole(descriptor, range.lowerBound, Int64(range.count))
        } while result != 0
            && errno == EINTR
        if result == 0 { return }
        guard errno == EOPNOTSUPP || errno == ENOSYS else { throw SystemError.last("make a hole in", path) }
        guard let zeros = calloc(1, 1 << 20) else { throw SystemError.last("take memory for", path) }
        defer { free(zeros) }
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(1 << 20, Int(range.upperBound - offset))
            try write(UnsafeRawBufferPointer(start: zeros, count: count), at: offset)
            offset += Int64(count)
        }
    }

    /// Stops reads from setting access times on a file, or on what will be made in a directory (`chattr +A`).
    ///
    /// - Returns: whether that is new. Also false if the file system has no such attribute.
    @discardableResult
    public func leaveNoAccessTimes() -> Bool { lamina_leave_no_access_times(descriptor) > 0 }

    /// Has ext4 put the directories that will be made in this one into block groups far from each other, and what is made in
    /// them into the same groups (`chattr +T`). It has no effect on other file systems.
    public func spreadDirectories() { _ = lamina_spread_directories(descriptor) }

    /// Waits until everything written to the whole file system of this file is on disk (syncfs). An error means that some write
    /// of any process since the last call was lost.
    public func syncFilesystem() throws(SystemError) {
        while lamina_syncfs(descriptor) != 0 {
            if errno != EINTR { throw SystemError.last("syncfs", path) }
        }
    }

    /// Waits until this file is on disk (fsync). For a directory: its names.
    public func synchronize() throws(SystemError) {
        while fsync(descriptor) != 0 {
            if errno != EINTR { throw SystemError.last("fsync", path) }
        }
    }

    /// Makes a directory in this one.
    ///
    /// - Returns: whether it is new.
    public func makeDirectory(_ name: String, mode: mode_t) throws(SystemError) -> Bool {
        while mkdirat(descriptor, name, mode) != 0 {
            if errno == EEXIST { return false }
            if errno != EINTR { throw SystemError.last("make directory", "\(path)/\(name)") }
        }
        return true
    }

    /// The bytes of the file system of this file: those that are free for users other than root, and all. nil if it does not
    /// say.
    public func filesystemSpace() -> (free: Int64, total: Int64)? {
        var statistics = statvfs()
        guard fstatvfs(descriptor, &statistics) == 0 else { return nil }
        let unit = UInt64(statistics.f_frsize)
        return (
            Int64(clamping: UInt64(statistics.f_bavail) &* unit), Int64(clamping: UInt64(statistics.f_blocks) &* unit)
        )
    }

    /// Tries to lock the file for writing (fcntl(2), "Open file description locks"), which programs that use fcntl's locks see; false if
    /// another one has a lock of it. It ends with this object.
    public func tryWriteLock() throws(SystemError) -> Bool {
        while lamina_try_write_lock(descriptor) != 0 {
            if errno == EAGAIN || errno == EACCES { return false }
            if errno != EINTR { throw SystemError.last("lock", path) }
        }
        return true
    }

    /// Tries to lock the file for this process alone (flock); false if another process holds the lock.
    public func tryLock() throws(SystemError) -> Bool {
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            if errno == EWOULDBLOCK { return false }
            if errno != EINTR { throw SystemError.last("lock", path) }
        }
        return true
    }
}

/// Makes a directory and its missing parents; an existing directory is fine.
public func createDirectories(_ path: String, mode: mode_t = 0o755) throws(SystemError) {
    if mkdir(path, mode) == 0 || errno == EEXIST { return }
    guard errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex else {
        throw SystemError.last("make directory", path)
    }
    try createDirectories(String(path[..<slash]), mode: mode)
    guard mkdir(path, mode) == 0 || errno == EEXIST else { throw SystemError.last("make directory", path) }
}

/// Reads a whole small file (also from procfs, whose sizes are 0); fails with EFBIG above `limit` bytes.
public func readFile(_ path: String, limit: Int = 16 << 20) throws(SystemError) -> [UInt8] {
    let file = try File(path, O_RDONLY)
    var bytes: [UInt8] = []
    while true {
        let part = try file.read(1 << 16, at: Int64(bytes.count))
        if part.isEmpty { return bytes }
        bytes += part
        guard bytes.count <= limit else { throw SystemError(code: EFBIG, operation: "read", subject: path) }
    }
}
