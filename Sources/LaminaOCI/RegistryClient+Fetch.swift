import CCurl

extension RegistryClient {
    /// Gets `path` below `/v2/`, over as many exchanges as it takes until `receiver` has what it wants.
    ///
    /// - Parameter subject: what errors call it.
    /// - Returns: the head of the last response.
    func fetch(
        _ path: String, headers: [String] = [], subject: String, into receiver: any HTTPReceiver,
        shouldStop: @Sendable () -> Bool
    ) throws -> HTTPHead {
        try withoutActuallyEscaping(shouldStop) { shouldStop in
            var patience = Patience(settings: settings)
            while true {
                if shouldStop() { throw interrupted(subject) }
                let before = receiver.progress
                let exchange = HTTPExchange(receiver: receiver, settings: settings, shouldStop: shouldStop)
                let request = HTTPExchange.Request(
                    url: "\(endpoint.url)/v2/\(path)", headers: headers, range: receiver.prepare(),
                    freshConnection: patience.isTried)
                let ending = try CurlPool.shared.withHandle(for: endpoint.url) { exchange.run(request, on: $0) }
                if receiver.isComplete == true { return exchange.head }
                if case .finished = ending, exchange.isAccepted, receiver.isComplete == nil { return exchange.head }
                let failure = try transientFailure(of: exchange, ending, at: request.url, subject)
                let wait = try patience.wait(
                    after: failure, retryAfter: exchange.retryAfter, progressed: receiver.progress > before)
                settings.onRetry(failure, wait)
                guard pause(wait, shouldStop: shouldStop) else { throw interrupted(subject) }
            }
        }
    }

    private func interrupted(_ subject: String) -> OCIError {
        OCIError(.interrupted, "reading \(subject) was interrupted")
    }

    /// Why an exchange did not bring what was wanted, if another one may.
    ///
    /// - Throws: why, where no other one will.
    private func transientFailure(
        of exchange: HTTPExchange, _ ending: HTTPExchange.Ending, at url: String, _ subject: String
    ) throws -> OCIError {
        switch ending {
        case .thrown(let error): throw error
        case .interrupted: throw interrupted(subject)
        default: break
        }
        if exchange.head.isComplete, !exchange.isAccepted, !exchange.head.isRedirect {
            let error = OCIError(status: exchange.head, body: exchange.errorBody, url: url, subject: subject)
            // A redirect may name a URL that has expired; the next attempt gets a new one from the registry.
            if error.isTransient || (exchange.wasRedirected && exchange.head.status == 403) { return error }
            throw error
        }
        switch ending {
        case .stalled:
            return OCIError(.stalled, "nothing of \(subject) arrived from \(url) for \(settings.stallLimit)")
        case .failed(let code, let text):
            let error = OCIError(.network, "\(subject) did not arrive from \(url): \(text)")
            if code == CURLE_TOO_MANY_REDIRECTS || code == CURLE_UNSUPPORTED_PROTOCOL
                || code == CURLE_WEIRD_SERVER_REPLY
            {
                throw OCIError(.http, error.message)
            }
            if code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_URL_MALFORMAT || code == CURLE_OUT_OF_MEMORY {
                throw error
            }
            return error
        default:
            return OCIError(.network, "\(url) ended before all of \(subject) had come")
        }
    }
}

/// How long to wait between attempts, and when to stop.
struct Patience {
    let settings: RegistryClient.Settings
    /// Attempts in a row that brought nothing.
    private var failures = 0
    /// Whether an attempt has failed before.
    private(set) var isTried = false

    init(settings: RegistryClient.Settings) { self.settings = settings }

    /// The wait before the next attempt, by exponential backoff with jitter or as the server wishes.
    ///
    /// - Throws: `failure`, when this was one attempt too many or the server wants more patience than there is.
    mutating func wait(after failure: OCIError, retryAfter: Int64, progressed: Bool) throws(OCIError) -> Duration {
        isTried = true
        failures = progressed ? 0 : failures + 1
        if failures >= settings.tryLimit {
            throw OCIError(failure.code, "\(failure.message) (tried \(failures) times)", cause: failure.cause)
        }
        if retryAfter > 0 {
            let asked = Duration.seconds(retryAfter)
            guard asked <= settings.retryAfterLimit else {
                throw OCIError(
                    failure.code, "\(failure.message) (it asks to wait \(retryAfter) s)", cause: failure.cause)
            }
            return asked
        }
        let doublings = min(max(failures - 1, 0), 20)
        let longest = min(settings.backoff * (1 << doublings), settings.backoffLimit)
        return longest * Double.random(in: 0.5...1)
    }
}

extension OCIError {
    /// The error that a status means.
    init(status head: HTTPHead, body: [UInt8], url: String, subject: String) {
        let details = Self.registryMessage(in: body).map { " (\($0))" } ?? ""
        let answer = "\(url) answered \(head.status)\(details)"
        switch head.status {
        case 401: self.init(.unauthorized, "the registry wants credentials for \(subject): \(answer)")
        case 403: self.init(.unauthorized, "the registry refuses \(subject): \(answer)")
        case 404: self.init(.notFound, "the registry has no \(subject): \(answer)")
        case 408, 429, 500...599: self.init(.unavailable, "the registry does not serve \(subject) now: \(answer)")
        case 416: self.init(.http, "the registry does not have these bytes of \(subject): \(answer)")
        default: self.init(.http, "the registry does not serve \(subject): \(answer)")
        }
    }

    /// The first error that a registry names, on one line:
    /// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
    static func registryMessage(in body: [UInt8]) -> String? {
        guard case .array(let errors)? = try? JSON.parse(body)["errors"], let first = errors.first else { return nil }
        let parts = ["code", "message"].compactMap { name -> String? in
            guard case .string(let text)? = first[name], !text.isEmpty else { return nil }
            // Someone else's text on the operator's terminal.
            return String(
                text.prefix(200).map {
                    $0.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F } ? $0 : "?"
                })
        }
        return parts.isEmpty ? nil : parts.joined(separator: ": ")
    }
}
