import Glibc
import LaminaSystem

/// The `imagePullSecrets` of a Kubernetes cluster: each secret of type `kubernetes.io/dockerconfigjson`, in all of its namespaces.
///
/// It asks the cluster's API when a registry wants credentials, and not again for a minute: nothing runs while nothing is
/// pulled. If the API does not answer, its last answer is used.
///
/// https://kubernetes.io/docs/concepts/configuration/secret/#docker-config-secrets
public final class ClusterSecrets: Sendable {
    private struct Known {
        /// Namespace and name.
        var name: String
        var config: DockerConfig
    }

    private struct State {
        var secrets: [Known] = []
        /// When the API was last asked, whatever the answer.
        var askedAt: ContinuousClock.Instant?
        var isAsking = false
        /// What was last reported, so that it is reported once.
        var problem: String?
    }

    /// How long an answer is good if it had what was needed.
    private static let freshness: Duration = .seconds(60)
    /// And if it had not: a secret is often made together with the pod that needs it.
    private static let shortFreshness: Duration = .seconds(5)
    /// How many secrets are in one answer; each is at most 1 MiB, and usually some kilobytes.
    private static let pageSize = 100
    private static let pageByteLimit = 32 << 20
    /// How many secrets in all; a bound that no cluster should reach.
    private static let secretLimit = 20_000
    /// How many are tried for one repository; a registry may lock out a client that tries more.
    static let tryLimit = 8

    private let access: @Sendable () throws(OCIError) -> ClusterAccess
    private let report: @Sendable (String) -> Void
    private let settings: RegistryClient.Settings
    private let state = Monitor(State())

    /// - Parameters:
    ///   - report: gets a sentence, without secrets, when something is wrong with the API or with a secret.
    ///   - access: how to reach the API; asked each time, because tokens change and files may come late.
    public convenience init(
        report: @escaping @Sendable (String) -> Void, access: @escaping @Sendable () throws(OCIError) -> ClusterAccess
    ) {
        // A pull waits for this.
        var settings = RegistryClient.Settings()
        settings.tryLimit = 2
        settings.stallLimit = .seconds(5)
        settings.connectLimit = .seconds(5)
        settings.retryAfterLimit = .seconds(2)
        self.init(settings: settings, report: report, access: access)
    }

    init(
        settings: RegistryClient.Settings, report: @escaping @Sendable (String) -> Void,
        access: @escaping @Sendable () throws(OCIError) -> ClusterAccess
    ) {
        self.settings = settings
        self.report = report
        self.access = access
    }

    /// The credentials of the secret that names a repository most exactly, among those that have not been refused. Blocks for
    /// the API if the last answer is old.
    ///
    /// - Throws: only `interrupted`: an API that does not answer is reported, and counts as one without secrets.
    func find(
        host: String, repository: String, refused: Set<Credentials>, shouldStop: () -> Bool
    ) throws(OCIError) -> CredentialStore.Found? {
        guard refused.count < Self.tryLimit else { return nil }
        for age in [Self.freshness, Self.shortFreshness] {
            try refresh(olderThan: age, shouldStop)
            let found = state.withLock { state in
                state.secrets.flatMap { secret in
                    secret.config.matches(host: host, repository: repository).map { (secret.name, $0) }
                }
            }
            // If two are equally exact, always the same one comes first.
            let best = found.filter { !refused.contains($0.1.credentials) }
                .max { ($0.1.exactness, $1.0) < ($1.1.exactness, $0.0) }
            if let (name, match) = best {
                return CredentialStore.Found(
                    credentials: match.credentials, origin: "the secret \(name)", isOneOfSeveral: true)
            }
        }
        return nil
    }

    /// What is wrong with the API; nil while it answers, and before it was asked.
    var problem: String? { state.withLock { $0.problem } }

    // MARK: The API

    /// Asks the API, or waits for another thread that does, unless it has been asked since.
    private func refresh(olderThan age: Duration, _ shouldStop: () -> Bool) throws(OCIError) {
        let isMine: Bool
        while true {
            if shouldStop() { throw OCIError(.interrupted, "asking the cluster for secrets was interrupted") }
            let turn = state.wait(seconds: 0.1) { state -> Bool? in
                if state.isAsking { return nil }
                if let askedAt = state.askedAt, ContinuousClock().now - askedAt < age { return false }
                state.isAsking = true
                return true
            }
            if let turn {
                isMine = turn
                break
            }
        }
        guard isMine else { return }
        var secrets: [Known]?
        var problem: String?
        do throws(OCIError) {
            secrets = try list(shouldStop)
        } catch {
            if error.code != .interrupted { problem = "the secrets of the cluster cannot be read: \(error)" }
        }
        let news = state.withLock(notify: true) { state in
            state.isAsking = false
            if let secrets { state.secrets = secrets }
            if secrets != nil || problem != nil { state.askedAt = ContinuousClock().now }
            defer { state.problem = problem }
            return problem == state.problem ? nil : problem
        }
        if let news { report(news) }
        if secrets == nil, problem == nil {
            throw OCIError(.interrupted, "asking the cluster for secrets was interrupted")
        }
    }

    private func list(_ shouldStop: () -> Bool) throws(OCIError) -> [Known] {
        let access = try access()
        var known: [Known] = []
        var next = ""
        repeat {
            let (page, rest) = try page(of: access, from: next, shouldStop)
            known += page
            next = rest
            guard known.count <= Self.secretLimit else {
                report("the cluster has more than \(Self.secretLimit) secrets; the first of them are used")
                break
            }
        } while !next.isEmpty
        return known
    }

    /// https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
    private func page(
        of access: ClusterAccess, from next: String, _ shouldStop: () -> Bool
    ) throws(OCIError) -> ([Known], next: String) {
        var url = "\(access.server)/api/v1/secrets?limit=\(Self.pageSize)"
        url += "&fieldSelector=" + quoted("type=kubernetes.io/dockerconfigjson")
        if !next.isEmpty { url += "&continue=" + quoted(next) }
        let bytes = try get(url, access, shouldStop)
        func wrong(_ what: String) -> OCIError { OCIError(.http, "the API at \(access.server) \(what)") }
        guard let answer = try? JSON.parse(bytes), case .array(let items)? = answer["items"] else {
            throw wrong("answered something else than a list of secrets")
        }
        guard items.count <= Self.pageSize else { throw wrong("answered with more secrets than were asked for") }
        var rest = ""
        if case .string(let token)? = answer["metadata"]?["continue"] { rest = token }
        guard rest != next || rest.isEmpty else { throw wrong("answers the same again") }
        return (items.compactMap(known), rest)
    }

    /// A secret, as far as it is valid; if one user's secret is wrong, that does not affect others.
    private func known(_ item: JSON) -> Known? {
        guard case .string(let namespace)? = item["metadata"]?["namespace"],
            case .string(let name)? = item["metadata"]?["name"],
            case .string(let text)? = item["data"]?[".dockerconfigjson"], let bytes = Base64.decode(text),
            bytes.count <= DockerConfig.byteLimit
        else { return nil }
        let full = "\(namespace)/\(name)"
        return (try? DockerConfig(parsing: bytes, path: "the secret \(full)")).map { Known(name: full, config: $0) }
    }

    private func get(
        _ url: String, _ access: ClusterAccess, _ shouldStop: () -> Bool
    ) throws(OCIError) -> [UInt8] {
        var request = HTTPExchange.Request(url: url, headers: ["Accept: application/json"])
        if let value = access.authorization { request.secretHeaders = [Secret("Authorization: " + value.revealed)] }
        request.tls = access.tls
        request.acceptsCompression = true
        let receiver = DocumentReceiver(subject: "the list of secrets", limit: Self.pageByteLimit)
        do {
            return try withoutActuallyEscaping(shouldStop) { shouldStop in
                var patience = Patience(settings: settings)
                while true {
                    let exchange = HTTPExchange(receiver: receiver, settings: settings, shouldStop: shouldStop)
                    _ = receiver.prepare()
                    request.freshConnection = patience.isTried
                    // Not from the pool of connections: a connection with a certificate must not be used for other requests.
                    let ending = exchange.run(request, on: try CurlHandle())
                    if case .finished = ending, exchange.isAccepted { return receiver.bytes }
                    let failure = try exchange.apiFailure(ending, of: access)
                    let wait = try patience.wait(after: failure, retryAfter: exchange.retryAfter, progressed: false)
                    guard pause(wait, shouldStop: shouldStop) else {
                        throw OCIError(.interrupted, "asking \(access.server) was interrupted")
                    }
                }
            }
        } catch let error as OCIError {
            throw error
        } catch {
            throw OCIError(.http, "the list of secrets cannot be read", cause: error)
        }
    }
}

/// Two are the same if they are the same object.
extension ClusterSecrets: Hashable {
    public static func == (left: ClusterSecrets, right: ClusterSecrets) -> Bool { left === right }
    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}

extension HTTPExchange {
    /// Why an exchange with a cluster's API brought nothing, if another try may.
    ///
    /// - Throws: why, if no other try can.
    fileprivate func apiFailure(_ ending: Ending, of access: ClusterAccess) throws -> OCIError {
        switch ending {
        case .thrown(let error): throw error
        case .interrupted: throw OCIError(.interrupted, "asking \(access.server) was interrupted")
        case .stalled:
            return OCIError(.stalled, "\(access.server) did not answer for \(settings.stallLimit)")
        case .failed(_, let text): return OCIError(.network, "\(access.server) cannot be asked: \(text)")
        case .finished, .enough, .slow: break
        }
        let answer = "\(access.server) answered \(head.status)"
        switch head.status {
        case 401: throw OCIError(.unauthorized, "\(answer): it does not know whom \(access.origin) names")
        case 403:
            throw OCIError(
                .unauthorized, "\(answer): whom \(access.origin) names may not list secrets of all namespaces")
        case 429, 500...599: return OCIError(.unavailable, answer)
        default: throw OCIError(.http, answer)
        }
    }
}

extension DockerConfig {
    /// Credentials for a repository, and how many bytes of the repository their key names.
    struct Match {
        var credentials: Credentials
        var exactness: Int
    }

    /// Each key that is for a repository, as kubelet reads keys: the registry with `*` in the parts of its name, then the
    /// beginning of the repository.
    ///
    /// https://kubernetes.io/docs/concepts/containers/images/#config-json
    fileprivate func matches(host: String, repository: String) -> [Match] {
        let wanted = "\(Self.key(host))/\(repository)"
        return auths.compactMap { key, credentials in
            let isMatch =
                key.contains("*")
                ? Self.matches(pattern: key, wanted) : wanted == key || wanted.hasPrefix(key + "/")
            return isMatch ? Match(credentials: credentials, exactness: key.utf8.count) : nil
        }
    }

    private static func matches(pattern: String, _ wanted: String) -> Bool {
        func parts(_ text: String) -> (host: [Substring], path: Substring) {
            let end = text.firstIndex(of: "/") ?? text.endIndex
            return (text[..<end].split(separator: ".", omittingEmptySubsequences: false), text[end...])
        }
        let (known, given) = (parts(pattern), parts(wanted))
        guard known.host.count == given.host.count,
            known.path.isEmpty || given.path == known.path || given.path.hasPrefix(known.path + "/")
        else { return false }
        return zip(known.host, given.host).allSatisfy { fnmatch(String($0), String($1), 0) == 0 }
    }
}
