import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem

// Files below content/ that the index knows nothing of: a kill between the deletion of rows and the end of a merge, or
// between a file and its record, leaves them. They cost space, no more.

extension Store {
    /// Unlinks backing files that no content is known for. While a pull is under way nothing is looked at, as its files may
    /// be there before their record.
    ///
    /// - Parameter dryRun: counts them only.
    public func removeStrayFiles(
        dryRun: Bool, shouldStop: () -> Bool = { false }
    ) throws -> (files: Int, bytes: Int64) {
        var result = (files: 0, bytes: Int64(0))
        for part in BackingFiles.parts + [BackingFiles.temporaryDirectory] {
            if shouldStop() { break }
            // One directory at a time: who wants to begin a pull waits for that only.
            try holds.withHeld { held in
                guard held.isEmpty else { return }
                let strays = try self.strays(in: part)
                guard !strays.isEmpty else { return }
                try write { writer in
                    for path in strays where try !isWanted(path, writer) {
                        result.bytes += files.allocatedSize(path)
                        result.files += 1
                        if !dryRun { files.unlink(path) }
                    }
                }
            }
        }
        return result
    }

    /// The files of a directory that readers of the index know nothing of; the writer is asked again.
    private func strays(in part: String) throws -> [String] {
        let names = files.names(in: part)
        guard part != BackingFiles.temporaryDirectory else { return names.map { "\(part)/\($0)" } }
        return try index.read { database in
            let known = try database.cached("SELECT 1 FROM content WHERE digest = ? AND claim = ?")
            return try names.filter { name in
                guard let name = BackingName(file: name) else { return true }
                return try known.bind(1, digest: name.digest).bind(2, claim: name.claim).first { _ in true } == nil
            }.map { "\(part)/\($0)" }
        }
    }

    private func isWanted(_ path: String, _ writer: Writer) throws -> Bool {
        let file = path.split(separator: "/").last.map(String.init) ?? path
        if path.hasPrefix(BackingFiles.temporaryDirectory + "/") {
            // `<layer>-<offset in the tar>`, as long as the layer's stream may go on.
            guard let digest = Digest(hex: file.prefix { $0 != "-" }) else { return files.isYoung(path) }
            return try writer.connection.cached("SELECT 1 FROM stream WHERE digest = ?").bind(1, digest: digest)
                .first { _ in true } ?? false
        }
        // Another name is one that a file has for a moment, while it is linked or copied.
        guard let name = BackingName(file: file) else { return files.isYoung(path) }
        return try writer.knows(name)
    }
}

extension BackingName {
    /// Reads the last part of `path`; nil for what is no backing file's name.
    init?(file: String) {
        let parts = file.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let digest = Digest(hex: parts[0]) else { return nil }
        guard parts.count == 2 else {
            self.init(digest: digest, claim: nil)
            return
        }
        guard let claim = Digest(hex: parts[1]) else { return nil }
        self.init(digest: digest, claim: claim)
    }
}

extension Digest {
    /// 64 lower-case hex digits.
    fileprivate init?(hex: Substring) {
        guard hex.utf8.count == 64 else { return nil }
        self.init(parsing: "sha256:\(hex)")
    }
}

extension BackingFiles {
    /// The directories that backing files are in.
    static let parts = (0..<256).map { byte in
        let digits = String(byte, radix: 16)
        return digits.count == 1 ? "0" + digits : digits
    }

    /// Seconds after which a file with a name of a moment was left by somebody who is dead.
    private static let youth: Int = 3600

    func exists(_ name: BackingName) -> Bool { faccessat(directoryFile.descriptor, name.path, F_OK, 0) == 0 }

    /// Takes a file's name away.
    ///
    /// - Returns: whether it was there, and the bytes on disk that nobody has a name for any more.
    func remove(_ name: BackingName) throws -> (isThere: Bool, bytes: Int64) {
        let size = allocatedSize(name.path)
        if unlinkat(directoryFile.descriptor, name.path, 0) == 0 { return (true, size) }
        guard errno == ENOENT else {
            let error = SystemError.last("unlink", name.path)
            throw StoreError(.system(error.code), "cannot take \(name.digest) out of the store", cause: error)
        }
        return (false, 0)
    }

    func unlink(_ path: String) { unlinkat(directoryFile.descriptor, path, 0) }

    func isYoung(_ path: String) -> Bool {
        var status = stat()
        guard fstatat(directoryFile.descriptor, path, &status, AT_SYMLINK_NOFOLLOW) == 0 else { return true }
        return time(nil) - status.st_ctim.tv_sec < Self.youth
    }

    /// The names in a directory below `content/`.
    func names(in part: String) -> [String] {
        let descriptor = openat(directoryFile.descriptor, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return [] }
        // Owns the descriptor from here on.
        guard let listing = fdopendir(descriptor) else {
            close(descriptor)
            return []
        }
        defer { closedir(listing) }
        var names: [String] = []
        while let entry = readdir(listing) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}
