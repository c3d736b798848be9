import LaminaDigest
import LaminaSystem
import Synchronization

/// What lamina has learnt about registries while it runs: tokens, redirects, which servers fail, which do not support ranges.
///
/// Shared by all clients of one engine; nothing of it is written anywhere.
final class RegistrySession: Sendable {
    let authorizer: Authorizer
    private let state = Mutex(State())

    private struct State {
        var redirects: [Place: String] = [:]
        /// Which servers are asked last, and until when.
        var failures: [RegistryHost.Key: ContinuousClock.Instant] = [:]
        var withoutRanges: Set<RegistryHost.Key> = []
        /// Which server last gave a blob, and which ones gave wrong bytes of it.
        var givers: [Digest: RegistryHost.Key] = [:]
        var liars: [Digest: Set<RegistryHost.Key>] = [:]
        var spools: [Digest: BlobSpool] = [:]
    }

    struct Place: Hashable {
        var host: RegistryHost.Key
        var resource: String
    }

    // An entry has some hundred bytes; fewer layers are in use at one time.
    private static let entryLimit = 1024
    /// How long a server that failed is asked last.
    private static let failureMemory: Duration = .seconds(30)
    /// And a slow one: to measure it again takes `slowLimit`.
    private static let slowMemory: Duration = .seconds(300)

    init(credentials: CredentialStore) { authorizer = Authorizer(store: credentials) }

    /// The servers for a request: only those that can answer it, first those that did not fail recently, last those that gave
    /// wrong bytes of the blob.
    func order(_ hosts: [RegistryHost], _ capability: RegistryHost.Capability, of blob: Digest?) -> [RegistryHost] {
        let now = ContinuousClock().now
        let (failures, liars) = state.withLock { state in (state.failures, blob.flatMap { state.liars[$0] } ?? []) }
        func rank(_ host: RegistryHost) -> Int {
            if liars.contains(host.key) { return 2 }
            return failures[host.key].map { now < $0 } == true ? 1 : 0
        }
        return hosts.filter { $0.capabilities.contains(capability) }.enumerated()
            .sorted { (rank($0.element), $0.offset) < (rank($1.element), $1.offset) }.map(\.element)
    }

    func failed(_ host: RegistryHost, wasSlow: Bool) {
        let until = ContinuousClock().now + (wasSlow ? Self.slowMemory : Self.failureMemory)
        state.withLock { $0.failures[host.key] = until }
    }

    /// - Parameter isSlow: whether it worked only because it got all the time that it wanted.
    func worked(_ host: RegistryHost, for blob: Digest?, isSlow: Bool) {
        state.withLock { state in
            if !isSlow { state.failures[host.key] = nil }
            guard let blob else { return }
            if state.givers.count >= Self.entryLimit { state.givers = [:] }
            state.givers[blob] = host.key
        }
    }

    /// The server that last gave a blob is asked last for it from now on; false if there is no other server.
    func distrust(_ blob: Digest, among hosts: [RegistryHost]) -> Bool {
        state.withLock { state in
            // What was kept of it is wrong too.
            state.spools[blob]?.close()
            state.spools[blob] = nil
            guard let giver = state.givers[blob] else { return false }
            if state.liars.count >= Self.entryLimit { state.liars = [:] }
            state.liars[blob, default: []].insert(giver)
            return hosts.contains { !(state.liars[blob] ?? []).contains($0.key) && $0.capabilities.contains(.pull) }
        }
    }

    // MARK: Redirects

    func redirect(of resource: String, at host: RegistryHost) -> String? {
        state.withLock { $0.redirects[Place(host: host.key, resource: resource)] }
    }

    func keep(redirect: String?, of resource: String, at host: RegistryHost) {
        state.withLock { state in
            if state.redirects.count >= Self.entryLimit { state.redirects = [:] }
            state.redirects[Place(host: host.key, resource: resource)] = redirect
        }
    }

    // MARK: Servers without ranges

    func knowsNoRanges(_ host: RegistryHost) -> Bool { state.withLock { $0.withoutRanges.contains(host.key) } }

    func learnt(noRangesAt host: RegistryHost) { state.withLock { _ = $0.withoutRanges.insert(host.key) } }

    func spool(of blob: Digest) -> BlobSpool? { state.withLock { $0.spools[blob] } }

    /// The one spool of a blob: the existing one, or the one that `make` makes.
    func spool(of blob: Digest, orMake make: () throws -> BlobSpool) rethrows -> BlobSpool {
        try state.withLock { state in
            if let spool = state.spools[blob] { return spool }
            let spool = try make()
            state.spools[blob] = spool
            return spool
        }
    }

    func forget(_ spool: BlobSpool, of blob: Digest) {
        state.withLock { if $0.spools[blob] === spool { $0.spools[blob] = nil } }
    }
}
