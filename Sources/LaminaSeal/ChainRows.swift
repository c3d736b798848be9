/// One inode, as a row of the index has it.
public struct SealedInode: Sendable {
    /// Type and permissions, as in stat(2).
    public var mode: UInt32
    public var uid: UInt32
    public var gid: UInt32
    /// As stat(2) shows it; not used for directories.
    public var linkCount: UInt32
    /// dev_t of a device node; 0 in a character device is a whiteout.
    public var device: UInt32
    /// In bytes.
    public var size: Int64
    /// Since 1970.
    public var seconds: Int64
    public var nanoseconds: UInt32

    public init(
        mode: UInt32, uid: UInt32, gid: UInt32, linkCount: UInt32, device: UInt32, size: Int64, seconds: Int64,
        nanoseconds: UInt32
    ) {
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.linkCount = linkCount
        self.device = device
        self.size = size
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }
}

/// The rows of all layers of one chain: inodes, names and attributes, put in by their numbers.
///
/// About 100 bytes an inode and 40 a name, besides the names themselves.
public struct ChainRows: Sendable {
    struct Row {
        var inode: SealedInode
        /// In `arena`: the target of a symbolic link, or the content's path of a regular file.
        var bytes: Range<Int>
        var firstEntry: Int32 = 0
        var entryCount: Int32 = 0
        var firstAttribute: Int32 = 0
        var attributeCount: Int32 = 0
        /// Whether what the layers below have in this directory is hidden.
        var isOpaque = false

        var type: UInt32 { inode.mode & FileMode.type }
        var isDirectory: Bool { type == FileMode.directory }
        /// overlayfs's sign that something is gone: a character device 0:0.
        var isWhiteout: Bool { type == FileMode.characterDevice && inode.device == 0 }
    }

    struct Entry {
        var nameStart: Int
        var nameCount: Int32
        var row: Int32
    }

    struct Attribute {
        var name: Range<Int>
        var value: Range<Int>
    }

    private(set) var rows: [Row] = []
    private(set) var entries: [Entry] = []
    private(set) var attributes: [Attribute] = []
    private(set) var arena: [UInt8] = []
    /// Runs of numbers without a gap: the first number, and its place in `rows`.
    private var runs: [(first: Int64, row: Int)] = []
    private var last: Int64 = .min
    private var lastParent: Int64 = .min
    private var lastParentRow = 0

    public init() {}

    /// Adds an inode; in the order of their numbers.
    ///
    /// - Parameter bytes: a symbolic link's target; for a regular file that is not empty, the path of its content below the
    ///   data-only directory, without a leading slash.
    public mutating func addInode(_ number: Int64, _ inode: SealedInode, bytes: UnsafeRawBufferPointer?)
        throws(SealError)
    {
        guard number > last else { throw SealError(.damaged, "inode \(number) comes after \(last)") }
        if runs.isEmpty || number != last + 1 { runs.append((number, rows.count)) }
        last = number
        let start = arena.count
        if let bytes { arena.append(contentsOf: bytes) }
        rows.append(Row(inode: inode, bytes: start..<arena.count))
    }

    /// Adds a name, after all inodes; in the order of their directories' numbers, and within one in the order of their bytes.
    public mutating func addEntry(
        parent: Int64, name: UnsafeRawBufferPointer, inode: Int64
    ) throws(SealError) {
        if parent != lastParent {
            guard parent > lastParent else {
                throw SealError(.damaged, "a name of \(parent) comes after one of \(lastParent)")
            }
            lastParent = parent
            lastParentRow = try row(of: parent)
            rows[lastParentRow].firstEntry = Int32(truncatingIfNeeded: entries.count)
        }
        guard 1...EROFSFormat.nameLimit ~= name.count else {
            throw SealError(.damaged, "a name has \(name.count) bytes")
        }
        let start = arena.count
        arena.append(contentsOf: name)
        entries.append(
            Entry(nameStart: start, nameCount: Int32(name.count), row: Int32(truncatingIfNeeded: try row(of: inode))))
        rows[lastParentRow].entryCount += 1
    }

    /// Adds an extended attribute, after all inodes; those of one inode one after the other.
    ///
    /// Attributes that steer overlayfs within the chain have their effect here, and are not visible in the image. Other
    /// attributes in overlayfs's namespace are escaped as https://docs.kernel.org/filesystems/overlayfs.html (nesting overlayfs
    /// mounts) says.
    public mutating func addAttribute(
        inode: Int64, name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) throws(SealError) {
        let index = try row(of: inode)
        if name.elementsEqual("trusted.overlay.opaque".utf8) {
            if value.elementsEqual("y".utf8) { rows[index].isOpaque = true }
            return
        }
        let steering = ["trusted.overlay.origin", "user.overlay.opaque", "user.overlay.origin"]
        if steering.contains(where: { name.elementsEqual($0.utf8) }) { return }
        if rows[index].attributeCount == 0 { rows[index].firstAttribute = Int32(truncatingIfNeeded: attributes.count) }
        guard Int(rows[index].firstAttribute + rows[index].attributeCount) == attributes.count else {
            throw SealError(.damaged, "the attributes of inode \(inode) are not together")
        }
        let start = arena.count
        if name.starts(with: "trusted.overlay.".utf8) {
            arena.append(contentsOf: "trusted.overlay.overlay.".utf8)
            arena.append(contentsOf: name.dropFirst("trusted.overlay.".utf8.count))
        } else {
            arena.append(contentsOf: name)
        }
        let middle = arena.count
        arena.append(contentsOf: value)
        attributes.append(Attribute(name: start..<middle, value: middle..<arena.count))
        rows[index].attributeCount += 1
    }

    /// The place of an inode in `rows`.
    func row(of number: Int64) throws(SealError) -> Int {
        // Few: one or two a layer.
        var low = 0
        var high = runs.count
        while low < high {
            let middle = (low + high) / 2
            if runs[middle].first <= number { low = middle + 1 } else { high = middle }
        }
        let run = low - 1
        guard run >= 0 else { throw SealError(.damaged, "inode \(number) is not in the chain") }
        let row = runs[run].row + Int(number - runs[run].first)
        let end = run + 1 < runs.count ? runs[run + 1].row : rows.count
        guard row < end else { throw SealError(.damaged, "inode \(number) is not in the chain") }
        return row
    }
}
