public import Glibc

/// Replaces a file durably: an open of `path` finds the old bytes or the new ones, also after a crash.
///
/// For small files with one writer at a time: the new bytes are written to `path` + `.new` first, synced, and renamed. Blocks for
/// two fsync(2).
///
/// - Parameter mode: who may read it, regardless of the umask and of the mode of an earlier file at `path`.
public func replaceFile(_ path: String, with bytes: [UInt8], mode: mode_t) throws(SystemError) {
    let provisional = path + ".new"
    // A file that a crash has left there may have another mode or be a link.
    guard unlink(provisional) == 0 || errno == ENOENT else { throw SystemError.last("remove", provisional) }
    do throws(SystemError) {
        let file = try File(provisional, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: mode & 0o600)
        try write(bytes, to: file)
        guard fchmod(file.descriptor, mode) == 0 else { throw SystemError.last("change the mode of", provisional) }
        guard fsync(file.descriptor) == 0 else { throw SystemError.last("write to disk", provisional) }
        guard rename(provisional, path) == 0 else { throw SystemError.last("rename \(provisional) to", path) }
    } catch {
        unlink(provisional)
        throw error
    }
    let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    let parent = try File(directory, O_RDONLY | O_DIRECTORY)
    guard fsync(parent.descriptor) == 0 else { throw SystemError.last("write to disk", directory) }
}

private func write(_ bytes: [UInt8], to file: File) throws(SystemError) {
    do {
        try bytes.withUnsafeBytes { try file.write($0, at: 0) }
    } catch let error as SystemError {
        throw error
    } catch {
        throw SystemError(code: EIO, operation: "write", subject: file.path)
    }
}
