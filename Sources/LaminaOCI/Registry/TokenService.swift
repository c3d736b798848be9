/// Asks for a bearer token.
///
/// https://distribution.github.io/distribution/spec/auth/token/, https://distribution.github.io/distribution/spec/auth/oauth/
struct TokenService {
    struct Token: Sendable {
        var token: Secret
        var lifetime: Duration
        var refreshToken: Secret?
    }

    let challenge: AuthChallenge
    let host: RegistryHost
    let repository: String
    let found: CredentialStore.Found?
    let settings: RegistryClient.Settings

    // "If omitted, this defaults to 60 seconds", says the specification.
    private static let defaultSeconds: Int64 = 60
    private static let longestSeconds: Int64 = 24 * 3600
    private static let client = "lamina"

    /// - Parameter refreshToken: what an earlier answer gave for the next request.
    func fetch(refreshToken: Secret?, shouldStop: @Sendable () -> Bool) throws -> Token {
        let realm = try checkedRealm()
        switch (found?.credentials, refreshToken) {
        case (.identityToken(let token), let newer):
            return try post(
                realm, ["grant_type=refresh_token", "refresh_token=" + quoted((newer ?? token).revealed)], shouldStop)
        case (.basic(let user, let password)?, _):
            do {
                let header = Secret("Authorization: Basic " + Base64.encode("\(user):\(password.revealed)".utf8))
                return try get(realm, ["account=" + quoted(user)], header, shouldStop)
            } catch let error as OCIError where error.code == .http || error.code == .notFound {
                // Some services know only the newer way.
                let fields = [
                    "grant_type=password", "username=" + quoted(user), "password=" + quoted(password.revealed),
                ]
                return try post(realm, fields, shouldStop)
            }
        default:
            return try get(realm, [], nil, shouldStop)
        }
    }

    private func checkedRealm() throws -> String {
        guard let realm = challenge.parameters["realm"], realm.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
            let origin = Origin(of: realm)
        else { throw OCIError(.http, "\(host.url) wants a token and names no place to get it") }
        // Otherwise a party that can change the answer could have the password sent without TLS.
        if found != nil, host.scheme == .https, origin.scheme == "http",
            !ImageReference.isLoopback(host: origin.authority)
        {
            throw OCIError(
                .unauthorized,
                "\(host.url) wants credentials sent to \(origin.text) without TLS; lamina does not do that")
        }
        return realm
    }

    private var fields: [String] {
        let scope = challenge.parameters["scope"] ?? "repository:\(repository):pull"
        var fields = ["scope=" + quoted(scope), "client_id=" + Self.client]
        if let service = challenge.parameters["service"] { fields.append("service=" + quoted(service)) }
        return fields
    }

    private func get(
        _ realm: String, _ more: [String], _ header: Secret?, _ shouldStop: @Sendable () -> Bool
    ) throws -> Token {
        var request = HTTPExchange.Request(
            url: realm + (realm.contains("?") ? "&" : "?") + (fields + more).joined(separator: "&"))
        if let header { request.secretHeaders = [header] }
        return try token(of: request, realm, shouldStop)
    }

    private func post(_ realm: String, _ more: [String], _ shouldStop: @Sendable () -> Bool) throws -> Token {
        var request = HTTPExchange.Request(url: realm)
        request.form = Secret((fields + more).joined(separator: "&"))
        return try token(of: request, realm, shouldStop)
    }

    private func token(
        of request: HTTPExchange.Request, _ realm: String, _ shouldStop: @Sendable () -> Bool
    ) throws -> Token {
        let place = Origin.withoutQuery(realm)
        let subject = "token for \(repository)"
        let receiver = DocumentReceiver(subject: subject, limit: 1 << 20)
        var request = request
        request.tls = host.tls.forOtherHosts
        try exchange(request, place, subject, receiver, shouldStop)
        let answer = try? JSON.parse(receiver.bytes)
        func text(_ name: String) -> String? {
            guard case .string(let text)? = answer?[name], !text.isEmpty else { return nil }
            return text
        }
        guard let token = text("token") ?? text("access_token"), token.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else {
            throw OCIError(.unauthorized, "\(place) answered without a token for \(repository)")
        }
        var seconds = Self.defaultSeconds
        if case .number(let number)? = answer?["expires_in"], let whole = Int64(number), whole > 0 {
            seconds = min(whole, Self.longestSeconds)
        }
        return Token(
            token: Secret(token), lifetime: .seconds(seconds), refreshToken: text("refresh_token").map { Secret($0) })
    }

    private func exchange(
        _ request: HTTPExchange.Request, _ place: String, _ subject: String, _ receiver: DocumentReceiver,
        _ shouldStop: @Sendable () -> Bool
    ) throws {
        try withoutActuallyEscaping(shouldStop) { shouldStop in
            var patience = Patience(settings: settings)
            while true {
                let exchange = HTTPExchange(receiver: receiver, settings: settings, shouldStop: shouldStop)
                _ = receiver.prepare()
                var request = request
                request.freshConnection = patience.isTried
                let ending = try CurlPool.shared.withHandle(for: Origin(of: request.url)?.text ?? "") {
                    exchange.run(request, on: $0)
                }
                if case .finished = ending, exchange.isAccepted { return }
                let failure: OCIError
                do {
                    failure = try exchange.transientFailure(ending, at: place, subject, isRedirected: false)
                } catch let error as OCIError {
                    throw explained(error, status: exchange.head.status, place)
                }
                let wait = try patience.wait(after: failure, retryAfter: exchange.retryAfter, progressed: false)
                settings.onRetry(failure, wait)
                guard pause(wait, shouldStop: shouldStop) else {
                    throw OCIError(.interrupted, "fetching a \(subject) was interrupted")
                }
            }
        }
    }

    /// Says in an error which credentials were refused, and removes them from the service's text.
    private func explained(_ error: OCIError, status: Int, _ place: String) -> OCIError {
        var error = error
        if let secret = found?.credentials.secret { error.message = secret.removed(from: error.message) }
        guard status == 400 || status == 401 || status == 403 else { return error }
        let whose = found.map { "the credentials from \($0.origin)" } ?? "anybody who shows no credentials"
        error.code = .unauthorized
        error.message = "\(place) gives no token for \(repository) to \(whose): \(error.message)"
        return error
    }
}

/// A text as a value in a query or a form.
func quoted(_ text: String) -> String {
    var quoted = ""
    for byte in text.utf8 {
        if isAlphanumeric(byte) || "-._~".utf8.contains(byte) {
            quoted.unicodeScalars.append(Unicode.Scalar(byte))
        } else {
            quoted += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
        }
    }
    return quoted
}
