import LaminaSystem

/// A token service on this machine: https://distribution.github.io/distribution/spec/auth/token/
///
/// Gives tokens to clients that show the password (if it requires one), by GET, or the refresh token, by POST.
public final class TokenServer: Sendable {
    /// What it gives tokens for.
    public enum Wants: Sendable, Equatable {
        case nothing
        /// `user:password` in base64.
        case basic(String)
        /// The same; and a client that shows nothing gets a useless token, as from Docker's registry.
        case basicOrUseless(String)
        case refreshToken(String)
    }

    private struct State {
        var tokens: [String: ContinuousClock.Instant] = [:]
        var requests: [String] = []
        var issued = 0
    }

    public let port: UInt16
    public let wants: Wants
    /// How long a token lives, in seconds.
    public let lifetime: Int
    private static let useless = "-useless"
    private let state = Monitor(State())
    private let listener: LoopbackSocket

    public init(wants: Wants = .nothing, lifetime: Int = 300) throws {
        self.wants = wants
        self.lifetime = lifetime
        (listener, port) = try LoopbackSocket.listening()
        try listener.serve("tokens") { [weak self] in self?.serve($0) }
    }

    deinit { listener.hangUp() }

    public func stop() { listener.hangUp() }

    /// How many tokens were given.
    public var issued: Int { state.withLock { $0.issued } }
    /// The first lines and bodies of the requests.
    public var requests: [String] { state.withLock { $0.requests } }

    /// Makes every token that was given invalid.
    public func revoke() { state.withLock { $0.tokens = [:] } }

    /// What a registry answers to an Authorization field; nil lets it pass.
    func challenge(to field: String?) -> String? {
        let isValid = state.withLock { state in
            guard let field, field.hasPrefix("Bearer "), let end = state.tokens[String(field.dropFirst(7))] else {
                return false
            }
            return ContinuousClock().now < end
        }
        if isValid { return nil }
        let isUseless = field.map { $0.hasSuffix(Self.useless) } ?? false
        let error = field == nil ? "" : ",error=\"\(isUseless ? "insufficient_scope" : "invalid_token")\""
        return "Bearer realm=\"http://127.0.0.1:\(port)/token\",service=\"tests\"\(error)"
    }

    private func serve(_ client: LoopbackSocket) {
        guard let head = client.receiveHead() else { return }
        var body = ""
        if let length = head["Content-Length"].flatMap({ Int($0) }), length > 0, length < 1 << 16 {
            while body.utf8.count < length {
                let more = client.receive(atMost: length)
                if more.isEmpty { return }
                body += String(decoding: more, as: UTF8.self)
            }
        }
        let isGranted =
            switch wants {
            case .nothing: true
            case .basic(let text): head["Authorization"] == "Basic " + text
            case .basicOrUseless(let text): (head["Authorization"] ?? "Basic " + text) == "Basic " + text
            case .refreshToken(let token):
                head.firstLine.hasPrefix("POST") && body.split(separator: "&").contains("refresh_token=\(token)")
            }
        let token = state.withLock { state -> String in
            state.requests.append(head.firstLine + " " + body)
            guard isGranted else { return "" }
            state.issued += 1
            if case .basicOrUseless = wants, head["Authorization"] == nil {
                return "token-\(port)-\(state.issued)" + Self.useless
            }
            let token = "token-\(port)-\(state.issued)"
            state.tokens[token] = ContinuousClock().now + .seconds(lifetime)
            return token
        }
        let text =
            isGranted
            ? #"{"token":"\#(token)","expires_in":\#(lifetime)}"#
            : #"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#
        client.answer(isGranted ? "200 OK" : "401 Unauthorized", json: text)
    }
}
