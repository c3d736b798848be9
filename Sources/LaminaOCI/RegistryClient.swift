/// Speaks to one registry, by the distribution specification:
/// https://github.com/opencontainers/distribution-spec/blob/main/spec.md
///
/// A value: what is shared is the process's pool of connections. Calls block the calling thread.
public struct RegistryClient: Sendable {
    /// A registry's scheme and host.
    public struct Endpoint: Sendable, Hashable {
        public enum Scheme: String, Sendable, Hashable, CustomStringConvertible {
            case http, https
            public var description: String { rawValue }
        }

        public var scheme: Scheme
        /// As in the reference, with the port where it has one.
        public var host: String

        public init(scheme: Scheme, host: String) {
            self.scheme = scheme
            self.host = host
        }

        /// The endpoint of a reference's host: HTTPS, except on this machine and where `plainHTTP` says otherwise.
        public init(registry host: String, plainHTTP: Bool = false) {
            self.init(scheme: plainHTTP || ImageReference.isLoopback(host: host) ? .http : .https, host: host)
        }

        /// Docker's registry answers under another name than the one in its references.
        var url: String { "\(scheme)://\(host == "docker.io" ? "registry-1.docker.io" : host)" }
    }

    /// How patient the client is, and what it calls itself.
    public struct Settings: Sendable {
        public var userAgent = "lamina/\(RegistryClient.version)"
        /// How long nothing may arrive. There is no limit on a transfer that goes on. The time that the receiver of
        /// the bytes takes does not count.
        public var stallLimit: Duration = .seconds(30)
        /// How often in a row an attempt may end without a single new byte.
        public var tryLimit = 5
        /// The wait before the second try; it doubles with each one, by chance up to half of it is left out.
        public var backoff: Duration = .milliseconds(200)
        /// The longest such wait.
        public var backoffLimit: Duration = .seconds(10)
        /// The longest `Retry-After` that is waited for; beyond, the call fails at once.
        public var retryAfterLimit: Duration = .seconds(300)

        /// Told about each failure that is tried again, and how long is waited before that; for a log.
        public var onRetry: @Sendable (_ failure: OCIError, _ wait: Duration) -> Void = { _, _ in }

        public init() {}
    }

    /// The version that registries see.
    public static let version = "0.1.0"

    public let endpoint: Endpoint
    public let settings: Settings

    public init(endpoint: Endpoint, settings: Settings = Settings()) {
        self.endpoint = endpoint
        self.settings = settings
    }
}
