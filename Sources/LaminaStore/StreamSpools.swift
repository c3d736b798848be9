import Glibc
public import LaminaDigest
public import LaminaSystem

// A file's name is its digest, which a stream knows only when it has read the file. Until then a large file is written to a
// spool: `content/stream/<layer>-<offset in the tar>`. A file that comes again alone goes to
// `content/stream/restream-<digest>`.

extension ContentFiles {
    static let spoolDirectory = "stream"

    static func path(ofSpool spool: String) -> String { spoolDirectory + "/" + spool }

    /// The spool's name for the file at `offset` in the layer's tar.
    public static func spoolName(_ layer: Digest, offset: Int64) -> String { "\(layer.hex)-\(offset)" }

    /// The spool's name for a file that comes again alone.
    public static func restreamSpoolName(_ digest: Digest) -> String { "restream-\(digest.hex)" }

    /// Opens a spool, making it if it is not there.
    ///
    /// A spool may have become a backing file, and be needed again because a power cut took its stream back. Then it is copied
    /// first: the new bytes are not verified yet, and must not go into a file that is served.
    public func openSpool(_ spool: String) throws(SystemError) -> File {
        let path = Self.path(ofSpool: spool)
        let file = try File(path, O_RDWR | O_CREAT | O_NOFOLLOW, mode: StoreDirectory.fileMode, in: directory)
        guard try file.status().st_nlink > 1 else { return file }
        let copy = try File(
            path + ".copy", O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: StoreDirectory.fileMode, in: directory)
        try copy.copyRange(from: file, at: 0, to: 0, count: Int(file.size()))
        try rename(path + ".copy", to: path)
        return copy
    }

    /// Removes a spool that no durable checkpoint needs. If it cannot be removed, it costs space until the next garbage
    /// collection.
    public func removeSpool(_ spool: String) { unlinkat(directory.descriptor, Self.path(ofSpool: spool), 0) }

    /// Removes what a layer's streams have left, except the spool that is still in use.
    public func removeSpools(of layer: Digest, except kept: String?) throws(SystemError) {
        for name in try names(in: Self.spoolDirectory) where name.hasPrefix(layer.hex) && name != kept {
            removeSpool(name)
        }
    }
}
