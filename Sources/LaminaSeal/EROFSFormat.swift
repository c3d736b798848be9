/// The parts of EROFS's format that an image without data needs: `fs/erofs/erofs_fs.h` of Linux,
/// https://docs.kernel.org/filesystems/erofs.html and https://erofs.docs.kernel.org/en/latest/core_ondisk.html.
enum EROFSFormat {
    static let magic: UInt32 = 0xE0F5_E1E2
    static let superblockOffset = 1024
    static let blockBits = 12
    static let blockSize = 1 << blockBits
    /// A node's number is its place in the image, in units of this size.
    static let slotSize = 32

    /// Features that a kernel need not know to mount the image.
    enum Compatible {
        static let checksum: UInt32 = 0x1
        static let times: UInt32 = 0x2
        static let attributeFilter: UInt32 = 0x4
        /// The name prefixes are in the image itself; without a packed inode every kernel reads them from there.
        static let plainPrefixes: UInt32 = 0x10
    }

    /// Features that a kernel must know to mount the image.
    enum Incompatible {
        static let chunks: UInt32 = 0x4
        /// Linux 6.4 and newer, which includes every kernel that has data-only lower directories (6.5).
        static let attributePrefixes: UInt32 = 0x40
    }

    static let compactInodeSize = 32
    static let extendedInodeSize = 64

    enum Layout {
        static let plain: UInt16 = 0
        /// The last part of the data stands behind the inode.
        static let inline: UInt16 = 2
        static let chunks: UInt16 = 4
    }

    /// The largest chunk: 2^43 bytes. A file up to 8 TiB is one chunk, and that chunk is absent.
    static let chunkFormat: UInt32 = 0x1F
    static let chunkBits = blockBits + 31
    static let absentBlock: UInt32 = .max

    static let entrySize = 12
    static let attributeHeaderSize = 12
    static let attributeEntrySize = 4
    static let longPrefix: UInt8 = 0x80
    /// `h_shared_count` is a byte.
    static let sharedAttributeLimit = 255
    /// `e_value_size` has 16 bits.
    static let attributeValueLimit = 65535
    static let nameLimit = 255
    static let filterSeed: UInt32 = 0x25BB_E08F

    /// The namespaces of attribute names, and their numbers.
    static func namespace(of name: some Collection<UInt8>) -> (index: UInt8, rest: [UInt8])? {
        func rest(_ prefix: StaticString) -> [UInt8]? {
            let prefix = UnsafeBufferPointer(start: prefix.utf8Start, count: prefix.utf8CodeUnitCount)
            return name.starts(with: prefix) ? Array(name.dropFirst(prefix.count)) : nil
        }
        if let rest = rest("user."), !rest.isEmpty { return (1, rest) }
        if let rest = rest("trusted."), !rest.isEmpty { return (4, rest) }
        if let rest = rest("security."), !rest.isEmpty { return (6, rest) }
        if rest("system.posix_acl_access")?.isEmpty == true { return (2, []) }
        if rest("system.posix_acl_default")?.isEmpty == true { return (3, []) }
        return nil
    }

    /// The type of a directory's entry (`EROFS_FT_*`, which are those of `linux/fs_types.h`).
    static func entryType(mode: UInt32) -> UInt8 {
        switch mode & FileMode.type {
        case FileMode.regular: 1
        case FileMode.directory: 2
        case FileMode.characterDevice: 3
        case FileMode.blockDevice: 4
        case FileMode.fifo: 5
        case FileMode.socket: 6
        case FileMode.symbolicLink: 7
        default: 0
        }
    }
}

/// The bits of `st_mode`; they are here because this room imports nothing.
enum FileMode {
    static let type: UInt32 = 0o170000
    static let fifo: UInt32 = 0o010000
    static let characterDevice: UInt32 = 0o020000
    static let directory: UInt32 = 0o040000
    static let blockDevice: UInt32 = 0o060000
    static let regular: UInt32 = 0o100000
    static let symbolicLink: UInt32 = 0o120000
    static let socket: UInt32 = 0o140000
}
