/// A server that has images of a registry: the registry itself, or a mirror of it.
public struct RegistryHost: Sendable, Hashable {
    public enum Capability: String, Sendable, Hashable {
        /// Manifests by tag: the server may say what a tag means.
        case resolve
        /// Manifests and blobs by digest.
        case pull
    }

    /// Two hosts share connections and tokens if these are equal.
    struct Key: Hashable, Sendable {
        var scheme: RegistryClient.Endpoint.Scheme
        var name: String
        var path: String
    }

    public var scheme: RegistryClient.Endpoint.Scheme
    /// With the port, if it has one.
    public var name: String
    /// Where the API begins: `/v2`.
    public var path = "/v2"
    public var capabilities: Set<Capability> = [.resolve, .pull]
    public var tls = TLSSettings()
    /// Sent with each request, but to no other host.
    public var headers: [Header] = []
    /// What this server calls the repository that is asked for; nil: the same.
    public var repository: String?
    /// The registry that it mirrors; sent as `ns` to servers that may mirror several.
    public var namespace: String?
    /// Where it is configured; `nil` for a registry without configuration.
    public var origin: String?

    public struct Header: Sendable, Hashable {
        public var name: String
        public var value: Secret
    }

    public init(scheme: RegistryClient.Endpoint.Scheme, name: String) {
        self.scheme = scheme
        self.name = name
    }

    /// The registry itself, without configuration.
    public init(_ endpoint: RegistryClient.Endpoint) {
        self.init(scheme: endpoint.scheme, name: Self.server(of: endpoint.host))
    }

    /// Docker's registry has another name than in its references.
    static func server(of registry: String) -> String { registry == "docker.io" ? "registry-1.docker.io" : registry }

    public var url: String { "\(scheme)://\(name)" }

    var key: Key { Key(scheme: scheme, name: name, path: path) }

    func url(of resource: String) -> String {
        url + path + "/" + resource + (namespace.map { "?ns=" + quoted($0) } ?? "")
    }
}

/// Which certificates to trust, and which to show, in TLS. Paths are absolute.
public struct TLSSettings: Sendable, Hashable {
    public struct Pair: Sendable, Hashable {
        public var certificate: String
        /// `nil` if the certificate's file also has the key.
        public var key: String?

        public init(certificate: String, key: String?) {
            self.certificate = certificate
            self.key = key
        }
    }

    /// Files of certificates that are trusted besides the system's.
    public var authorities: [String] = []
    /// libcurl takes one: the first.
    public var clients: [Pair] = []
    public var skipsVerification = false
    /// Certificates that are trusted besides the system's, in PEM.
    public var authorityText: String?
    /// A certificate and its key in PEM, instead of those in files.
    public var clientText: Secret?

    public init() {}

    /// For the server that a registry redirects to or gets its tokens from: the client's own certificate is not meant for it.
    var forOtherHosts: TLSSettings {
        var other = self
        other.clients = []
        other.clientText = nil
        return other
    }
}
