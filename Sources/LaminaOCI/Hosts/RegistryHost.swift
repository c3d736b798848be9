/// A server that images of a registry can be had from: the registry itself, or a mirror of it.
public struct RegistryHost: Sendable, Hashable {
    public enum Capability: String, Sendable, Hashable {
        /// Manifests by tag: what a tag means.
        case resolve
        /// Manifests and blobs by digest.
        case pull
    }

    /// What makes connections and tokens of two hosts the same.
    struct Key: Hashable, Sendable {
        var scheme: RegistryClient.Endpoint.Scheme
        var name: String
        var path: String
    }

    public var scheme: RegistryClient.Endpoint.Scheme
    /// With the port where it has one.
    public var name: String
    /// Where the API begins: `/v2`.
    public var path = "/v2"
    public var capabilities: Set<Capability> = [.resolve, .pull]
    public var tls = TLSSettings()
    /// Sent with each request, and to no other host.
    public var headers: [Header] = []
    /// The registry that it stands for; sent as `ns` to those that may stand for several.
    public var namespace: String?
    /// Where it is configured; `nil` for a registry that nothing is configured for.
    public var origin: String?

    public struct Header: Sendable, Hashable {
        public var name: String
        public var value: Secret
    }

    public init(scheme: RegistryClient.Endpoint.Scheme, name: String) {
        self.scheme = scheme
        self.name = name
    }

    /// The registry itself, as it is reached without configuration.
    public init(_ endpoint: RegistryClient.Endpoint) {
        self.init(scheme: endpoint.scheme, name: Self.server(of: endpoint.host))
    }

    /// Docker's registry answers under another name than the one in its references.
    static func server(of registry: String) -> String { registry == "docker.io" ? "registry-1.docker.io" : registry }

    public var url: String { "\(scheme)://\(name)" }

    var key: Key { Key(scheme: scheme, name: name, path: path) }

    func url(of resource: String) -> String {
        url + path + "/" + resource + (namespace.map { "?ns=" + quoted($0) } ?? "")
    }
}

/// Whom to trust, and who to be, in TLS. Paths are absolute.
public struct TLSSettings: Sendable, Hashable {
    public struct Pair: Sendable, Hashable {
        public var certificate: String
        /// `nil` where the certificate's file has the key too.
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
    /// Certificates that are trusted besides, in PEM.
    public var authorityText: String?
    /// A certificate and its key in PEM, in the place of those in files.
    public var clientText: Secret?

    public init() {}

    /// For the place that a registry redirects to or has its tokens from: our own certificate is not for it.
    var forOtherHosts: TLSSettings {
        var other = self
        other.clients = []
        other.clientText = nil
        return other
    }
}
