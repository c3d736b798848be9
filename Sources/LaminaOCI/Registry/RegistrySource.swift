public import LaminaDigest

/// One repository of a registry as a source of blobs.
public struct RegistrySource: BlobSource {
    public let client: RegistryClient
    /// The path below the registry's host, such as `library/debian`.
    public let repository: String
    /// Of the table of contents that a blob's bytes are held against.
    private var toc: Digest?

    public init(client: RegistryClient, repository: String) {
        self.client = client
        self.repository = repository
    }

    public var location: String { "\(client.endpoint.scheme)://\(client.endpoint.host)/\(repository)" }

    public func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        try client.readBlob(
            digest, of: repository, toc: toc, size: size, range: range, shouldStop: shouldStop, into: sink)
    }

    public func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
        try client.manifest(target, of: repository, shouldStop: shouldStop)
    }

    public func distrust(_ digest: Digest) -> Bool {
        client.distrust(digest, of: repository, toc: toc)
    }

    public func trusting(_ toc: Digest?) -> any BlobSource {
        var source = self
        source.toc = toc
        return source
    }
}
