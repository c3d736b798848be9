public import LaminaDigest

/// What a ``CountingProxy`` does to the responses that pass it. May be changed while transfers are running.
public struct Faults: Sendable {
    /// Which requests the faults are for.
    public enum Scope: Sendable {
        case blobs, manifests, all
    }

    /// One byte of a blob that arrives inverted.
    public struct Corruption: Sendable {
        public var digest: Digest
        /// The byte's offset in the blob.
        public var offset: Int64
        /// How many responses with that byte are corrupted.
        public var count: Int

        public init(digest: Digest, offset: Int64, count: Int = .max) {
            self.digest = digest
            self.offset = offset
            self.count = count
        }
    }

    public var scope = Scope.blobs
    /// How long each answer is delayed, in seconds.
    public var delay: Double?
    /// How fast each response's body goes out.
    public var bytesPerSecond: Int?
    /// The connection is cut after this many bytes of a body; for the next `cutCount` responses that get that far.
    public var cutAfter: Int?
    public var cutCount = Int.max
    /// Nothing more goes out after this many bytes of a body, and the connection stays; for the next `stallCount` responses
    /// that get that far.
    public var stallAfter: Int?
    public var stallCount = Int.max
    /// The next `statusCount` requests are answered with this status and a small JSON body.
    public var status: Int?
    public var statusCount = Int.max
    /// Seconds of `Retry-After` with `status`.
    public var retryAfter: Int?
    /// `Range` does not reach the registry, which sends the whole with 200.
    public var ignoresRange = false
    /// The registry is asked for a range this many bytes further on, and its answer says so.
    public var shiftsRange: Int64?
    /// For a range that is at least twice as long, the registry is asked for this many bytes less, and its answer says so.
    public var shortensRange: Int64?
    /// Goes out instead of each body.
    public var body: [UInt8]?
    public var corruptions: [Corruption] = []
    /// What is answered in place of a blob: another one of the repository, which has its size.
    public var substitutes: [Digest: Digest] = [:]
    /// Answers 307 to this base URL (of another proxy) instead of passing the request on: `http://127.0.0.1:PORT`.
    public var redirect: String?
    /// Bodies go out as `Transfer-Encoding: chunked`, without a Content-Length.
    public var isChunked = false
    /// TLS passes unchanged to the server behind, and the connection ends after the handshake.
    public var endsBehindHandshake = false
    /// Fields that replace the registry's own.
    public var fields: [String: String] = [:]

    public init() {}

    /// 503 with `Retry-After` for the next `count` requests.
    public static func unavailable(count: Int, retryAfter: Int) -> Faults {
        var faults = Faults()
        faults.status = 503
        faults.statusCount = count
        faults.retryAfter = retryAfter
        return faults
    }
}
