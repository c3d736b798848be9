/// Goes the way to an image's manifest and reports each step, to show why it does not work.
public struct RegistryProbe {
    /// One server, and how far the request for the manifest came there.
    public struct Visit: Sendable {
        /// `https://host:port`.
        public var url: String
        public var isMirror: Bool
        /// The file that configures it.
        public var origin: String?
        public var skipsVerification: Bool
        /// HTTP's version; nil if no server answered.
        public var httpVersion: String?
        /// Which credentials were asked for, and which were shown; nil if none were asked for.
        public var authorization: String?
        /// Where it redirected to, without secrets.
        public var redirects: [String] = []
        /// Why the manifest did not come from here; nil if it did.
        public var failure: OCIError?
    }

    private let client: RegistryClient
    private let repository: String
    private let target: ManifestTarget

    /// - Throws: `badConfiguration` for a wrong `hosts.toml`; nil for an image of a layout, which has no registry.
    public init?(_ image: ImageReference, plainHTTP: Bool, registries: Registries) throws(OCIError) {
        guard case .registry(let host, let repository) = image.place else { return nil }
        client = try registries.client(for: host, repository: repository, plainHTTP: plainHTTP)
        self.repository = repository
        target = image.target
    }

    /// Asks every server once, in the order in which a pull would.
    public func visits(shouldStop: @Sendable () -> Bool) -> [Visit] {
        var settings = client.settings.forMirror
        settings.tryLimit = 1
        return client.hosts.filter { $0.capabilities.contains(.resolve) || $0.capabilities.contains(.pull) }.map {
            host in
            var visit = Visit(
                url: host.url,
                isMirror: host.namespace != nil || host.name != RegistryHost.server(of: client.endpoint.host),
                origin: host.origin,
                skipsVerification: host.tls.skipsVerification)
            var challenges: [String] = []
            let resource = RegistryClient.Resource(
                repository: repository, path: "manifests/\(target)",
                headers: ["Accept: " + MediaType.accepted.joined(separator: ", ")],
                subject: "manifest \(target) of \(repository)")
            var attempt = HostAttempt(
                host: host, resource: resource.named(by: host), session: client.session, settings: settings)
            attempt.observe = { exchange, url in
                visit.httpVersion = exchange.httpVersion ?? visit.httpVersion
                if exchange.head.status == 401 { challenges += exchange.head.challenges }
                if exchange.head.isRedirect, let next = exchange.redirectURL {
                    visit.redirects.append(Origin.withoutQuery(next))
                }
            }
            do {
                _ = try attempt.run(
                    into: ManifestReceiver(target: target, subject: resource.subject, place: host.url),
                    shouldStop: shouldStop)
            } catch {
                visit.failure = error as? OCIError ?? OCIError(.http, "\(error)")
            }
            let wanted = challenges.flatMap(AuthChallenge.parse)
            if let challenge = wanted.first(where: { $0.scheme == "bearer" }) ?? wanted.first {
                let grant = try? client.session.authorizer.grant(
                    for: host, repository: host.repository ?? repository, settings: settings, shouldStop: shouldStop)
                let realm =
                    challenge.scheme == "bearer"
                    ? challenge.parameters["realm"].map { " from \(Origin.withoutQuery($0))" } : nil
                let shown =
                    grant.map { $0.origin.map { "with the credentials from \($0)" } ?? "as anybody" }
                    ?? "nothing to show"
                visit.authorization = "\(challenge.scheme)\(realm ?? ""), \(shown)"
            }
            return visit
        }
    }
}
