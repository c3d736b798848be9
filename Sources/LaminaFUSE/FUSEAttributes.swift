import CFuse

/// What stat(2) says of a file. Access and change time are the modification time, because content never changes.
public struct FUSEAttributes: Sendable, Hashable {
    /// The node ID, which is the inode number too.
    public var node: UInt64
    /// Type and permissions, as `st_mode`.
    public var mode: UInt32
    public var linkCount: UInt32
    public var userID: UInt32
    public var groupID: UInt32
    /// Bytes.
    public var size: UInt64
    /// Of 512 bytes each.
    public var blocks: UInt64
    /// The low 32 bits of what makedev(3) gives: major below 4,096, minor below 2^20.
    public var device: UInt32
    /// Seconds since 1970; negative for times before.
    public var modifiedSeconds: Int64
    public var modifiedNanoseconds: UInt32

    public init(
        node: UInt64, mode: UInt32, linkCount: UInt32 = 1, userID: UInt32 = 0, groupID: UInt32 = 0, size: UInt64 = 0,
        device: UInt32 = 0, modifiedSeconds: Int64 = 0, modifiedNanoseconds: UInt32 = 0
    ) {
        self.node = node
        self.mode = mode
        self.linkCount = linkCount
        self.userID = userID
        self.groupID = groupID
        self.size = size
        blocks = size / 512 + (size % 512 == 0 ? 0 : 1)
        self.device = device
        self.modifiedSeconds = modifiedSeconds
        self.modifiedNanoseconds = modifiedNanoseconds
    }

    var raw: lamina_fuse_attributes {
        lamina_fuse_attributes(
            node: node, size: size, blocks: blocks, mtime_seconds: modifiedSeconds,
            mtime_nanoseconds: modifiedNanoseconds, mode: mode, nlink: linkCount, uid: userID, gid: groupID,
            rdev: device)
    }
}

/// How long the kernel may keep an entry or attributes without asking again.
public struct FUSECacheTime: Sendable, Hashable {
    public var seconds: UInt64
    public var nanoseconds: UInt32

    public init(seconds: UInt64, nanoseconds: UInt32 = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    /// Not at all.
    public static var none: FUSECacheTime { FUSECacheTime(seconds: 0) }
    /// A hundred years. The kernel counts in 64-bit jiffies and would cut larger values (2^53 seconds and more).
    public static var unlimited: FUSECacheTime { FUSECacheTime(seconds: 100 * 365 * 86_400) }

    var raw: lamina_fuse_time { lamina_fuse_time(seconds: seconds, nanoseconds: nanoseconds) }
}

/// What statfs(2) says of the file system.
public struct FUSEFilesystemStatistics: Sendable, Hashable {
    /// Bytes in a block, the unit of the next three values.
    public var blockSize: UInt32
    public var blocks: UInt64
    public var freeBlocks: UInt64
    public var availableBlocks: UInt64
    /// Inodes.
    public var files: UInt64
    public var freeFiles: UInt64

    public init(
        blockSize: UInt32 = 4096, blocks: UInt64 = 0, freeBlocks: UInt64 = 0, availableBlocks: UInt64 = 0,
        files: UInt64 = 0, freeFiles: UInt64 = 0
    ) {
        self.blockSize = blockSize
        self.blocks = blocks
        self.freeBlocks = freeBlocks
        self.availableBlocks = availableBlocks
        self.files = files
        self.freeFiles = freeFiles
    }

    var raw: lamina_fuse_statistics {
        lamina_fuse_statistics(
            blocks: blocks, free_blocks: freeBlocks, available_blocks: availableBlocks, files: files,
            free_files: freeFiles, block_size: blockSize, name_length: 255)
    }
}
