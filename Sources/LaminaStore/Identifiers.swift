/// A row of `content`: the bytes of one regular file.
public struct ContentID: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let row: Int64
    public init(_ row: Int64) { self.row = row }
    public static func < (left: Self, right: Self) -> Bool { left.row < right.row }
    public var description: String { "content \(row)" }
}

/// A row of `layer`.
public struct LayerID: Hashable, Sendable, CustomStringConvertible {
    public let row: Int64
    public init(_ row: Int64) { self.row = row }
    public var description: String { "layer \(row)" }
}

/// A row of `layer_view`: the name of a directory at the top of the mount.
public struct ViewID: Hashable, Sendable, CustomStringConvertible {
    public let row: Int64
    public init(_ row: Int64) { self.row = row }
    public var description: String { String(row) }
}

/// A row of `image`.
public struct ImageID: Hashable, Sendable {
    public let row: Int64
    public init(_ row: Int64) { self.row = row }
}
