import Glibc
public import LaminaDigest
public import LaminaSystem

// A file's name is its digest, which a stream knows only when it has read the file. Until then a large file is written to a
// spool: `content/stream/<layer>-<stream>-<offset in the tar>`. A file that comes again alone goes to
// `content/stream/restream-<name>`.

extension ContentFiles {
    static let spoolDirectory = "stream"

    static func path(ofSpool spool: String) -> String { spoolDirectory + "/" + spool }

    /// The spool's name for the file at `offset` in the tar of a stream's layer. Streams of one layer from two repositories have each
    /// their own: until their end they are two blobs.
    public static func spoolName(_ stream: StreamID, of layer: Digest, offset: Int64) -> String {
        spoolPrefix(stream, layer) + "\(offset)"
    }

    private static func spoolPrefix(_ stream: StreamID, _ layer: Digest) -> String { "\(layer.hex)-\(stream.row)-" }

    /// The layer and the stream that a spool's name is of; nil for the names of earlier versions, which nobody goes on with.
    static func stream(ofSpool spool: String) -> (layer: Digest, stream: Int64)? {
        let parts = spool.split(separator: "-")
        guard parts.count == 3, let layer = Digest(hex: parts[0]), let stream = Int64(parts[1]) else { return nil }
        return (layer, stream)
    }

    private static let restreamPrefix = "restream-"

    /// The spool's name for a file that comes again alone. Two repositories may have each a file of their own with one digest.
    public static func restreamSpoolName(_ name: BackingName) -> String {
        restreamPrefix + name.digest.hex + (name.claim.map { ".\($0.hex)" } ?? "")
    }

    /// The file that a spool of one is for; nil for other spools.
    static func file(ofSpool spool: String) -> BackingName? {
        guard spool.hasPrefix(restreamPrefix) else { return nil }
        return BackingName(file: String(spool.dropFirst(restreamPrefix.count)))
    }

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

    /// Removes what a layer's stream has left, except the spool that is still in use.
    public func removeSpools(of stream: StreamID, _ layer: Digest, except kept: String?) throws(SystemError) {
        let prefix = Self.spoolPrefix(stream, layer)
        for name in try names(in: Self.spoolDirectory) where name.hasPrefix(prefix) && name != kept {
            removeSpool(name)
        }
    }
}
