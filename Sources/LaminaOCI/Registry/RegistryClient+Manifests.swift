import LaminaDigest

extension RegistryClient {
    /// See ``BlobSource/manifest(_:shouldStop:)``.
    func manifest(
        _ target: ManifestTarget, of repository: String, shouldStop: @Sendable () -> Bool
    ) throws -> ManifestBytes {
        switch target {
        case .digest: break
        case .tag(let tag):
            guard ImageReference.isTag(tag) else { throw OCIError(.badReference, "'\(tag.prefix(150))' is no tag") }
        case .only:
            throw OCIError(.badReference, "\(repository) on \(endpoint.host) needs a tag or a digest")
        }
        let subject = "manifest \(target) of \(repository)"
        var resource = Resource(repository: repository, path: "manifests/\(target)", subject: subject)
        resource.headers = ["Accept: " + MediaType.accepted.joined(separator: ", ")]
        if case .tag = target { resource.capability = .resolve }
        let receiver = ManifestReceiver(target: target, subject: subject, place: endpoint.host)
        let (head, _) = try fetch(resource, into: receiver, shouldStop: shouldStop)
        return (receiver.bytes, head.contentType ?? "", SHA256.hash(receiver.bytes))
    }
}

/// Collects a manifest, and accepts it only if it is the one that was asked for: a mirror that gives another one is skipped.
final class ManifestReceiver: DocumentReceiver {
    /// What a manifest or an index has at least one of (image-spec's manifest.md and image-index.md; Docker's schema 1 too, which is refused
    /// by its own name).
    private static let names: Set<String> = [
        "schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "artifactType",
    ]

    private let target: ManifestTarget
    private let place: String
    private var said: Digest?
    private var contentType: String?

    init(target: ManifestTarget, subject: String, place: String) {
        self.target = target
        self.place = place
        super.init(subject: subject, limit: ImageLimits.manifestByteCount)
    }

    override func begin(_ head: HTTPHead) throws {
        said = head.digest
        contentType = head.contentType
        try super.begin(head)
    }

    override func end() throws {
        // A proxy's own page, a log-in page that the request was redirected to, or an error as JSON comes with 200: the next server may have
        // the manifest.
        guard case .object(let members)? = try? JSON.parse(bytes),
            members.contains(where: { Self.names.contains($0.name) })
        else {
            let type = contentType.map { "of type '\($0.prefix(100))'" } ?? "without a Content-Type"
            throw OCIError(.http, "what came as \(subject) is no manifest but \(bytes.count) bytes \(type)")
        }
        if case .digest(let wanted) = target {
            try wanted.verify(bytes, from: place)
        } else if let said {
            try said.verify(bytes, from: place)
        }
    }
}

/// Collects a document of bounded size; begins again with each exchange.
class DocumentReceiver: HTTPReceiver {
    private(set) var bytes: [UInt8] = []
    let subject: String
    private let limit: Int

    init(subject: String, limit: Int) {
        self.subject = subject
        self.limit = limit
    }

    // A document is useful only as a whole.
    var progress: Int64 { 0 }
    var isComplete: Bool? { nil }

    func prepare() -> Range<Int64>? {
        bytes = []
        return nil
    }

    func begin(_ head: HTTPHead) throws {
        guard head.status == 200 else { throw OCIError(.http, "the registry sends a part of \(subject), unasked") }
        if let length = head.contentLength, length > limit { throw tooLong }
    }

    func receive(_ piece: UnsafeRawBufferPointer) throws -> Bool {
        guard bytes.count + piece.count <= limit else { throw tooLong }
        bytes += piece
        return true
    }

    func end() throws {}

    private var tooLong: OCIError {
        OCIError(.badManifest, "\(subject) is larger than \(limit) bytes")
    }
}
