public import LaminaStore

/// A snapshot as containerd lists it: by the name that its clients use, which is another one than a proxy plugin is told.
public struct ContainerdSnapshot: Sendable, Equatable {
    public var namespace: String
    public var key: SnapshotKey
    /// In the same namespace.
    public var parent: SnapshotKey?
    public var kind: SnapshotKind

    public init(namespace: String, key: SnapshotKey, parent: SnapshotKey?, kind: SnapshotKind) {
        self.namespace = namespace
        self.key = key
        self.parent = parent
        self.kind = kind
    }
}

/// A snapshot that something in containerd relies on.
public struct SnapshotReference: Sendable, Equatable {
    public var namespace: String
    public var key: SnapshotKey
    /// As in "the container web".
    public var holder: String

    public init(namespace: String, key: SnapshotKey, holder: String) {
        self.namespace = namespace
        self.key = key
        self.holder = holder
    }
}

/// What containerd knows of one snapshotter, of all namespaces.
public struct ContainerdView: Sendable, Equatable {
    public var namespaces: [String] = []
    /// containerd leaves out those that the snapshotter does not have.
    public var snapshots: [ContainerdSnapshot] = []
    /// So a snapshot that is missing shows only by who relies on it.
    public var references: [SnapshotReference] = []

    public init() {}
}
