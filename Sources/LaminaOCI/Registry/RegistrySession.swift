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
        /// Which servers sent all of a blob where a part was asked for, and until when that is believed.
        var withoutRanges: [RegistryHost.Key: ContinuousClock.Instant] = [:]
        /// Who gave a blob last, and who gave wrong bytes of it.
        var givers: [BlobTrust: RegistryHost.Key] = [:]
        var liars: [BlobTrust: Set<RegistryHost.Key>] = [:]
        var spools: [SpoolPlace: BlobSpool] = [:]
    }

    /// A blob as one table of contents describes it: by a false table no server is found wrong for the others. And as one repository has
    /// it: an image that lists the blob beside a false diff ID is none of the other images' business.
    struct BlobTrust: Hashable {
        /// Below `/v2/`.
        var path: String
        var blob: Digest
        var toc: Digest?
    }

    /// Where a kept blob came from. What one repository gave is not given to a request for another repository.
    struct SpoolPlace: Hashable {
        var registry: RegistryClient.Endpoint
        var path: String
        var blob: Digest
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
    /// And one without ranges: to find that out again costs a request that is given up after its first bytes.
    private static let rangeMemory: Duration = .seconds(60)

    init(credentials: CredentialStore) { authorizer = Authorizer(store: credentials) }

    /// The servers for a request: those that can, first those that lately did not fail, last those that lied about the blob.
    func order(_ hosts: [RegistryHost], _ capability: RegistryHost.Capability, of blob: BlobTrust?) -> [RegistryHost] {
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

    /// - Parameter isSlow: whether it worked only because it was given all the time that it wanted.
    func worked(_ host: RegistryHost, for blob: BlobTrust?, isSlow: Bool) {
        state.withLock { state in
            if !isSlow { state.failures[host.key] = nil }
            guard let blob else { return }
            if state.givers.count >= Self.entryLimit { state.givers = [:] }
            state.givers[blob] = host.key
        }
    }

    /// The server that gave the blob last is asked last for it from now on.
    ///
    /// - Parameter registry: as its clients call it.
    /// - Returns: whether another server is left that was not found wrong. False also if the same server was wrong before: so a loop
    ///   that goes on as long as this is true asks each server once.
    func distrust(_ blob: BlobTrust, of registry: RegistryClient.Endpoint, among hosts: [RegistryHost]) -> Bool {
        state.withLock { state in
            // What was kept of it is as wrong.
            let place = SpoolPlace(registry: registry, path: blob.path, blob: blob.blob)
            state.spools.removeValue(forKey: place)?.close()
            guard let giver = state.givers.removeValue(forKey: blob) else { return false }
            if state.liars.count >= Self.entryLimit { state.liars = [:] }
            guard state.liars[blob, default: []].insert(giver).inserted else { return false }
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

    func knowsNoRanges(_ host: RegistryHost) -> Bool {
        let now = ContinuousClock().now
        return state.withLock { state in state.withoutRanges[host.key].map { now < $0 } ?? false }
    }

    func learnt(noRangesAt host: RegistryHost) {
        let until = ContinuousClock().now + Self.rangeMemory
        state.withLock { $0.withoutRanges[host.key] = until }
    }

    func spool(at place: SpoolPlace) -> BlobSpool? { state.withLock { $0.spools[place] } }

    /// The one spool of a blob: the one that is there, or the one that `make` makes.
    func spool(at place: SpoolPlace, orMake make: () throws -> BlobSpool) rethrows -> BlobSpool {
        try state.withLock { state in
            if let spool = state.spools[place] { return spool }
            let spool = try make()
            state.spools[place] = spool
            return spool
        }
    }

    func forget(_ spool: BlobSpool, at place: SpoolPlace) {
        state.withLock { if $0.spools[place] === spool { $0.spools[place] = nil } }
    }
}
