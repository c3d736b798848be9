public import LaminaFilesystem
public import LaminaMerge

/// How far a pull is; or a check, for which the bytes are those that it reads, and has read.
public struct PullProgress: Sendable, Codable, Equatable {
    public enum Stage: String, Sendable, Codable {
        case resolving, indexing, streaming, merging, checking, done
    }

    public var stage: Stage
    public var reference: String
    public var layers: Int
    public var indexedLayers: Int
    /// Uncompressed bytes of the image's distinct contents; 0 until it is indexed.
    public var bytes: Int64
    /// Those of them that the store has.
    public var landedBytes: Int64
    /// Compressed bytes that this pull fetched.
    public var fetchedBytes: Int64
    /// What is being merged.
    public var current: String?
    /// How much what is missing takes on disk, and how much is free there; known before the image is merged.
    public var neededBytes: Int64?
    public var freeBytes: Int64?

    public init(
        stage: Stage, reference: String, layers: Int = 0, indexedLayers: Int = 0, bytes: Int64 = 0,
        landedBytes: Int64 = 0, fetchedBytes: Int64 = 0, current: String? = nil, neededBytes: Int64? = nil,
        freeBytes: Int64? = nil
    ) {
        self.neededBytes = neededBytes
        self.freeBytes = freeBytes
        self.stage = stage
        self.reference = reference
        self.layers = layers
        self.indexedLayers = indexedLayers
        self.bytes = bytes
        self.landedBytes = landedBytes
        self.fetchedBytes = fetchedBytes
        self.current = current
    }
}

/// What a pull did.
public struct PullResult: Sendable, Codable, Equatable {
    public var reference: String
    public var manifestDigest: String
    public var platform: String
    public var layers: Int
    public var bytes: Int64
    public var landedBytes: Int64
    public var fetchedBytes: Int64
    /// Whether the store has all of the image.
    public var complete: Bool
    /// Whether podman has it, as a sentence; nil if podman is shown nothing.
    public var podman: String?

    public init(
        reference: String, manifestDigest: String, platform: String, layers: Int, bytes: Int64, landedBytes: Int64,
        fetchedBytes: Int64, complete: Bool, podman: String? = nil
    ) {
        self.podman = podman
        self.reference = reference
        self.manifestDigest = manifestDigest
        self.platform = platform
        self.layers = layers
        self.bytes = bytes
        self.landedBytes = landedBytes
        self.fetchedBytes = fetchedBytes
        self.complete = complete
    }
}

/// What a mount did.
public struct MountResult: Sendable, Codable, Equatable {
    public var target: String
    public var reference: String
    /// The directory that takes the writes.
    public var writable: String?
    public var layers: Int
    /// Whether the kernel shows it without lamina; nil from a server of an older lamina.
    public var sealed: Bool?
    /// A sentence that the user should see about it.
    public var warning: String?

    public init(
        target: String, reference: String, writable: String?, layers: Int, sealed: Bool? = nil, warning: String? = nil
    ) {
        self.sealed = sealed
        self.target = target
        self.reference = reference
        self.writable = writable
        self.layers = layers
        self.warning = warning
    }
}

/// What a running server says about itself.
public struct ServerStatus: Sendable, Codable, Equatable {
    public var pid: Int32
    public var version: String
    public var root: String
    /// Whether merged files are given to the kernel.
    public var passthrough: Bool
    /// Why not.
    public var passthroughReason: String?
    public var opens: FilesystemCounters
    /// Compressed bytes fetched since the start.
    public var fetchedBytes: UInt64
    /// Bytes on their way between source and store.
    public var inFlightBytes: Int64
    /// RFC 3339.
    public var startedAt: String
    /// What merges take; nil from a server of an older lamina.
    public var merge: MergeEngine.Load?
    /// Sealed images; also nil from an older one.
    public var seal: SealStatus?
    /// What podman sees; nil if nothing.
    public var podman: PodmanStatus?
    /// Plain layers that are being streamed; also nil from an older one.
    public var streams: [StreamProgress]?

    public init(
        pid: Int32, version: String, root: String, passthrough: Bool, passthroughReason: String?,
        opens: FilesystemCounters, fetchedBytes: UInt64, inFlightBytes: Int64, startedAt: String,
        merge: MergeEngine.Load? = nil, seal: SealStatus? = nil, podman: PodmanStatus? = nil,
        streams: [StreamProgress]? = nil
    ) {
        self.podman = podman
        self.streams = streams
        self.seal = seal
        self.merge = merge
        self.pid = pid
        self.version = version
        self.root = root
        self.passthrough = passthrough
        self.passthroughReason = passthroughReason
        self.opens = opens
        self.fetchedBytes = fetchedBytes
        self.inFlightBytes = inFlightBytes
        self.startedAt = startedAt
    }
}
