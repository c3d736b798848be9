public import LaminaDigest

/// What names a blob: its digest, its size, and its type.
///
/// https://github.com/opencontainers/image-spec/blob/main/descriptor.md
public struct Descriptor: Hashable, Sendable {
    public var mediaType: String
    public var digest: Digest
    /// Bytes of the blob; never negative if read from a document.
    public var size: Int64
    public var annotations: [String: String]
    /// In an index: the platform of the manifest.
    public var platform: Platform?
    /// For a blob that its registry may not hand out: where else it is.
    public var urls: [String] = []

    public init(
        mediaType: String, digest: Digest, size: Int64, annotations: [String: String] = [:], platform: Platform? = nil
    ) {
        self.mediaType = mediaType
        self.digest = digest
        self.size = size
        self.annotations = annotations
        self.platform = platform
    }

    init(_ field: JSONField) throws(OCIError) {
        let size = try field.required("size")
        self.init(
            mediaType: try field.optional("mediaType")?.string() ?? "",
            digest: try field.required("digest").digest(),
            size: try size.integer(),
            annotations: try field.optional("annotations")?.strings(atMost: ImageLimits.annotationCount) ?? [:])
        if let platform = try field.optional("platform") { self.platform = try Platform(platform) }
        for url in try field.optional("urls")?.elements(atMost: ImageLimits.urlCount) ?? [] {
            urls.append(try url.string())
        }
        guard self.size >= 0 else { throw size.wrong("0 or more") }
    }

    /// The descriptor as a JSON object.
    package var json: JSON {
        var members = [
            JSON.Member("mediaType", .string(mediaType)), JSON.Member("digest", .string(digest.description)),
            JSON.Member("size", .integer(size)),
        ]
        if !annotations.isEmpty { members.append(JSON.Member("annotations", .strings(annotations))) }
        if let platform { members.append(JSON.Member("platform", platform.json)) }
        if !urls.isEmpty { members.append(JSON.Member("urls", .array(urls.map { .string($0) }))) }
        return .object(members)
    }

    /// Checks bytes against the descriptor.
    ///
    /// - Throws: `sizeMismatch` or `digestMismatch`, with expected and actual values.
    public func verify(_ bytes: [UInt8], from location: String) throws(OCIError) {
        guard bytes.count == size else {
            throw OCIError(
                .sizeMismatch, "\(digest) from \(location) has \(bytes.count) bytes; its descriptor says \(size)")
        }
        try digest.verify(bytes, from: location)
    }
}

extension Digest {
    func verify(_ bytes: [UInt8], from location: String) throws(OCIError) {
        let actual = SHA256.hash(bytes)
        guard actual == self else {
            throw OCIError(.digestMismatch, "\(self) from \(location) has bytes whose digest is \(actual)")
        }
    }
}
