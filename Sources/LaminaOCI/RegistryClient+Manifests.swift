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
        let receiver = ManifestReceiver(subject: subject)
        let head = try fetch(
            "\(repository)/manifests/\(target)", headers: ["Accept: " + MediaType.accepted.joined(separator: ", ")],
            subject: subject, into: receiver, shouldStop: shouldStop)
        let bytes = receiver.bytes
        let digest = SHA256.hash(bytes)
        if case .digest(let wanted) = target {
            try wanted.verify(bytes, from: endpoint.url)
        } else if let said = head.digest {
            try said.verify(bytes, from: endpoint.url)
        }
        return (bytes, head.contentType ?? "", digest)
    }
}

/// Collects a document of bounded size; begins anew with each exchange.
final class ManifestReceiver: HTTPReceiver {
    private(set) var bytes: [UInt8] = []
    private let subject: String

    init(subject: String) { self.subject = subject }

    // A document is whole or worth nothing.
    var progress: Int64 { 0 }
    var isComplete: Bool? { nil }

    func prepare() -> Range<Int64>? {
        bytes = []
        return nil
    }

    func begin(_ head: HTTPHead) throws {
        guard head.status == 200 else { throw OCIError(.http, "the registry sends a part of \(subject), unasked") }
        if let length = head.contentLength, length > ImageLimits.manifestByteCount { throw tooLong }
    }

    func receive(_ piece: UnsafeRawBufferPointer) throws -> Bool {
        guard bytes.count + piece.count <= ImageLimits.manifestByteCount else { throw tooLong }
        bytes += piece
        return true
    }

    private var tooLong: OCIError {
        OCIError(.badManifest, "\(subject) is larger than \(ImageLimits.manifestByteCount) bytes")
    }
}
