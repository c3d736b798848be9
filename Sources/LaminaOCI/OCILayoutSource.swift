import Glibc
public import LaminaDigest

/// An OCI image layout directory as a source of blobs.
///
/// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
public struct OCILayoutSource: BlobSource {
    /// The absolute path of the layout.
    public let directory: String

    /// How many bytes one read takes: large enough for the disk, small enough to stay in the processor's cache.
    private static let pieceByteCount = 256 << 10

    /// Takes the directory's path. Nothing is read yet.
    public init(directory: String) { self.directory = absolutePath(directory) }

    public var location: String { "oci:" + directory }

    public func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        try checkRange(range, of: digest, size: size)
        let blob = try openBlob(digest)
        let actual = try blob.size()
        guard actual == size else {
            throw OCIError(.sizeMismatch, "\(blob.path) has \(actual) bytes; its descriptor says \(size)")
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: Int(min(Int64(range.count), Int64(Self.pieceByteCount))), alignment: 4096)
        defer { buffer.deallocate() }
        var offset = range.lowerBound
        while offset < range.upperBound {
            if shouldStop() { throw OCIError(.interrupted, "reading \(blob.path) was interrupted") }
            let piece = UnsafeMutableRawBufferPointer(
                rebasing: buffer[..<Int(min(Int64(buffer.count), range.upperBound - offset))])
            guard try blob.read(into: piece, at: offset) == piece.count else {
                throw OCIError(.sizeMismatch, "\(blob.path) became shorter than \(size) bytes while it was read")
            }
            try sink(UnsafeRawBufferPointer(piece))
            offset += Int64(piece.count)
        }
    }

    public func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
        let digest: Digest
        var mediaType = ""
        var descriptor: Descriptor?
        switch target {
        case .digest(let wanted):
            digest = wanted
        case .tag, .only:
            let chosen = try index().choose(target, in: directory)
            digest = chosen.digest
            mediaType = chosen.mediaType
            descriptor = chosen
        }
        let blob = try openBlob(digest)
        let bytes = try blob.readAll(limit: ImageLimits.manifestByteCount)
        if let descriptor {
            try descriptor.verify(bytes, from: location)
        } else {
            try digest.verify(bytes, from: location)
        }
        if mediaType.isEmpty {
            mediaType =
                switch try ImageDocument(parsing: bytes, mediaType: nil, name: digest.description) {
                case .manifest(let manifest): manifest.mediaType
                case .index(let index): index.mediaType
                }
        }
        return (bytes, mediaType, digest)
    }

    /// The layout's index.json.
    ///
    /// - Throws: `notFound` without the directory, `badLayout` for anything else that is not a layout of version 1.
    public func index() throws(OCIError) -> ImageIndex {
        guard ImageReference.isDirectory(directory) else {
            throw OCIError(.notFound, "there is no directory \(directory)")
        }
        do throws(OCIError) {
            let marker = try LayoutFile(reading: directory + "/oci-layout").readAll(limit: 1 << 16)
            let version = try JSONField(parsing: marker, as: directory + "/oci-layout").required("imageLayoutVersion")
                .string()
            guard version.hasPrefix("1.") else {
                throw OCIError(
                    .unsupported, "\(directory) is an OCI layout of version '\(version.prefix(20))'; lamina reads 1.0")
            }
            let name = directory + "/index.json"
            let field = try JSONField(
                parsing: LayoutFile(reading: name).readAll(limit: ImageLimits.manifestByteCount), as: name)
            return try ImageIndex(field, mediaType: MediaType.ociIndex)
        } catch {
            guard error.code == .notFound || error.code == .badManifest else { throw error }
            throw OCIError(.badLayout, "\(directory) is no OCI image layout", cause: error)
        }
    }

    private func openBlob(_ digest: Digest) throws(OCIError) -> LayoutFile {
        do throws(OCIError) {
            return try LayoutFile(reading: "\(directory)/blobs/sha256/\(digest.hex)")
        } catch {
            guard error.code == .notFound else { throw error }
            throw OCIError(.notFound, "the OCI layout \(directory) has no blob \(digest)", cause: error.cause)
        }
    }
}

extension ImageIndex {
    /// The manifest of a layout that a tag means.
    fileprivate func choose(_ target: ManifestTarget, in directory: String) throws(OCIError) -> Descriptor {
        let tags = manifests.compactMap { $0.annotations[Annotation.referenceName] }
        // A layout may have thousands of tags, but an error should fit a terminal.
        let list = tags.prefix(20).joined(separator: ", ") + (tags.count > 20 ? ", …" : "")
        let inside = tags.isEmpty ? "its manifests carry no tags" : "it has \(list)"
        let matching =
            switch target {
            case .tag(let tag): manifests.filter { $0.annotations[Annotation.referenceName] == tag }
            case .digest(let digest): manifests.filter { $0.digest == digest }
            case .only: manifests
            }
        guard let first = matching.first else {
            throw OCIError(
                .notFound,
                manifests.isEmpty
                    ? "the OCI layout \(directory) is empty"
                    : "the OCI layout \(directory) has no tag '\(target)'; \(inside)")
        }
        guard matching.allSatisfy({ $0.digest == first.digest }) else {
            let problem = target == .only ? "\(matching.count) manifests" : "several manifests tagged '\(target)'"
            throw OCIError(.badReference, "the OCI layout \(directory) has \(problem); name one: \(inside)")
        }
        return first
    }
}
