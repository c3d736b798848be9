import CCurl
import LaminaDigest

extension RegistryClient {
    /// What to get, below `/v2/`.
    struct Resource {
        /// Empty if `path` is complete.
        var repository: String
        /// `blobs/sha256:…` or `manifests/…`.
        var path: String
        var headers: [String] = []
        var capability = RegistryHost.Capability.pull
        var blob: Digest?
        /// Of the table of contents that the blob's bytes are held against.
        var toc: Digest?
        /// What errors call it.
        var subject: String

        var trust: RegistrySession.BlobTrust? { blob.map { .init(path: fullPath, blob: $0, toc: toc) } }

        var fullPath: String { repository.isEmpty ? path : "\(repository)/\(path)" }

        /// As a server calls it.
        func named(by host: RegistryHost) -> Resource {
            var resource = self
            if !repository.isEmpty, let name = host.repository { resource.repository = name }
            return resource
        }
    }

    /// Gets a resource from the first server that gives it, over as many exchanges as needed until `receiver` has what it
    /// wants. If one server fails, the next goes on.
    ///
    /// - Returns: the head of the last response, and the server that gave it.
    func fetch(
        _ resource: Resource, into receiver: any HTTPReceiver, shouldStop: @Sendable () -> Bool
    ) throws -> (head: HTTPHead, host: RegistryHost) {
        let order = session.order(hosts, resource.capability, of: resource.trust)
        var failures: [OCIError] = []
        // Slow servers come again after all others, and may then take their time.
        var turns = ArraySlice(order)
        var isSecondTurn = false
        var slow: [RegistryHost] = []
        while let host = turns.popFirst() {
            let isLast = turns.isEmpty && slow.isEmpty || isSecondTurn
            do {
                let attempt = HostAttempt(
                    host: host, resource: resource.named(by: host), session: session,
                    settings: isLast ? settings : settings.forMirror)
                let head = try attempt.run(into: receiver, shouldStop: shouldStop)
                session.worked(host, for: resource.trust, isSlow: isSecondTurn)
                return (head, host)
            } catch let error as OCIError where error.code != .interrupted {
                // A server that just does not have it has not failed.
                if error.code != .notFound { session.failed(host, wasSlow: error.code == .slow) }
                failures.append(error)
                if error.code == .slow { slow.append(host) }
                if turns.isEmpty {
                    (turns, slow, isSecondTurn) = (slow[...], [], true)
                }
                if !turns.isEmpty { settings.onFallThrough(error) }
            }
        }
        guard var last = failures.popLast() else {
            throw OCIError(
                .badConfiguration,
                "none of the servers for \(endpoint.host) is there to \(resource.capability): see \(hosts.compactMap(\.origin).first ?? "hosts.toml")"
            )
        }
        // The registry itself knows best, and comes last. But if only the registry lacks it, a broken mirror may still have it:
        // then that is no answer.
        if !failures.isEmpty { last.message += "; before it: " + failures.map(\.message).joined(separator: "; ") }
        throw last
    }
}

/// Gets a resource from one server: handles redirects, authorization and retries.
struct HostAttempt {
    let host: RegistryHost
    let resource: RegistryClient.Resource
    let session: RegistrySession
    let settings: RegistryClient.Settings
    /// Called for each exchange; for callers that show the way.
    var observe: (HTTPExchange, _ url: String) -> Void = { _, _ in }

    private static let redirectLimit = 5
    /// A new token may have expired before it arrived; if a second one is refused, that is a refusal.
    private static let grantLimit = 2

    func run(into receiver: any HTTPReceiver, shouldStop: @Sendable () -> Bool) throws -> HTTPHead {
        try withoutActuallyEscaping(shouldStop) { try loop(receiver, $0) }
    }

    private func loop(_ receiver: any HTTPReceiver, _ shouldStop: @escaping @Sendable () -> Bool) throws -> HTTPHead {
        let own = host.url(of: resource.fullPath)
        let ownOrigin = Origin(of: own)
        var patience = Patience(settings: settings)
        var target = session.redirect(of: resource.fullPath, at: host)
        var isFromCache = target != nil
        var redirects = 0
        var grants = 0
        var isRenewed = false
        var isAskedForTLS = false
        while true {
            if shouldStop() { throw interrupted }
            let url = target ?? own
            var request = HTTPExchange.Request(url: url, headers: resource.headers, range: receiver.prepare())
            request.acceptsCompression = resource.blob == nil
            request.freshConnection = patience.isTried
            request.tls = host.tls
            var grant: Authorizer.Grant?
            // What is for this server is for no other one: neither leave to ask nor configured headers nor our certificate.
            if let ownOrigin, Origin(of: url) == ownOrigin {
                grant = try session.authorizer.grant(
                    for: host, repository: resource.repository, settings: settings, shouldStop: shouldStop)
                request.secretHeaders = host.headers.map { Secret("\($0.name): \($0.value.revealed)") }
                if let grant {
                    if !grant.header.isEmpty { request.secretHeaders.append(grant.header) }
                    if let credentials = grant.credentials { request.otherSecrets = [credentials.secret] }
                }
            } else {
                request.tls = host.tls.forOtherHosts
            }
            let before = receiver.progress
            let exchange = HTTPExchange(receiver: receiver, settings: settings, shouldStop: shouldStop)
            let ending = try CurlPool.shared.withHandle(for: Origin(of: url)?.text ?? url) {
                exchange.run(request, on: $0)
            }
            observe(exchange, url)
            if receiver.isComplete == true { return exchange.head }
            if case .finished = ending, exchange.isAccepted, receiver.isComplete == nil { return exchange.head }
            if case .thrown(let error) = ending {
                // It leads to something else than before: for example a log-in page.
                if target != nil { session.keep(redirect: nil, of: resource.fullPath, at: host) }
                throw named(error, url)
            }
            if case .interrupted = ending { throw interrupted }
            if exchange.isAccepted { (redirects, grants) = (0, 0) }
            if exchange.head.isRedirect {
                redirects += 1
                target = try follow(exchange, from: url, redirects)
                isFromCache = false
                if resource.blob != nil { session.keep(redirect: target, of: resource.fullPath, at: host) }
                continue
            }
            if target != nil {
                // The URL may have expired, and its server may be gone: the registry knows where to go now.
                session.keep(redirect: nil, of: resource.fullPath, at: host)
                target = nil
                if isFromCache, !exchange.isAccepted {
                    isFromCache = false
                    continue
                }
            } else if exchange.head.status == 401 || mayBeStale(exchange.head, grant, isRenewed: isRenewed) {
                grants += 1
                if exchange.head.challenges.isEmpty {
                    guard !isRenewed else { throw refused(exchange, grant, url) }
                    isRenewed = true
                }
                let others = grant?.isOneOfSeveral == true ? ClusterSecrets.tryLimit : 0
                let new =
                    grants > Self.grantLimit + others
                    ? nil
                    : try session.authorizer.grant(
                        after: exchange.head, refused: grant, from: host, repository: resource.repository,
                        settings: settings, shouldStop: shouldStop)
                if new != nil { continue }
                throw refused(exchange, grant, url)
            }
            if exchange.isUnanswered(ending), !isAskedForTLS, !url.lowercased().hasPrefix("https:") {
                isAskedForTLS = true
                if speaksTLS(url, shouldStop) { throw OCIError.speaksTLS(resource.subject, Origin.withoutQuery(url)) }
            }
            let failure = try exchange.transientFailure(
                ending, at: Origin.withoutQuery(url), resource.subject, isRedirected: url != own)
            let wait = try patience.wait(
                after: failure, retryAfter: exchange.retryAfter,
                progressed: receiver.progress - before >= settings.progressByteCount)
            settings.onRetry(failure, wait)
            guard pause(wait, shouldStop: shouldStop) else { throw interrupted }
        }
    }

    /// Whether a refusal may concern the token rather than the user: Docker Hub and ECR answer 400 or 403 to a token that they
    /// do not know any more. A new token is fetched once; what is refused with a new one is refused.
    private func mayBeStale(_ head: HTTPHead, _ grant: Authorizer.Grant?, isRenewed: Bool) -> Bool {
        grant != nil && !isRenewed && (head.status == 400 || head.status == 403)
    }

    /// Whether the server of a URL without TLS speaks TLS: many just hang up on a client that does not. Nothing is shown to it.
    private func speaksTLS(_ url: String, _ shouldStop: @escaping @Sendable () -> Bool) -> Bool {
        guard let end = url.firstRange(of: "://") else { return false }
        var request = HTTPExchange.Request(url: "https://" + Origin.withoutQuery(String(url[end.upperBound...])))
        request.freshConnection = true
        request.tls.skipsVerification = true
        var settings = settings
        settings.stallLimit = min(settings.stallLimit, .seconds(5))
        let exchange = HTTPExchange(receiver: NothingWanted(), settings: settings, shouldStop: shouldStop)
        // Without a handle for that, the next try fails for the same reason, and reports it.
        let hasShakenHands = try? CurlPool.shared.withHandle(for: "TLS " + request.url) { handle in
            _ = exchange.run(request, on: handle)
            return handle.hasShakenHands
        }
        return hasShakenHands ?? false
    }

    /// What is wrong with an answer, with the server that gave it.
    private func named(_ error: any Error, _ url: String) -> any Error {
        guard var error = error as? OCIError else { return error }
        error.message += " (from \(Origin.withoutQuery(url)))"
        return error
    }

    private var interrupted: OCIError { OCIError(.interrupted, "reading \(resource.subject) was interrupted") }

    private func follow(_ exchange: HTTPExchange, from url: String, _ count: Int) throws -> String {
        let place = Origin.withoutQuery(url)
        guard count <= Self.redirectLimit else {
            throw OCIError(
                .http,
                "\(resource.subject) did not arrive from \(place): it redirects more than \(Self.redirectLimit) times")
        }
        guard let next = exchange.redirectURL, let origin = Origin(of: next) else {
            throw OCIError(.http, "\(place) redirects \(resource.subject) to what is no place")
        }
        // What began in TLS stays in it.
        if Origin(of: url)?.scheme == "https", origin.scheme != "https" {
            throw OCIError(.http, "\(place) redirects \(resource.subject) to \(origin.text), which is without TLS")
        }
        return next
    }

    private func refused(_ exchange: HTTPExchange, _ grant: Authorizer.Grant?, _ url: String) -> OCIError {
        let whose =
            switch grant {
            case nil: "it wants credentials, and there are none for \(host.name)"
            case let grant?:
                (grant.origin ?? grant.insteadOf).map { "it refuses the credentials from \($0)" }
                    ?? "anybody may not have it"
            }
        var error = OCIError(
            status: exchange.head, message: exchange.registryMessage, url: Origin.withoutQuery(url),
            subject: resource.subject)
        error.message += ": " + whose
        if grant?.origin == nil, let problem = session.authorizer.clusterProblem { error.message += "; \(problem)" }
        return error
    }
}

extension HTTPExchange {
    /// Why an exchange did not bring what was wanted, if another one may.
    ///
    /// - Parameters:
    ///   - url: for the message; without secrets.
    ///   - isRedirected: whether the registry has redirected to it.
    /// - Throws: why, if no other one can.
    func transientFailure(
        _ ending: Ending, at url: String, _ subject: String, isRedirected: Bool
    ) throws -> OCIError {
        switch ending {
        case .thrown(let error): throw error
        case .interrupted: throw OCIError(.interrupted, "reading \(subject) was interrupted")
        default: break
        }
        if head.isComplete, !isAccepted {
            if head.status == 400, !url.hasPrefix("https:"), wantsTLS {
                throw OCIError.speaksTLS(subject, url)
            }
            let error = OCIError(status: head, message: registryMessage, url: url, subject: subject)
            // A redirect may name a URL that has expired; the next attempt gets a new one from the registry.
            if error.isTransient || (isRedirected && [400, 401, 403, 410].contains(head.status)) { return error }
            throw error
        }
        switch ending {
        case .slow(let count):
            // Another try here would be as slow.
            throw OCIError(
                .slow, "only \(count) bytes of \(subject) arrived from \(url) in \(settings.slowLimit)")
        case .stalled:
            return OCIError(.stalled, "nothing of \(subject) arrived from \(url) for \(settings.stallLimit)")
        case .failed(let code, let text):
            var error = OCIError(.network, "\(subject) did not arrive from \(url): \(text)")
            // The alert comes in the handshake, or after it with the first read; that depends on the server.
            if text.contains("alert certificate required") || text.contains("alert bad certificate") {
                throw OCIError(
                    .network,
                    error.message + " (the server wants to see a certificate: 'client' in hosts.toml names one)")
            }
            // If the request is already being sent, the server's reset may overtake its alert.
            if mayWantCertificate {
                error.message += " (where the server wants to see a certificate, 'client' in hosts.toml names one)"
            }
            switch code {
            case CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY, CURLE_BAD_CONTENT_ENCODING:
                throw OCIError(.http, error.message)
            // OpenSSL's message for an answer without TLS, in its versions.
            case CURLE_SSL_CONNECT_ERROR
            where ["wrong version number", "http request", "packet length too long"].contains { text.contains($0) }:
                throw OCIError(
                    .tls,
                    error.message
                        + " (the server speaks no TLS: --plain-http, or 'server = \"http://…\"' in hosts.toml, asks without)"
                )
            case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE, CURLE_SSL_CERTPROBLEM:
                throw OCIError(
                    .tls,
                    error.message + " (hosts.toml in a certs.d directory says whom to trust: ca, client, skip_verify)")
            case CURLE_URL_MALFORMAT, CURLE_OUT_OF_MEMORY: throw error
            default: return error
            }
        default:
            return OCIError(.network, "\(url) ended before all of \(subject) had come")
        }
    }

    /// Whether the server hung up, or sent something that is not HTTP, before it had sent any HTTP.
    func isUnanswered(_ ending: Ending) -> Bool {
        guard case .failed(let code, _) = ending, head.status == 0 else { return false }
        return [
            CURLE_GOT_NOTHING, CURLE_RECV_ERROR, CURLE_SEND_ERROR, CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY,
        ].contains(code)
    }

    /// Whether the answer is that of a TLS server to a client without TLS: Go's words, nginx's, Apache's.
    private var wantsTLS: Bool {
        let text = String(decoding: errorBody, as: UTF8.self).lowercased()
        return [
            "http request to an https server", "plain http request was sent to https port",
            "speaking plain http to an ssl",
        ].contains { text.contains($0) }
    }
}

/// For callers that only want to know how far it comes.
private final class NothingWanted: HTTPReceiver {
    var progress: Int64 { 0 }
    var isComplete: Bool? { nil }
    func prepare() -> Range<Int64>? { nil }
    func begin(_ head: HTTPHead) {}
    func receive(_ bytes: UnsafeRawBufferPointer) -> Bool { false }
    func end() {}
}

extension OCIError {
    fileprivate static func speaksTLS(_ subject: String, _ url: String) -> OCIError {
        OCIError(
            .tls,
            "\(subject) did not arrive from \(url): the server speaks TLS, and was asked without "
                + "(--plain-http, [http] plain and 'server = \"http://…\"' in hosts.toml ask so)")
    }
}
