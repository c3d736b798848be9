/// A difference between containerd and lamina, or between the index and the disk.
public struct SnapshotDifference: Sendable, Codable, Hashable {
    public enum Kind: String, Sendable, Codable {
        /// containerd relies on a snapshot that lamina does not have.
        case missing
        /// lamina has a snapshot that containerd does not know.
        case unknown
        /// Both have it, but it differs.
        case kind, parent
        /// A directory that is missing, or that belongs to no snapshot.
        case directory
        /// A mount that should be there, or should not.
        case mount
    }

    public var kind: Kind
    /// containerd's; nil if it is not known.
    public var namespace: String?
    /// containerd's name of the snapshot, else lamina's; for a directory or a mount, its path.
    public var name: String
    /// What is wrong, and the way out if there is one.
    public var reason: String

    public init(_ kind: Kind, namespace: String? = nil, name: String, reason: String) {
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.reason = reason
    }
}

/// What `lamina check --containerd` has found.
public struct SnapshotReport: Sendable, Codable, Equatable {
    public var root: String
    /// The socket that containerd was asked at.
    public var containerd: String
    public var snapshotter: String
    public var namespaces = 0
    /// Those that containerd has; a layer in two namespaces counts twice.
    public var containerdSnapshots = 0
    /// Those of the index.
    public var snapshots = 0
    /// Those of them that are layers which were not downloaded.
    public var lazyLayers = 0
    /// Mounts that are made of them.
    public var mounts = 0
    public var differences: [SnapshotDifference] = []

    public init(root: String, containerd: String, snapshotter: String) {
        self.root = root
        self.containerd = containerd
        self.snapshotter = snapshotter
    }
}
