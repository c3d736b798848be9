public import LaminaStore

/// A snapshot as containerd lists it: by its client's name, which differs from the name that a proxy plugin gets.
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
    /// Such as "the container web".
    public var holder: String

    public init(namespace: String, key: SnapshotKey, holder: String) {
        self.namespace = namespace
        self.key = key
        self.holder = holder
    }
}

/// What containerd knows about one snapshotter, in all namespaces.
public struct ContainerdView: Sendable, Equatable {
    public var namespaces: [String] = []
    /// containerd leaves out those that the snapshotter does not have.
    public var snapshots: [ContainerdSnapshot] = []
    /// So a missing snapshot shows only through what relies on it.
    public var references: [SnapshotReference] = []

    public init() {}
}
