import Glibc
public import LaminaDigest
import LaminaSystem

/// A reverse proxy on this machine in front of a registry, which records what passes, and misbehaves as told.
///
/// It has one thread for each connection; connections to clients stay open between requests, like a registry's.
public final class CountingProxy: Sendable {
    /// A request that has passed.
    public struct Request: Sendable, Hashable {
        public var method: String
        public var path: String
        /// The Range field as received.
        public var range: String?
        /// How many bytes the Range field asks for.
        public var rangeByteCount: Int? { range.flatMap(CountingProxy.range).map { $0.count } }
        /// The Authorization field as received.
        public var authorization: String?
        /// All fields as received, names in lower case.
        public var fields: [String: String] = [:]
        /// For a request for a blob: which blob.
        public var blob: Digest?
        public var status = 0
        /// Which bytes of the blob have been sent.
        public var sent: Range<Int64> = 0..<0
        /// Which connection it came on, counted from 0.
        public var connection: Int
    }

    struct State {
        var faults = Faults()
        var requests: [Request] = []
        /// Since the proxy began: gives connections permanent names.
        var connectionCount = 0
        /// The value at the last reset.
        var forgottenCount = 0
        var open: [Int: LoopbackSocket] = [:]
        var threads: [Thread] = []
        var isStopped = false
        var tokens: TokenServer?
    }

    public let port: UInt16
    let upstream: UInt16
    let state = Monitor(State())
    private let listener: LoopbackSocket

    /// The beginning of references: `127.0.0.1:PORT`.
    public var host: String { "127.0.0.1:\(port)" }

    /// Starts a proxy in front of the server on `upstream`.
    public init(upstream: UInt16) throws {
        self.upstream = upstream
        (listener, port) = try LoopbackSocket.listening()
        let listener = listener
        let thread = try Thread("proxy") { [weak self] in
            while let client = listener.accepted() {
                guard let self else { return }
                self.begin(client)
            }
        }
        state.withLock { $0.threads.append(thread) }
    }

    deinit { listener.hangUp() }

    /// Closes every connection and waits for the threads.
    public func stop() {
        listener.hangUp()
        let threads = state.withLock(notify: true) { state in
            state.isStopped = true
            state.open.values.forEach { $0.hangUp() }
            defer { state.threads = [] }
            return state.threads
        }
        threads.forEach { $0.join() }
    }

    private func begin(_ client: LoopbackSocket) {
        let number = state.withLock { state -> Int? in
            guard !state.isStopped else { return nil }
            defer { state.connectionCount += 1 }
            state.open[state.connectionCount] = client
            return state.connectionCount
        }
        guard let number else { return }
        let thread = try? Thread("proxy \(number)") {
            self.serve(client, connection: number)
            client.hangUp()
            self.state.withLock { _ = $0.open.removeValue(forKey: number) }
        }
        if let thread { state.withLock { $0.threads.append(thread) } }
    }

    // MARK: What passed

    /// What to do wrong from now on.
    public var faults: Faults {
        get { state.withLock { $0.faults } }
        set { state.withLock(notify: true) { $0.faults = newValue } }
    }

    /// Only requests with a token of this server pass; nil: all pass.
    public var tokens: TokenServer? {
        get { state.withLock { $0.tokens } }
        set { state.withLock { $0.tokens = newValue } }
    }

    /// Everything that passed since the last reset.
    public var requests: [Request] { state.withLock { $0.requests } }

    /// How many connections came since the last reset.
    public var connectionCount: Int { state.withLock { $0.connectionCount - $0.forgottenCount } }

    /// How many connections are open now.
    public var openConnectionCount: Int { state.withLock { $0.open.count } }

    /// Forgets what passed.
    public func reset() {
        state.withLock { state in
            state.requests = []
            state.forgottenCount = state.connectionCount
        }
    }

    /// The requests for a blob.
    public func requests(of blob: Digest) -> [Request] { requests.filter { $0.blob == blob } }

    /// How many bytes of blobs have been sent; of one blob if given.
    public func sentByteCount(of blob: Digest? = nil) -> Int64 {
        requests.reduce(0) { $0 + ($1.blob != nil && (blob == nil || $1.blob == blob) ? Int64($1.sent.count) : 0) }
    }

    /// How many bytes have been sent more than once.
    public func repeatedByteCount(of blob: Digest) -> Int64 {
        let ranges = requests(of: blob).map(\.sent).filter { !$0.isEmpty }.sorted { $0.lowerBound < $1.lowerBound }
        var covered: Int64 = 0
        var repeated: Int64 = 0
        for range in ranges {
            repeated += max(0, min(range.upperBound, covered) - range.lowerBound)
            covered = max(covered, range.upperBound)
        }
        return repeated
    }
}
