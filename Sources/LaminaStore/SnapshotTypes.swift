public import LaminaDigest

/// The image with which a lazy layer was requested.
public struct SnapshotImage: Sendable, Hashable {
    /// As the index names images.
    public var reference: String
    public var manifest: Digest
    public init(reference: String, manifest: Digest) { (self.reference, self.manifest) = (reference, manifest) }
}

/// A lazy layer that has not landed completely.
public struct UnmergedSnapshotLayer: Sendable {
    public var layer: LayerID
    /// The image of the oldest snapshot of this layer.
    public var image: SnapshotImage?
    public var labels: [String: String]
}

/// What names a snapshot: any bytes (containerd's are `NAMESPACE/SEQ/KEY`, with slashes and spaces).
public struct SnapshotKey: Hashable, Sendable, CustomStringConvertible {
    public let bytes: [UInt8]
    public init(_ bytes: some Sequence<UInt8>) { self.bytes = Array(bytes) }
    public init(_ text: String) { bytes = Array(text.utf8) }
    public var description: String { "'" + String(decoding: bytes.prefix(200), as: UTF8.self) + "'" }
}

/// A row of `snapshot`; the name of its directory.
public struct SnapshotID: Hashable, Sendable, CustomStringConvertible {
    public let row: Int64
    public init(_ row: Int64) { self.row = row }
    public var description: String { String(row) }
}

/// The numbers are containerd's.
public enum SnapshotKind: Int64, Sendable {
    case view = 1
    case active = 2
    case committed = 3
}

/// How much a snapshot takes.
public struct SnapshotUsage: Sendable, Equatable {
    public var bytes: Int64
    public var inodes: Int64
    public init(bytes: Int64, inodes: Int64) { (self.bytes, self.inodes) = (bytes, inodes) }
}

/// A snapshot in the index.
public struct SnapshotRecord: Sendable {
    public var id: SnapshotID
    public var key: SnapshotKey
    public var parent: SnapshotKey?
    public var kind: SnapshotKind
    /// Its layer, if it is a lazy one.
    public var layer: LayerID?
    /// The view that then shows it.
    public var view: ViewID?
    /// How much it took when it was committed; nil for lazy layers, views and active ones.
    public var usage: SnapshotUsage?
    /// Nanoseconds since 1970.
    public var createdAt: Int64
    public var updatedAt: Int64
    public var labels: [String: String]
}

/// Where the files of one snapshot are.
public enum SnapshotPlace: Hashable, Sendable {
    /// `<root>/snapshots/<id>/fs`
    case directory(SnapshotID)
    /// `<root>/fs/<view>`
    case layer(ViewID)
}

/// A snapshot, and the chain below it.
public struct SnapshotChain: Sendable {
    public var id: SnapshotID
    public var kind: SnapshotKind
    /// The nearest first.
    public var parents: [SnapshotPlace]
    /// The sealed chain that replaces all of them since the snapshot was made: a snapshot stays with what it first got.
    public var sealed: SealedID?
}

/// The owner of a snapshot's directory: overlayfs shows the topmost one's.
public struct SnapshotOwner: Sendable, Equatable {
    public var user: UInt32
    public var group: UInt32
    public init(user: UInt32, group: UInt32) { (self.user, self.group) = (user, group) }
}

/// How labels change: all at once, or some of them.
public enum LabelChange: Sendable {
    case replace([String: String])
    /// nil removes a label.
    case set([String: String?])
}

/// Why a call on snapshots is refused: containerd's codes.
public struct SnapshotError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable {
        case notFound, alreadyExists, invalidArgument, failedPrecondition
        /// The server ends, or the client has left: whoever asks again is answered.
        case unavailable
    }

    public var code: Code
    public var message: String

    public init(_ code: Code, _ message: String) { (self.code, self.message) = (code, message) }
    public var description: String { message }
}
