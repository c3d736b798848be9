public import LaminaOCI
public import Logging

/// What an operator can set, with the defaults that apply if no file says otherwise.
///
/// `config/config.toml` is an annotated sample, docs/configuration.md the reference.
public struct Configuration: Sendable, Equatable {
    /// `[fuse]`: how files are served and merged.
    public struct FUSE: Sendable, Equatable {
        /// Whether the kernel itself reads merged files, if it can.
        public var passthrough = true
        /// The most bytes in flight between the network and the store, for the whole process.
        public var mergeBufferSize = 419_430_400
        /// The most chunk jobs (ranges of blobs that are being fetched) at the same time.
        public var mergeWorkerCount = 10
        /// Up to this size in bytes, opening a file that is not merged yet waits for the whole file.
        public var lazyThreshold: Int64 = 8 << 20
        /// Whether the processors are kept awake while calls come in quick succession.
        public var busyWait = true
        /// How many seconds the kernel may keep attributes without asking again; 0: without a limit.
        public var attributeTimeout = 0
        /// The same for names.
        public var entryTimeout = 0
    }

    /// `[directory_cache]`
    public struct DirectoryCache: Sendable, Equatable {
        /// Whether bytes go straight to the files of the store. Always true with passthrough.
        public var direct = true
    }

    /// `[store]`
    public struct StoreSection: Sendable, Equatable {
        /// The directory of the store, if neither `--root` nor `LAMINA_ROOT` names one.
        public var root: String?
        /// What the store may take on disk, in bytes; 0: no limit.
        public var maxBytes: Int64 = 0
        /// The bytes of a layer's table of contents, uncompressed; a layer with a larger one is refused.
        public var maxTOCBytes = 256 << 20
        /// The entries of a layer; one with more is refused.
        public var maxLayerEntries = 1_500_000
        /// The entries of all layers of an image that are not in the index yet; one with more is refused.
        public var maxImageEntries = 1_500_000
        /// What must be proven of an image's layers before it is mounted.
        public var require = Level.chunks
        /// Whether layers are accepted if their table of contents has no digests of chunks.
        public var verification = Verification.normal
        /// The group whose members may ask the server what `ls`, `status` and `sql` say; nil: none.
        public var group: String?
        /// Who gets files that are in the store already, by containerd's words.
        public var contentSharing = ContentSharing.shared
        /// Registries, or repositories and what begins with them, whose files are shared all the same.
        public var sharedRepositories: [String] = []
        /// And those whose files are not.
        public var isolatedRepositories: [String] = []

        /// `content_sharing_policy`
        public enum ContentSharing: String, Sendable, Equatable, CaseIterable {
            /// Whoever names a digest gets the file that has it.
            case shared
            /// An image gets what its own repository has delivered once.
            case isolated
        }

        /// What reads the gzip of plain layers.
        public var gzip = Gzip.zlib

        /// `gzip`
        public enum Gzip: String, Sendable, Equatable, CaseIterable {
            /// ISA-L where this program has it, else zlib.
            case auto
            case zlib
        }

        /// How much must be proven.
        public enum Level: String, Sendable, Equatable, CaseIterable {
            /// Every byte that is served: each chunk is verified when it lands. This is always so.
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

    /// `[trust]`: what a chain of layers has to be before containers start from it.
    public struct Trust: Sendable, Equatable {
        public var chains = Chains.claimed
        /// Registries, or repositories and what begins with them, whose chains are taken as claimed.
        public var claimedRepositories: [String] = []
        /// And those whose chains have to be proven.
        public var provenRepositories: [String] = []

        public enum Chains: String, Sendable, Equatable, CaseIterable {
            /// A layer is committed when its manifest vouches for its table of contents, and proven behind the containers.
            case claimed
            /// It is committed when its tar was hashed.
            case proven
        }
    }

    /// `[seal]`: images that the kernel shows by itself.
    public struct Seal: Sendable, Equatable {
        public var mode = Mode.auto

        public enum Mode: String, Sendable, Equatable, CaseIterable {
            /// If this machine can, images are sealed when all of them has landed, and later mounts of them are sealed.
            case auto
            /// Only what `lamina seal` and `lamina mount --sealed` ask for.
            case asked
            /// All mounts go through FUSE.
            case off
        }
    }

    /// `[podman]`: what podman, buildah, skopeo and CRI-O see of the store.
    public struct Podman: Sendable, Equatable {
        /// The directory of the image store; nil: they see nothing.
        public var images: String?
        /// When they see an image.
        public var ids = IDs.proven
        /// Registries, or repositories and what begins with them, whose diff IDs are taken as claimed.
        public var claimedRepositories: [String] = []
        /// And those whose diff IDs have to be proven.
        public var provenRepositories: [String] = []
        /// Where they keep what is their own, besides what `storage.conf` says.
        public var graphRoots: [String] = []

        public enum IDs: String, Sendable, Equatable, CaseIterable {
            /// When the tar of each layer was hashed, and is what the image says.
            case proven
            /// When it can be mounted: its layers are taken to be what its author says.
            case claimed
        }
    }

    /// `[log]`
    public struct Log: Sendable, Equatable {
        public var level = Logger.Level.info
    }

    /// `[metrics]`
    public struct Metrics: Sendable, Equatable {
        /// Where metrics are served; nil: only at the control socket.
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
        /// `containers_files`: whether podman's `registries.conf`, `certs.d` and `auth.json` are read.
        public var readsContainersFiles = true
        /// `creds_file`: credentials in docker's format, read before docker's own file.
        public var credentialsFile: String?
        /// `request_timeout_sec`: how long a registry may send nothing before it is asked again.
        public var requestTimeoutSeconds = 30
    }

    /// `[blob]`: how patient the fetches from registries are.
    public struct Blob: Sendable, Equatable {
        /// How many times in a row a request that brought nothing is repeated.
        public var maxRetries = 4
        /// The wait before the first retry, in milliseconds; it doubles with each one.
        public var minWaitMilliseconds = 200
        /// The longest such wait, in milliseconds.
        public var maxWaitMilliseconds = 10_000
        /// How many seconds all attempts together may go on without a new byte.
        public var fetchingTimeoutSeconds = 600
    }

    /// `[snapshotter]`: settings for containerd only.
    public struct Snapshotter: Sendable, Equatable {
        /// The socket where containerd is answered; absolute.
        public var address: String?
        /// Whether layers are fetched whole, behind the containers that run from them.
        public var mergesInBackground = true
        /// Whether what is wanted first of a layer is fetched before it is opened.
        public var prefetches = true
        /// containerd's own socket, where it is asked whether an image says itself what only clients say.
        public var containerdAddress = CRIKeychain.defaultImageServicePath
        /// Who gets layers without a table of contents, where no exception fits.
        public var plainLayers = PlainLayers.containerd
        /// Namespaces of containerd's whose images lamina streams: that of CRI, which neither builds nor pushes.
        public var streamedNamespaces = ["k8s.io"]
        /// And those whose images it leaves to containerd: Docker's and BuildKit's.
        public var unpackedNamespaces = ["moby", "buildkit"]
        /// Registries, or repositories and what begins with them, whose plain layers lamina streams, whatever the namespace.
        public var streamedRepositories: [String] = []
        /// And those whose it leaves to containerd.
        public var unpackedRepositories: [String] = []

        public enum PlainLayers: String, Sendable, Equatable, CaseIterable {
            /// lamina fetches, proves and places them, and containerd keeps no blob.
            case stream
            /// containerd downloads and unpacks them.
            case containerd
        }
    }

    /// `[cri_keychain]`: credentials that kubelet sends along with pulls.
    public struct CRIKeychain: Sendable, Equatable {
        /// Whether CRI's image service is offered at the socket for containerd, and its credentials are kept.
        public var isEnabled = false
        /// containerd's own socket, to which calls of the image service are passed on.
        public var imageServicePath = defaultImageServicePath

        public static let defaultImageServicePath = "/run/containerd/containerd.sock"
    }

    /// `[kubeconfig_keychain]`: the pull secrets of a Kubernetes cluster.
    public struct KubeconfigKeychain: Sendable, Equatable {
        /// Whether the cluster is asked for them.
        public var isEnabled = false
        /// How to reach its API; by default what kubectl would use, else the account of the pod that lamina runs in.
        public var path: String?
    }

    public var fuse = FUSE()
    public var directoryCache = DirectoryCache()
    public var store = StoreSection()
    public var trust = Trust()
    public var seal = Seal()
    public var podman = Podman()
    public var log = Log()
    public var metrics = Metrics()
    public var http = HTTP()
    public var resolver = Resolver()
    public var blob = Blob()
    public var snapshotter = Snapshotter()
    public var criKeychain = CRIKeychain()
    public var kubeconfigKeychain = KubeconfigKeychain()

    public init() {}

    /// The default directory of the store.
    public static let defaultRoot = "/var/lib/lamina"
    /// Where `config.toml` and `conf.d` are.
    public static let defaultDirectory = "/etc/lamina"

    /// The directory of the store, absolute.
    public var root: String { absolutePath(store.root ?? Self.defaultRoot) }
}
