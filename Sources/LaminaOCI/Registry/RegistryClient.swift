/// Speaks to one registry or its mirrors, by the distribution specification:
/// https://github.com/opencontainers/distribution-spec/blob/main/spec.md
///
/// It is a value; the session and the process's pool of connections are shared. Calls block the calling thread.
public struct RegistryClient: Sendable {
    /// A registry's scheme and host.
    public struct Endpoint: Sendable, Hashable {
        public enum Scheme: String, Sendable, Hashable, CustomStringConvertible {
            case http, https
            public var description: String { rawValue }
        }

        public var scheme: Scheme
        /// As in the reference, with the port if it has one.
        public var host: String

        public init(scheme: Scheme, host: String) {
            self.scheme = scheme
            self.host = host
        }

        /// The endpoint of a reference's host: HTTPS, except on this machine and if `plainHTTP` says otherwise.
        public init(registry host: String, plainHTTP: Bool = false) {
            self.init(scheme: plainHTTP || ImageReference.isLoopback(host: host) ? .http : .https, host: host)
        }
    }

    /// How patient the client is, and what it calls itself.
    public struct Settings: Sendable {
        public var userAgent = "lamina/\(RegistryClient.version)"
        /// How long nothing may arrive. There is no limit on a transfer that makes progress. The time that the receiver of the
        /// bytes takes does not count.
        public var stallLimit: Duration = .seconds(30)
        /// How much must come within each `slowLimit`; nil: no minimum. Only for servers that have another one behind them: a
        /// slow transfer is better than none.
        var leastByteCount: Int64?
        /// How long a mirror may bring less than 32 KiB a second before the next server is asked.
        public var slowLimit: Duration = .seconds(10)
        /// How long making a connection may take.
        public var connectLimit: Duration = .seconds(15)
        /// How many times in a row an attempt may end without new bytes.
        public var tryLimit = 5
        /// With this many new bytes an attempt counts as successful.
        var progressByteCount: Int64 = 1
        /// The wait before the second try; it doubles with each one, and is shortened at random by up to half.
        public var backoff: Duration = .milliseconds(200)
        /// The longest such wait.
        public var backoffLimit: Duration = .seconds(10)
        /// The longest `Retry-After` that is accepted; beyond it, the call fails at once.
        public var retryAfterLimit: Duration = .seconds(300)
        /// How long all attempts together may go on without a single new byte.
        public var progressLimit: Duration = .seconds(600)
        /// Where the blobs of registries without ranges are kept while they are read; by default the system's directory for
        /// temporary files.
        public var spoolDirectory: String?

        /// Asked before so many bytes of a blob are kept in ``spoolDirectory``; throws where there is no room for them.
        public var reserveSpool: @Sendable (_ bytes: Int64, _ whole: Int64) throws -> Void = { _, _ in }
        /// Told how many of them are there no more.
        public var releaseSpool: @Sendable (_ bytes: Int64) -> Void = { _ in }

        /// Told about each failure that is tried again, and how long is waited before that; for a log.
        public var onRetry: @Sendable (_ failure: OCIError, _ wait: Duration) -> Void = { _, _ in }
        /// Gets each server that is given up for the next one; for a log.
        public var onFallThrough: @Sendable (_ failure: OCIError) -> Void = { _ in }

        /// What a mirror must bring each second, in bytes: slow lines bring several times that.
        static let leastRate: Int64 = 32 << 10

        public init() {}

        /// For a server that has another one behind it.
        var forMirror: Settings {
            var settings = self
            settings.tryLimit = min(tryLimit, 2)
            settings.stallLimit = min(stallLimit, .seconds(10))
            settings.connectLimit = min(connectLimit, .seconds(5))
            settings.retryAfterLimit = min(retryAfterLimit, .seconds(5))
            settings.leastByteCount = Int64(Double(Self.leastRate) * (slowLimit / .seconds(1)))
            // A mirror that breaks again and again, and brings little in between, would be worse than the registry itself.
            settings.progressByteCount = 1 << 20
            return settings
        }
    }

    /// The version that registries see.
    public static let version = "0.1.0"

    /// The registry of the references.
    public let endpoint: Endpoint
    /// The servers to ask, in order: mirrors, then the registry itself.
    public let hosts: [RegistryHost]
    public let settings: Settings
    let session: RegistrySession

    /// A registry without configuration and credentials.
    public init(endpoint: Endpoint, settings: Settings = Settings()) {
        self.init(
            endpoint: endpoint, hosts: [RegistryHost(endpoint)], settings: settings,
            session: RegistrySession(credentials: .none))
    }

    init(endpoint: Endpoint, hosts: [RegistryHost], settings: Settings, session: RegistrySession) {
        self.endpoint = endpoint
        self.hosts = hosts
        self.settings = settings
        self.session = session
    }
}
