import Glibc
public import LaminaDigest
public import LaminaSystem

// A file's name is its digest, which a stream knows only when it has read the file. A large one is written to a temporary
// file until then: `content/stream/<layer>-<offset in the tar>`.

extension BackingFiles {
    static let temporaryDirectory = "stream"

    /// Opens a temporary file of a layer's stream, making it where it is not there.
    public func openTemporary(_ name: String) throws(SystemError) -> File {
        try File(path(name), O_RDWR | O_CREAT, mode: 0o644, in: directoryFile)
    }

    /// The name of the temporary file for a file that stands at `offset` in the layer's tar.
    public static func temporaryName(_ layer: Digest, offset: Int64) -> String { "\(layer.hex)-\(offset)" }

    public func removeTemporary(_ name: String) { unlinkat(directoryFile.descriptor, path(name), 0) }

    /// Removes what a layer's streams have left, but for the file that goes on.
    public func removeTemporaries(of layer: Digest, except kept: String?) {
        let descriptor = openat(
            directoryFile.descriptor, Self.temporaryDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        // Owns the descriptor from here on.
        guard let listing = fdopendir(descriptor) else {
            close(descriptor)
            return
        }
        defer { closedir(listing) }
        while let entry = readdir(listing) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name.hasPrefix(layer.hex), name != kept { unlinkat(descriptor, name, 0) }
        }
    }

    /// Gives a temporary file its name, replacing what has it: something that the index does not know. The temporary name
    /// stays until the index knows the new one.
    func linkTemporary(_ temporary: String, as name: BackingName) throws(SystemError) {
        let link = name.path + ".link"
        unlinkat(directoryFile.descriptor, link, 0)
        guard linkat(directoryFile.descriptor, path(temporary), directoryFile.descriptor, link, 0) == 0 else {
            throw SystemError.last("link", path(temporary))
        }
        guard renameat(directoryFile.descriptor, link, directoryFile.descriptor, name.path) == 0 else {
            throw SystemError.last("rename", link)
        }
        // rename does nothing when both names are one file already.
        unlinkat(directoryFile.descriptor, link, 0)
    }

    /// Copies a temporary file's bytes, which have the digest of the name, into a backing file that others may have open.
    public func copyTemporary(_ temporary: String, to name: BackingName, size: Int64) throws(SystemError) {
        let source = try File(path(temporary), O_RDONLY, in: directoryFile)
        try openInPlace(name, size: size).copyRange(from: source, at: 0, to: 0, count: Int(size))
    }

    private func path(_ temporary: String) -> String { Self.temporaryDirectory + "/" + temporary }
}
