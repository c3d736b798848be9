import LaminaDigest

extension RegistryClient {
    /// See ``BlobSource/read(_:size:range:shouldStop:into:)``.
    func readBlob(
        _ digest: Digest, of repository: String, toc: Digest? = nil, size: Int64, range: Range<Int64>,
        shouldStop: @Sendable () -> Bool, into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        let resource = blob(digest, of: repository, toc: toc)
        try readBlob(digest, resource, size: size, range: range, shouldStop: shouldStop, into: sink)
    }

    /// See ``BlobSource/distrust(_:)``.
    func distrust(_ digest: Digest, of repository: String, toc: Digest?) -> Bool {
        guard let trust = blob(digest, of: repository, toc: toc).trust else { return false }
        return session.distrust(trust, of: endpoint, among: hosts)
    }

    private func blob(_ digest: Digest, of repository: String, toc: Digest?) -> Resource {
        var resource = Resource(
            repository: repository, path: "blobs/\(digest)", subject: "blob \(digest) of \(repository)")
        resource.blob = digest
        resource.toc = toc
        return resource
    }

    /// The same, for a blob with its own path.
    ///
    /// - Parameters:
    ///   - path: below the host, with the query.
    ///   - subject: the name for errors.
    func readBlob(
        _ digest: Digest, path: String, subject: String, size: Int64, range: Range<Int64>,
        shouldStop: @Sendable () -> Bool, into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var resource = Resource(repository: "", path: path, subject: subject)
        resource.blob = digest
        try readBlob(digest, resource, size: size, range: range, shouldStop: shouldStop, into: sink)
    }

    private func readBlob(
        _ digest: Digest, _ resource: Resource, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        try checkRange(range, of: digest, size: size)
        if range.isEmpty { return }
        do {
            if let spool = session.spool(at: place(of: digest, resource)) {
                return try spool.read(range, shouldStop: shouldStop, into: sink)
            }
            let first = session.order(hosts, .pull, of: resource.trust).first
            if let first, session.knowsNoRanges(first), range.lowerBound > RangeReceiver.skipLimit {
                return try readSpooled(resource, size: size, range: range, shouldStop: shouldStop, into: sink)
            }
            try withoutActuallyEscaping(sink) { sink in
                let receiver = RangeReceiver(range: range, size: size, subject: resource.subject, sink: sink)
                do {
                    _ = try fetch(resource, into: receiver, shouldStop: shouldStop)
                } catch is RangesIgnored {
                    if let first { session.learnt(noRangesAt: first) }
                    try readSpooled(
                        resource, size: size, range: receiver.next..<range.upperBound, shouldStop: shouldStop,
                        into: sink)
                }
            }
        } catch let error as SinkError {
            throw error.cause
        }
    }

    func place(of digest: Digest, _ resource: Resource) -> RegistrySession.SpoolPlace {
        .init(registry: endpoint, path: resource.fullPath, blob: digest)
    }

    /// By way of a file that takes the whole blob once, whoever reads which part of it.
    private func readSpooled(
        _ resource: Resource, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        guard let digest = resource.blob else { return }
        let spool = try session.spool(at: place(of: digest, resource)) {
            try BlobSpool(of: resource, size: size, client: self)
        }
        try spool.read(range, shouldStop: shouldStop, into: sink)
    }
}

/// The server sent all of the blob although only its end was asked for.
struct RangesIgnored: Error {}

/// What the receiver of the bytes threw: no server's fault.
struct SinkError: Error {
    let cause: any Error
}

/// Passes on the bytes of a range, whichever part of the blob the registry sends.
///
/// https://www.rfc-editor.org/rfc/rfc9110#name-range: a server may ignore the field, and send the whole with 200.
final class RangeReceiver: HTTPReceiver {
    private let range: Range<Int64>
    private let size: Int64
    private let subject: String
    private let sink: (UnsafeRawBufferPointer) throws -> Void
    private let skipLimit: Int64
    /// The blob's offset of the next byte that the sink wants.
    private(set) var next: Int64
    /// The blob's offset of the next byte of the body.
    private var position: Int64 = 0
    private var bodyEnd: Int64 = 0

    /// How many bytes before the range are read and dropped; if there are more, the blob is rather kept, because the next
    /// ranges want it too.
    static let skipLimit: Int64 = 1 << 20

    init(
        range: Range<Int64>, size: Int64, subject: String, skipLimit: Int64 = RangeReceiver.skipLimit,
        sink: @escaping (UnsafeRawBufferPointer) throws -> Void
    ) {
        self.skipLimit = skipLimit
        self.range = range
        self.size = size
        self.subject = subject
        self.sink = sink
        next = range.lowerBound
    }

    var progress: Int64 { next - range.lowerBound }

    var isComplete: Bool? { next == range.upperBound }

    func end() {}

    func prepare() -> Range<Int64>? {
        next == 0 && range.upperBound == size ? nil : next..<range.upperBound
    }

    func begin(_ head: HTTPHead) throws {
        // A proxy that answers a range with 200 can be recognized: its length is that of the range.
        let isPartial =
            head.status == 206 || (head.contentRange?.range).map { Int64($0.count) == head.contentLength } == true
        guard isPartial else {
            if head.contentLength != size, head.contentType == "text/html" {
                throw OCIError(.http, "what came as \(subject) is a page of HTML")
            }
            if let length = head.contentLength, length != size { throw otherSize(length) }
            guard next <= skipLimit else { throw RangesIgnored() }
            position = 0
            bodyEnd = size
            return
        }
        guard let found = head.contentRange, let sent = found.range else {
            throw OCIError(.http, "the registry sends a part of \(subject) without saying which")
        }
        if let whole = found.size, whole != size { throw otherSize(whole) }
        guard sent.lowerBound <= next, sent.upperBound > next, sent.upperBound <= size else {
            throw OCIError(
                .http,
                "the registry sends bytes \(sent.lowerBound)-\(sent.upperBound - 1) of \(subject) instead of \(next)-\(range.upperBound - 1)"
            )
        }
        position = sent.lowerBound
        bodyEnd = sent.upperBound
    }

    func receive(_ bytes: UnsafeRawBufferPointer) throws -> Bool {
        let start = position
        let end = start + Int64(bytes.count)
        position = end
        if end > next, next < range.upperBound {
            let wanted = Int(next - start)..<Int(min(end, range.upperBound) - start)
            do { try sink(UnsafeRawBufferPointer(rebasing: bytes[wanted])) } catch { throw SinkError(cause: error) }
            next = start + Int64(wanted.upperBound)
        }
        // If the body ends with the range, its end keeps the connection for the next request.
        return next < range.upperBound || position <= bodyEnd && bodyEnd == range.upperBound
    }

    private func otherSize(_ found: Int64) -> OCIError {
        OCIError(.sizeMismatch, "\(subject) has \(found) bytes in the registry; its descriptor says \(size)")
    }
}
