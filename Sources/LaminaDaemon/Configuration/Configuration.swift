public import LaminaOCI
public import Logging

/// What an operator can set, with the defaults that hold where no file says otherwise.
///
/// `config/config.toml` is the annotated sample of it, docs/configuration.md the reference.
public struct Configuration: Sendable, Equatable {
    /// `[fuse]`: how files are served and merged.
    public struct FUSE: Sendable, Equatable {
        /// Whether the kernel reads merged files itself, where it can.
        public var passthrough = true
        /// The most bytes in flight between the network and the store, of the whole process.
        public var mergeBufferSize = 419_430_400
        /// The most merges that work at the same time.
        public var mergeWorkerCount = 10
        /// Up to this size in bytes, opening a file that is not merged yet waits for the whole file.
        public var lazyThreshold: Int64 = 8 << 20
        /// Whether the processors are kept awake while calls come in quick succession.
        public var busyWait = true
    }

    /// `[directory_cache]`
    public struct DirectoryCache: Sendable, Equatable {
        /// Whether bytes go straight to the files of the store. Always true under passthrough.
        public var direct = true
    }

    /// `[store]`
    public struct StoreSection: Sendable, Equatable {
        /// The directory of the store, where neither `--root` nor `LAMINA_ROOT` names one.
        public var root: String?
        /// What the store may take on disk, in bytes; 0: as much as there is.
        public var maxBytes: Int64 = 0
        /// What must be proven of an image's layers before it is mounted.
        public var require = Level.chunks
        /// Whether layers are taken whose table of contents has no digests of chunks.
        public var verification = Verification.normal

        /// How much must be proven.
        public enum Level: String, Sendable, Equatable, CaseIterable {
            /// Every byte that is served: each chunk is verified when it lands. Always so.
            case chunks
            /// That the layer's tar is the one that the image's configuration names, before anything is mounted.
            case diffID = "diffid"
        }

        public enum Verification: String, Sendable, Equatable, CaseIterable {
            /// A layer without digests of chunks is read and verified as a whole.
            case normal
            /// It is refused.
            case strict
        }
    }

    /// `[log]`
    public struct Log: Sendable, Equatable {
        public var level = Logger.Level.info
    }

    /// `[metrics]`
    public struct Metrics: Sendable, Equatable {
        /// Where metrics are served; nil: at the control socket only.
        public var address: ListenAddress?
    }

    /// `[http]`
    public struct HTTP: Sendable, Equatable {
        /// Registries (`host` or `host:port`) that speak HTTP without TLS.
        public var plain: [String] = []
    }

    /// `[resolver]`
    public struct Resolver: Sendable, Equatable {
        /// `config_path` and `[[resolver.host."H".mirrors]]`.
        public var hosts = HostsConfiguration()
        /// `creds_file`: credentials in docker's format, looked through before docker's own file.
        public var credentialsFile: String?
        /// `request_timeout_sec`: how long a registry may send nothing before it is asked again.
        public var requestTimeoutSeconds = 30
    }

    public var fuse = FUSE()
    public var directoryCache = DirectoryCache()
    public var store = StoreSection()
    public var log = Log()
    public var metrics = Metrics()
    public var http = HTTP()
    public var resolver = Resolver()

    public init() {}

    /// The default directory of the store.
    public static let defaultRoot = "/var/lib/lamina"
    /// Read when no file is named and this one exists.
    public static let defaultPath = "/etc/lamina/config.toml"

    /// The directory of the store: the option, else `LAMINA_ROOT`, else `[store] root`, else the default; absolute.
    public func root(option: String?, environment: String?) -> String {
        absolutePath(option ?? environment.flatMap { $0.isEmpty ? nil : $0 } ?? store.root ?? Self.defaultRoot)
    }
}
