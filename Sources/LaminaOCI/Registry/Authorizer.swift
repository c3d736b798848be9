import LaminaSystem

/// Knows what each registry asks for, and has it ready: tokens by scope, fetched once for all that need them and again before
/// they expire; passwords as the files and helpers have them.
final class Authorizer: Sendable {
    /// A header for one registry, with a number: a request that is refused tells by the number what to replace.
    struct Grant: Sendable {
        /// Empty if nothing is to be shown.
        let header: Secret
        let number: UInt64
        /// The credentials that it was fetched with; `nil` for a token that needs none.
        let credentials: Credentials?
        /// Where they come from.
        let origin: String?
        /// Whether there may be other credentials, to try if these are refused.
        let isOneOfSeveral: Bool
        /// Whether it is the credentials themselves, and not a token that was fetched with them.
        let isCredentials: Bool
        /// For a grant that shows no credentials because all that are one of several were refused: where the last of them come from.
        let insteadOf: String?
    }

    struct Scope: Hashable, Sendable {
        var host: RegistryHost.Key
        var repository: String
    }

    private struct Entry {
        var grant: Grant
        var renewAt: ContinuousClock.Instant?
        /// From the token service, to be used instead of the password.
        var refreshToken: Secret?
        /// The `scope` that the registry asked for with this repository; nil if it named none.
        var tokenScope: String?
    }

    private struct Refused {
        var credentials: Set<Credentials> = []
        /// Of the last of them.
        var origin = ""
    }

    private struct State {
        /// What each registry last asked for, whichever repository it was about.
        var challenges: [RegistryHost.Key: AuthChallenge] = [:]
        var entries: [Scope: Entry] = [:]
        /// Scopes whose token is being fetched.
        var underWay: Set<Scope> = []
        /// Files of credentials that requests named, by registry.
        var files: [String: String] = [:]
        /// For credentials that are one of several: those that were refused, until nothing else is left.
        var refused: [Scope: Refused] = [:]
        var count: UInt64 = 0

        /// What a registry asks for before it gives something of a repository, as far as that is known.
        func challenge(of scope: Scope) -> AuthChallenge? {
            guard var challenge = challenges[scope.host] else { return nil }
            challenge.parameters["scope"] = entries[scope]?.tokenScope
            return challenge
        }

        /// Keeps of a challenge what is true for all repositories of the registry. What it says of one of them would ask for that one
        /// with the credentials for another.
        mutating func keep(_ challenge: AuthChallenge, of host: RegistryHost.Key) {
            var challenge = challenge
            for name in ["scope", "error", "error_description"] { challenge.parameters[name] = nil }
            challenges[host] = challenge
        }
    }

    private let store: CredentialStore
    private let state = Monitor(State())
    // How many repositories are in use at one time; beyond that, the least useful are forgotten.
    private static let entryLimit = 512

    init(store: CredentialStore) { self.store = store }

    /// Why the secrets of the cluster are not known, if they were asked for.
    var clusterProblem: String? { store.cluster?.problem }

    /// Looks for the credentials of a registry and its mirrors in this file first, from now on.
    func use(file: String, for registry: String) {
        state.withLock { state in
            for name in Set([registry, RegistryHost.server(of: registry)]) where state.files[name] != file {
                state.files[name] = file
                // What was fetched with other credentials is useless now; challenges stay true.
                state.entries = [:]
            }
        }
    }

    /// What to send along; `nil` for a registry that has not asked for anything yet.
    func grant(
        for host: RegistryHost, repository: String, settings: RegistryClient.Settings, shouldStop: @Sendable () -> Bool
    ) throws -> Grant? {
        let scope = Scope(host: host.key, repository: repository)
        let known = state.withLock { state -> (AuthChallenge, Entry?)? in
            state.challenge(of: scope).map { ($0, state.entries[scope]) }
        }
        guard let (challenge, entry) = known else { return nil }
        if let entry, entry.renewAt.map({ $0 > ContinuousClock().now }) ?? true { return entry.grant }
        return try renew(scope, host, challenge, replacing: entry?.grant.number, settings, shouldStop)
    }

    /// A new grant after a 401, or after another refusal of a grant that was good before: registries say 400 and 403 for a
    /// token that they have forgotten, and some say 401 without a challenge. Then their last challenge is used.
    ///
    /// - Parameter refused: what was sent, if anything was.
    /// - Returns: `nil` if only what was refused can be sent.
    func grant(
        after head: HTTPHead, refused: Grant?, from host: RegistryHost, repository: String,
        settings: RegistryClient.Settings, shouldStop: @Sendable () -> Bool
    ) throws -> Grant? {
        let challenges = head.challenges.flatMap(AuthChallenge.parse)
        let scope = Scope(host: host.key, repository: repository)
        let known = refused == nil ? nil : state.withLock { $0.challenge(of: scope) }
        guard
            let challenge = challenges.first(where: { $0.scheme == "bearer" })
                ?? challenges.first(where: { $0.scheme == "basic" }) ?? known
        else { return nil }
        let isOfNoUse = challenge.parameters["error"] == "insufficient_scope"
        if let refused, refused.isOneOfSeveral, refused.isCredentials || isOfNoUse {
            refuse(refused.credentials, refused.origin, scope)
        }
        var grant: Grant?
        // The token is right, but its user has no permission: another one would be refused too, unless the credentials have
        // changed.
        if let refused, isOfNoUse, try find(host, repository, shouldStop)?.credentials == refused.credentials {
            grant = nil
        } else {
            state.withLock { state in
                state.keep(challenge, of: scope.host)
                // Without credentials nothing is given: a registry may have been wrong about them.
                if refused?.insteadOf != nil { state.refused[scope] = nil }
            }
            grant = try renew(scope, host, challenge, replacing: refused?.number, settings, shouldStop)
        }
        // Nothing is left: the next request begins again, because a registry may have been wrong.
        if grant == nil { state.withLock { $0.refused[scope] = nil } }
        return grant
    }

    /// Fetches what replaces the grant with this number, or waits for another thread that does.
    private func renew(
        _ scope: Scope, _ host: RegistryHost, _ challenge: AuthChallenge, replacing number: UInt64?,
        _ settings: RegistryClient.Settings, _ shouldStop: @Sendable () -> Bool
    ) throws -> Grant? {
        while true {
            if shouldStop() { throw OCIError(.interrupted, "asking for leave at \(host.name) was interrupted") }
            let turn = state.wait(seconds: 0.1) { state -> Turn? in
                if let entry = state.entries[scope], entry.grant.number != number { return .other(entry.grant) }
                if state.underWay.contains(scope) { return nil }
                state.underWay.insert(scope)
                return .own(state.entries[scope])
            }
            switch turn {
            case nil: continue
            case .other(let grant): return grant
            case .own(let entry):
                defer { state.withLock(notify: true) { _ = $0.underWay.remove(scope) } }
                return try fetch(scope, host, challenge, entry, number, settings, shouldStop)
            }
        }
    }

    private enum Turn {
        case own(Entry?)
        case other(Grant)
    }

    private func fetch(
        _ scope: Scope, _ host: RegistryHost, _ challenge: AuthChallenge, _ known: Entry?, _ replaced: UInt64?,
        _ settings: RegistryClient.Settings, _ shouldStop: @Sendable () -> Bool
    ) throws -> Grant? {
        // Credentials that are one of several may be another user's, and what is asked for may be for everybody. So when all are refused,
        // none are shown.
        var refusal: OCIError?
        while true {
            let found = try find(host, scope.repository, shouldStop)
            do {
                let grant = try fetch(found, scope, host, challenge, known, replaced, settings, shouldStop)
                guard grant == nil, let found, found.isOneOfSeveral else { return grant }
                // They are of a kind that this registry does not take.
                refuse(found.credentials, found.origin, scope)
            } catch let error as OCIError where error.code == .unauthorized {
                guard let found, found.isOneOfSeveral else {
                    state.withLock { $0.refused[scope] = nil }
                    // That credentials were refused says more than that anybody is.
                    throw refusal ?? error
                }
                refuse(found.credentials, found.origin, scope)
                refusal = error
            }
        }
    }

    private func fetch(
        _ found: CredentialStore.Found?, _ scope: Scope, _ host: RegistryHost, _ challenge: AuthChallenge,
        _ known: Entry?, _ replaced: UInt64?, _ settings: RegistryClient.Settings, _ shouldStop: @Sendable () -> Bool
    ) throws -> Grant? {
        let began = ContinuousClock().now
        switch (challenge.scheme, found?.credentials) {
        case (_, .registryToken(let token)):
            return keep("Bearer " + token.revealed, scope, challenge, found, replaced: replaced)
        case ("basic", .basic(let user, let password)):
            let text = Base64.encode("\(user):\(password.revealed)".utf8)
            return keep("Basic " + text, scope, challenge, found, replaced: replaced)
        case ("basic", nil) where state.withLock({ $0.refused[scope] != nil }):
            return keep(nil, scope, challenge, nil, replaced: replaced)
        case ("basic", _):
            return nil
        default:
            let service = TokenService(
                challenge: challenge, host: host, repository: scope.repository, found: found, settings: settings)
            // What the service gave for other credentials is useless for these.
            let isSame = known?.grant.credentials == found?.credentials
            let token = try service.fetch(refreshToken: isSame ? known?.refreshToken : nil, shouldStop: shouldStop)
            // Early enough for a request on its way, and late enough that a short-lived token is still used.
            let early = min(token.lifetime / 4, .seconds(10))
            return keep(
                "Bearer " + token.token.revealed, scope, challenge, found, replaced: nil,
                renewAt: began + token.lifetime - early, refreshToken: token.refreshToken)
        }
    }

    private func find(
        _ host: RegistryHost, _ repository: String, _ shouldStop: @Sendable () -> Bool
    ) throws(OCIError) -> CredentialStore.Found? {
        var store = store
        let scope = Scope(host: host.key, repository: repository)
        let (file, refused) = state.withLock {
            ($0.files[host.namespace ?? host.name], $0.refused[scope]?.credentials ?? [])
        }
        if let file { store.file = file }
        return try store.find(host: host.name, repository: repository, refused: refused, shouldStop: shouldStop)
    }

    private func refuse(_ credentials: Credentials?, _ origin: String?, _ scope: Scope) {
        guard let credentials else { return }
        state.withLock { state in
            if state.refused.count >= Self.entryLimit { state.refused = [:] }
            state.refused[scope, default: Refused()].credentials.insert(credentials)
            state.refused[scope]?.origin = origin ?? ""
        }
    }

    /// Keeps a grant for the next requests; `nil` if it is the one that was refused.
    ///
    /// - Parameter value: nil if nothing is to be shown.
    private func keep(
        _ value: String?, _ scope: Scope, _ challenge: AuthChallenge, _ found: CredentialStore.Found?,
        replaced: UInt64?,
        renewAt: ContinuousClock.Instant? = nil, refreshToken: Secret? = nil
    ) -> Grant? {
        let header = Secret(value.map { "Authorization: " + $0 } ?? "")
        return state.withLock(notify: true) { state in
            if let old = state.entries[scope], old.grant.number == replaced, old.grant.header == header { return nil }
            if state.entries.count >= Self.entryLimit { state.entries = [:] }
            state.count += 1
            let grant = Grant(
                header: header, number: state.count, credentials: found?.credentials, origin: found?.origin,
                isOneOfSeveral: found?.isOneOfSeveral ?? false, isCredentials: renewAt == nil,
                insteadOf: found == nil ? state.refused[scope]?.origin : nil)
            state.entries[scope] = Entry(
                grant: grant, renewAt: renewAt, refreshToken: refreshToken, tokenScope: challenge.parameters["scope"])
            return grant
        }
    }
}
