import Glibc
import LaminaDigest
import Synchronization

/// Writes an OCI image layout directory: blobs first, then the manifest that names them.
///
/// https://github.com/opencontainers/image-spec/blob/main/image-layout.md. The same blobs and manifests always give the same
/// bytes. Safe to use from several threads, and beside other lamina processes that write to the same layout.
public final class OCILayoutWriter: Sendable {
    /// The absolute path of the layout.
    public let directory: String
    /// Whether blobs and the index are on disk before they get their names.
    public let isDurable: Bool

    private static let serial = Atomic<Int>(0)

    /// Makes the layout's directories and files, or uses those of an existing layout, whose tags and blobs stay.
    ///
    /// - Parameter durable: if false, a power cut may leave a layout with damaged blobs (which any reader notices).
    /// - Throws: `io`, `badLayout` for an existing directory that is not a layout.
    public init(directory: String, durable: Bool = true) throws(OCIError) {
        self.directory = absolutePath(directory)
        isDurable = durable
        try Self.makeDirectories(blobDirectory)
        let marker = self.directory + "/oci-layout"
        if access(marker, F_OK) != 0 {
            try replace(marker, with: JSON.object([.init("imageLayoutVersion", .string("1.0.0"))]).sortedBytes())
        }
        let lock = try lockIndex()
        defer { withExtendedLifetime(lock) {} }
        if access(indexPath, F_OK) != 0 {
            try replace(indexPath, with: ImageIndex(manifests: []).serialized())
        } else {
            _ = try OCILayoutSource(directory: self.directory).index()
        }
    }

    /// `blobs/sha256`
    var blobDirectory: String { directory + "/blobs/sha256" }

    private var indexPath: String { directory + "/index.json" }

    /// Writes a small blob.
    ///
    /// - Returns: its descriptor.
    public func addBlob(_ bytes: [UInt8], mediaType: String) throws(OCIError) -> Descriptor {
        let digest = SHA256.hash(bytes)
        let file = try beginBlob()
        do {
            try bytes.withUnsafeBytes { try file.write($0) }
        } catch let error as OCIError {
            throw error
        } catch {
            throw OCIError(.io, "cannot write \(digest) to \(directory)", cause: error)
        }
        try file.finish(digest: digest, size: Int64(bytes.count))
        return Descriptor(mediaType: mediaType, digest: digest, size: Int64(bytes.count))
    }

    /// Begins a blob of any size; it has no name in the layout until it is finished.
    public func beginBlob() throws(OCIError) -> BlobWriter {
        // Beside the blobs, so that the rename stays within one file system, but not among them.
        try BlobWriter(
            path: temporaryPath(in: directory + "/blobs"), blobDirectory: blobDirectory, isDurable: isDurable)
    }

    /// Adds a manifest or index, whose bytes are in the layout already, to index.json. With a tag, it replaces what had the
    /// tag; without a tag, it is added once. Other entries stay unchanged, with everything in them that lamina does not know.
    ///
    /// - Throws: `badReference` for a tag that cannot be an annotation's value, `notFound` without the manifest's blob,
    ///   `badLayout`, `io`.
    public func setManifest(_ descriptor: Descriptor, tag: String?) throws(OCIError) {
        if let tag, !ImageReference.isLayoutTag(tag) {
            throw OCIError(
                .badReference, "'\(tag.prefix(200))' is no tag: 1 to 255 printable ASCII characters without spaces")
        }
        let blob = "\(blobDirectory)/\(descriptor.digest.hex)"
        guard access(blob, F_OK) == 0 else { throw OCIError(.notFound, "\(blob) must be written before it is tagged") }
        var entry = descriptor
        entry.annotations[Annotation.referenceName] = tag
        let lock = try lockIndex()
        defer { withExtendedLifetime(lock) {} }
        // Reads it as a layout first, so that a directory that is none is not made worse.
        _ = try OCILayoutSource(directory: directory).index()
        let bytes = try LayoutFile(reading: indexPath).readAll(limit: ImageLimits.manifestByteCount)
        var index = try JSONField(parsing: bytes, as: indexPath).value
        guard case .array(var entries)? = index["manifests"] else {
            throw OCIError(.badLayout, "\(indexPath) has no manifests")
        }
        let name = tag.map { JSON.string($0) }
        let place = entries.firstIndex { other in
            let otherName = other["annotations"]?[Annotation.referenceName]
            return name == nil ? otherName == nil && other["digest"] == entry.json["digest"] : otherName == name
        }
        if let place {
            entries[place] = entry.json
            // A tag means one manifest; layouts of other writers may have had it twice.
            if let name {
                entries = entries.enumerated().filter {
                    $0.offset == place || $0.element["annotations"]?[Annotation.referenceName] != name
                }.map(\.element)
            }
        } else {
            entries.append(entry.json)
        }
        index["manifests"] = .array(entries)
        try replace(indexPath, with: index.sortedBytes())
    }

    /// Writes a file whole or not at all.
    private func replace(_ path: String, with bytes: [UInt8]) throws(OCIError) {
        let temporary = temporaryPath(in: directory)
        do throws(OCIError) {
            let file = try LayoutFile(temporary, O_WRONLY | O_CREAT | O_EXCL)
            do {
                try bytes.withUnsafeBytes { try file.append($0) }
            } catch {
                throw OCIError(.io, "cannot write \(path)", cause: error)
            }
            if isDurable { try file.sync() }
            guard rename(temporary, path) == 0 else { throw file.failed("rename") }
        } catch {
            unlink(temporary)
            throw error
        }
        if isDurable { try syncDirectory(directory) }
    }

    private func temporaryPath(in directory: String) -> String {
        "\(directory)/.lamina-\(getpid())-\(Self.serial.add(1, ordering: .relaxed).newValue)"
    }

    /// Keeps other writers of index.json, in this process and others, out until the file is closed.
    private func lockIndex() throws(OCIError) -> LayoutFile {
        let file = try LayoutFile(directory, O_RDONLY | O_DIRECTORY)
        while flock(file.descriptor, LOCK_EX) != 0 {
            guard errno == EINTR else { throw file.failed("lock") }
        }
        return file
    }

    private static func makeDirectories(_ path: String) throws(OCIError) {
        if mkdir(path, 0o755) == 0 { return }
        if errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            try makeDirectories(String(path[..<slash]))
            if mkdir(path, 0o755) == 0 { return }
        }
        let error = SystemCallError.last
        if ImageReference.isDirectory(path) { return }
        throw OCIError(.io, "cannot make the directory \(path)", cause: error)
    }
}

/// Waits until the names in a directory are on disk.
func syncDirectory(_ path: String) throws(OCIError) {
    let file = try LayoutFile(path, O_RDONLY | O_DIRECTORY)
    guard fsync(file.descriptor) == 0 else { throw file.failed("write to disk") }
}
