public import LaminaDigest

/// What to ask of a repository.
public enum ManifestTarget: Hashable, Sendable, CustomStringConvertible {
    case tag(String)
    case digest(Digest)
    /// The only manifest of a layout; registries have no such target.
    case only

    public var description: String {
        switch self {
        case .tag(let tag): tag
        case .digest(let digest): digest.description
        case .only: "the only manifest"
        }
    }
}

/// The bytes of a manifest or index, and what names them.
public typealias ManifestBytes = (bytes: [UInt8], mediaType: String, digest: Digest)

/// Where the blobs and manifests of one repository come from. Calls block: make them on separate threads.
public protocol BlobSource: Sendable {
    /// The form in which the index stores it, so that a later process finds it again: `oci:/dir`, `http://127.0.0.1:5000/name`,
    /// or for one blob `url:https://…`; ``BlobSources/open(_:registries:)`` reads it.
    var location: String { get }

    /// Reads a range of a blob.
    ///
    /// A broken connection is no error as long as the transfer makes progress: it goes on behind the last byte that `sink` got.
    /// - Parameters:
    ///   - size: the blob's whole size in bytes, as its descriptor says.
    ///   - range: bytes of the blob, within `0..<size`.
    ///   - shouldStop: asked at least every 200 ms, also while nothing arrives; `true` ends the call with `interrupted`.
    ///   - sink: gets the bytes in order, in pieces of any size, exactly `range.count` in all, on the calling thread. When it
    ///     throws, the transfer stops and that error is rethrown.
    /// - Throws: ``OCIError``, or what `sink` throws.
    func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void) throws

    /// The bytes of a manifest or index, at most ``ImageLimits/manifestByteCount``, verified if the target is a digest.
    ///
    /// - Throws: ``OCIError``.
    func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes

    /// Notes that bytes of a blob from here were wrong, so that another server is asked for them next.
    ///
    /// - Returns: whether there is an elsewhere that has not been distrusted. Asked again without a read in between, false: a loop that
    ///   goes on while it is true comes to its end.
    func distrust(_ digest: Digest) -> Bool

    /// The same source for a caller that verifies its bytes by a table of contents. A server that is wrong by that table is not distrusted by callers with another table.
    func trusting(_ toc: Digest?) -> any BlobSource
}

extension BlobSource {
    public func distrust(_ digest: Digest) -> Bool { false }
    public func trusting(_ toc: Digest?) -> any BlobSource { self }

    /// Reads a whole small blob into memory and verifies its size and digest.
    ///
    /// - Parameter limit: the largest size in bytes that is accepted.
    /// - Throws: `sizeMismatch` above `limit`, `digestMismatch`, and what ``read(_:size:range:shouldStop:into:)`` throws.
    public func blob(
        _ descriptor: Descriptor, limit: Int = ImageLimits.manifestByteCount,
        shouldStop: @Sendable () -> Bool = { false }
    ) throws -> [UInt8] {
        guard descriptor.size >= 0, descriptor.size <= limit else {
            throw OCIError(
                .sizeMismatch,
                "\(descriptor.digest) is said to have \(descriptor.size) bytes; at most \(limit) are allowed here")
        }
        while true {
            var bytes: [UInt8] = []
            bytes.reserveCapacity(Int(descriptor.size))
            if descriptor.size > 0 {
                try read(
                    descriptor.digest, size: descriptor.size, range: 0..<descriptor.size, shouldStop: shouldStop
                ) { bytes.append(contentsOf: $0) }
            }
            do {
                try descriptor.verify(bytes, from: location)
                return bytes
            } catch {
                // Each time somebody more is distrusted.
                guard distrust(descriptor.digest), !shouldStop() else { throw error }
            }
        }
    }
}

/// Checks for the sources that a range is within its blob.
func checkRange(_ range: Range<Int64>, of digest: Digest, size: Int64) throws(OCIError) {
    guard range.lowerBound >= 0, range.upperBound <= size else {
        throw OCIError(
            .sizeMismatch,
            "bytes \(range.lowerBound)..<\(range.upperBound) are not within the \(size) bytes of \(digest)")
    }
}

/// Opens sources by what the index stores.
public enum BlobSources {
    /// Reads ``BlobSource/location``. Nothing is read or connected yet.
    ///
    /// - Throws: `badReference` for text that is not a location.
    public static func open(
        _ location: String, registries: Registries = Registries()
    ) throws(OCIError) -> any BlobSource {
        if location.hasPrefix("oci:/"), !location.utf8.contains(0) {
            return OCILayoutSource(directory: String(location.dropFirst(4)))
        }
        if location.hasPrefix(URLSource.prefix),
            let source = URLSource(
                String(location.dropFirst(URLSource.prefix.count)), settings: registries.settings)
        {
            return source
        }
        for scheme in [RegistryClient.Endpoint.Scheme.http, .https] {
            guard location.hasPrefix("\(scheme)://") else { continue }
            let rest = location.dropFirst("\(scheme)://".count)
            guard let slash = rest.firstIndex(of: "/"), ImageReference.isHost(rest[..<slash]) else { break }
            let repository = String(rest[rest.index(after: slash)...])
            guard ImageReference.isRepository(repository) else { break }
            let client = try registries.client(
                for: String(rest[..<slash]), repository: repository, plainHTTP: scheme == .http)
            return RegistrySource(client: client, repository: repository)
        }
        throw OCIError(.badReference, "'\(location.prefix(300))' is no location of blobs")
    }
}

extension ImageReference {
    /// The source that the image comes from. Nothing is read or connected yet.
    ///
    /// - Parameter plainHTTP: HTTP without TLS also for registries on other machines; for this machine it is the default.
    public func openSource(
        plainHTTP: Bool = false, registries: Registries = Registries()
    ) throws(OCIError) -> any BlobSource {
        switch place {
        case .layout(let directory):
            return OCILayoutSource(directory: directory)
        case .registry(let host, let repository):
            return RegistrySource(
                client: try registries.client(for: host, repository: repository, plainHTTP: plainHTTP),
                repository: repository)
        }
    }
}
