/// How much of anything lamina accepts from outside.
///
/// The defaults are far above what images have (the largest public ones stay under 500,000 entries) and low enough that a
/// hostile layer cannot take the machine's memory: indexing stays under 512 MiB for a table of contents that has nothing but
/// entries. If a real image needs more, `MergeEngine.Options.formatLimits` raises them.
public struct FormatLimits: Sendable {
    /// The bytes of a table of contents, uncompressed.
    public var tocBytes = 256 << 20
    /// How many times its compressed size a table of contents over 16 MiB may have. Real ones compress 5 to 20 times.
    public var tocRatio = 256
    /// The entries of a layer, including directories that only the paths of others name.
    public var entries = 1_500_000
    /// The bytes of memory that the tree of a layer may take while it is made, whatever its entries are: a file of one chunk takes 280. Of a
    /// million and a half, with a compressed table of contents of 64 MiB beside it, it stays under 512 MiB.
    public var treeBytes: Int { max(64 << 20, min(entries, Int.max / 268) * 268) }
    /// The bytes of an entry's name, and of a link's target: PATH_MAX of Linux.
    public var nameBytes = 4096
    /// The bytes of one component of a path: NAME_MAX of Linux.
    public var componentBytes = 255
    /// The bytes that one member or frame must be decompressed to for a chunk: what one decoder may come to hold.
    /// With the compressed member beside it it stays under 512 MiB. Layers with larger ones are read as a whole.
    public var chunkBytes: Int64 = 160 << 20
    /// The compressed bytes of one member or frame, which are in memory as a whole.
    public var memberBytes: Int64 = 192 << 20
    /// The bytes of zeros that are hashed to verify the holes of one layer, each size once: ten seconds or so.
    public var zeroBytes: Int64 = 16 << 30
    /// The bytes of one file. No file system beneath the store takes more than 2^63 - 1; sums stay far from overflow.
    public var fileBytes: Int64 = 1 << 62
    /// The bytes of one extended attribute's name and value: XATTR_NAME_MAX and XATTR_SIZE_MAX of Linux.
    public var xattrNameBytes = 255, xattrValueBytes = 65536

    /// The defaults.
    public init() {}

    /// Checks how many entries of a tar have come, and how many bytes what is known of them takes: names, attributes and the like.
    ///
    /// - Throws: ``FormatError`` `tooLarge`.
    public func check(entries count: Int, bytes: Int) throws(FormatError) {
        guard count <= entries, bytes <= tocBytes else {
            throw FormatError(
                .tooLarge, "the layer has too many entries",
                expected: "at most \(entries), and \(tocBytes) bytes of names and attributes",
                actual: "\(count), with \(bytes)")
        }
    }
}
