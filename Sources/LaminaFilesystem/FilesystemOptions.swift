public import LaminaFUSE

/// How files are served.
public struct FilesystemOptions: Sendable {
    /// Whether merged files are given to the kernel, if it can take them.
    public var passthrough = true
    /// The open of a file up to this many bytes is answered when the file is merged; larger files open at once and are served
    /// while they merge.
    public var lazyThreshold: Int64 = 8 << 20
    /// See `FUSEConfiguration.busyWait`.
    public var busyWait = true
    /// How long the kernel may keep attributes without asking again.
    public var attributeTime = FUSECacheTime.unlimited
    /// How long the kernel may keep names, and that a name does not exist.
    public var entryTime = FUSECacheTime.unlimited

    public init() {}
}

/// How many opens were served in which way, and what the daemon had to do itself.
public struct FilesystemCounters: Sendable, Codable, Equatable {
    /// Opens that the kernel serves from the backing file.
    public var passthrough: UInt64 = 0
    /// Opens whose reads come to the daemon.
    public var cached: UInt64 = 0
    /// Opens that waited for the merge of their file.
    public var waited: UInt64 = 0
    /// READ requests that the daemon answered.
    public var reads: UInt64 = 0
    /// Bytes that it answered them with.
    public var readBytes: UInt64 = 0
    public var lookups: UInt64 = 0
    /// Backing files that are registered with the kernel now.
    public var backingFiles: Int = 0

    public init() {}
}
