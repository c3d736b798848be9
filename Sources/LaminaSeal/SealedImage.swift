/// An EROFS image of one chain of layers. It has names, attributes, and for each file the path of its content; overlayfs takes
/// the bytes from the data-only directory beneath it.
///
/// It depends on the rows alone: the same chain gives the same bytes, in every store. Whiteouts and opaque directories are
/// resolved. An inode takes 32 bytes if it has the image's most frequent time and small numbers, else 64; a file's path takes
/// 92 more; a name takes 12 and its bytes. The image is uncompressed, in blocks of 4 KiB: superblock, inodes, attributes,
/// directories.
public struct SealedImage {
    /// How an image is written.
    public struct Options: Sendable {
        /// What identifies the image: 16 bytes of the chain's digest.
        public var identity: [UInt8]
        /// Whether `overlay.redirect` is written once, and not with each file. Linux 6.4 and newer, erofs-utils 1.7 and newer.
        public var sharesNamePrefix = true

        public init(identity: [UInt8]) { self.identity = identity }
    }

    private static let redirect = Array("overlay.redirect".utf8)
    private static let metacopy = Array("trusted.overlay.metacopy".utf8)
    private static let trusted: UInt8 = 4

    private struct Placement {
        /// In slots.
        var node: UInt32 = 0
        /// Where the data's blocks begin, relative to the first of all; for directories and long links.
        var firstBlock: UInt32 = 0
        var isExtended = true
        var layout = EROFSFormat.Layout.plain
        /// In `sets`; -1: none.
        var attributes: Int32 = -1
    }

    private let rows: ChainRows
    private let tree: ChainTree
    private let options: Options
    private var table: AttributeTable
    private var placements: [Placement]
    private var sets: [AttributeTable.Set] = []
    /// The set of each file with bytes: it says that they are elsewhere.
    private var fileSet = AttributeTable.Set()
    /// The time of compact inodes, which have none of their own.
    private let epoch: (seconds: Int64, nanoseconds: UInt32)
    private var inodeEnd = 0
    private var dataBlocks = 0

    /// How many inodes the image has.
    public var inodeCount: Int { tree.nodes.count }
    /// Its size in bytes.
    public var size: Int { (dataStart + dataBlocks) << EROFSFormat.blockBits }
    /// Calls `body` with the path of each content whose bytes the image shows, each at least once.
    public func forEachContent(_ body: (ArraySlice<UInt8>) throws -> Void) rethrows {
        for node in tree.nodes {
            let row = rows.rows[Int(node.row)]
            if Self.hasContent(row) { try body(rows.arena[row.bytes]) }
        }
    }

    private var tableStart: Int { Self.blocks(inodeEnd) }
    private var dataStart: Int { tableStart + Self.blocks(table.bytes.count) }

    /// Finds a place for everything: about 0.2 s for 200,000 files.
    ///
    /// - Parameter roots: the inodes of the layers' root directories, bottom first.
    /// - Throws: `SealError.unsupported` for what EROFS cannot show, `.damaged` for rows that contradict themselves.
    public init(_ rows: ChainRows, roots: [Int64], options: Options) throws(SealError) {
        guard options.identity.count == 16 else { throw SealError(.damaged, "an image is known by 16 bytes") }
        self.rows = rows
        self.options = options
        tree = try ChainTree(rows, roots: roots)
        table = AttributeTable(after: options.sharesNamePrefix ? Self.prefixes : [])
        epoch = Self.mostFrequentTime(rows, tree)
        placements = [Placement](repeating: Placement(), count: tree.nodes.count)
        try place()
    }

    /// The table of prefixes: a length, the namespace, and what follows it in the name.
    private static var prefixes: [UInt8] {
        var bytes = [UInt8(1 + redirect.count), 0, trusted] + redirect
        while bytes.count % 4 != 0 { bytes.append(0) }
        return bytes
    }

    private static func blocks(_ bytes: Int) -> Int { (bytes + EROFSFormat.blockSize - 1) >> EROFSFormat.blockBits }

    private static func hasContent(_ row: ChainRows.Row) -> Bool {
        row.type == FileMode.regular && row.inode.size > 0 && !row.bytes.isEmpty
    }

    /// The time that most inodes of the image have.
    private static func mostFrequentTime(
        _ rows: ChainRows, _ tree: ChainTree
    ) -> (seconds: Int64, nanoseconds: UInt32) {
        struct Time: Hashable {
            var seconds: Int64
            var nanoseconds: UInt32
        }
        var counts: [Time: Int] = [:]
        for node in tree.nodes {
            let inode = rows.rows[Int(node.row)].inode
            if inode.seconds >= 0 {
                counts[Time(seconds: inode.seconds, nanoseconds: inode.nanoseconds), default: 0] += 1
            }
        }
        // If several are equally frequent, the latest: the order of a dictionary differs each time.
        let best = counts.max { left, right in
            (left.value, left.key.seconds, left.key.nanoseconds) < (
                right.value, right.key.seconds, right.key.nanoseconds
            )
        }
        return best.map { ($0.key.seconds, $0.key.nanoseconds) } ?? (0, 0)
    }

    // MARK: Places

    private mutating func place() throws(SealError) {
        try table.add(Self.metacopy, value: [], to: &fileSet)
        fileSet.filter &= ~AttributeTable.filterBit(Self.trusted, Self.redirect)
        // The first block belongs to the superblock alone.
        var position = EROFSFormat.blockSize
        for index in tree.nodes.indices {
            let row = rows.rows[Int(tree.nodes[index].row)]
            if let set = try table.set(of: row, rows) {
                placements[index].attributes = Int32(truncatingIfNeeded: sets.count)
                sets.append(set)
            }
            let size = dataSize(index)
            let isExtended = !isCompact(index, size)
            placements[index].isExtended = isExtended
            let head =
                (isExtended ? EROFSFormat.extendedInodeSize : EROFSFormat.compactInodeSize) + attributesSize(index, row)
            var behind = 0
            if Self.hasContent(row) {
                guard row.bytes.count < EROFSFormat.attributeValueLimit else {
                    throw SealError(.damaged, "the path of a content has \(row.bytes.count) bytes")
                }
                placements[index].layout = EROFSFormat.Layout.chunks
                behind = 4 * Self.chunkCount(row.inode.size)
            } else if size > 0 {
                (position, behind) = placeData(index, size, head: head, at: position)
            }
            guard let node = UInt32(exactly: position / EROFSFormat.slotSize) else {
                throw SealError(.unsupported, "the chain has too many files for one image")
            }
            placements[index].node = node
            position += head + behind
            position = (position + EROFSFormat.slotSize - 1) / EROFSFormat.slotSize * EROFSFormat.slotSize
        }
        inodeEnd = position
        guard UInt32(exactly: dataStart + dataBlocks) != nil else {
            throw SealError(.unsupported, "the chain has too many names for one image")
        }
    }

    /// How many bytes stand in the image: of a directory's names, or of a link's target.
    private func dataSize(_ index: Int) -> Int {
        let node = tree.nodes[index]
        let row = rows.rows[Int(node.row)]
        if row.type == FileMode.symbolicLink { return row.bytes.count }
        guard row.isDirectory else { return 0 }
        var size = 0
        var last = 0
        forEachBlock(node) { _, bytes in
            size += EROFSFormat.blockSize
            last = bytes
        }
        return size - EROFSFormat.blockSize + last
    }

    /// Gives the ranges of a directory's names that stand in one block each, and how many bytes of the block they take.
    private func forEachBlock(_ node: ChainTree.Node, _ body: (Range<Int>, Int) -> Void) {
        var first = Int(node.firstName)
        var bytes = 0
        let end = first + Int(node.nameCount)
        for index in first..<end {
            let needed = EROFSFormat.entrySize + Int(tree.names[index].count)
            if bytes + needed > EROFSFormat.blockSize {
                body(first..<index, bytes)
                (first, bytes) = (index, 0)
            }
            bytes += needed
        }
        body(first..<end, bytes)
    }

    /// Puts the last part of the data behind the inode, if it can stay in the inode's block, and the rest into blocks.
    ///
    /// - Returns: where the inode begins, and what stands behind it.
    private mutating func placeData(_ index: Int, _ size: Int, head: Int, at position: Int) -> (Int, Int) {
        let block = EROFSFormat.blockSize
        let tail = size % block
        placements[index].firstBlock = UInt32(truncatingIfNeeded: dataBlocks)
        dataBlocks += size / block
        guard tail > 0 else { return (position, 0) }
        if (position + head) % block + tail <= block {
            placements[index].layout = EROFSFormat.Layout.inline
            return (position, tail)
        }
        // Go on to the next block, unless that leaves a large hole.
        if head + tail <= block / 2 {
            placements[index].layout = EROFSFormat.Layout.inline
            return ((position + block - 1) / block * block, tail)
        }
        dataBlocks += 1
        return (position, 0)
    }

    private func isCompact(_ index: Int, _ dataSize: Int) -> Bool {
        let node = tree.nodes[index]
        let inode = rows.rows[Int(node.row)].inode
        return inode.seconds == epoch.seconds && inode.nanoseconds == epoch.nanoseconds && inode.uid <= UInt16.max
            && inode.gid <= UInt16.max && linkCount(node) <= UInt16.max && self.size(index, dataSize) <= UInt32.max
    }

    private func linkCount(_ node: ChainTree.Node) -> UInt32 {
        let row = rows.rows[Int(node.row)]
        return row.isDirectory ? 2 + UInt32(node.subdirectories) : max(1, row.inode.linkCount)
    }

    /// What stat(2) shows.
    private func size(_ index: Int, _ dataSize: Int) -> UInt64 {
        let row = rows.rows[Int(tree.nodes[index].row)]
        return row.type == FileMode.regular ? UInt64(clamping: row.inode.size) : UInt64(dataSize)
    }

    private static func chunkCount(_ size: Int64) -> Int { Int((size - 1) >> Int64(EROFSFormat.chunkBits)) + 1 }

    /// How many bytes an inode's attributes take behind it.
    private func attributesSize(_ index: Int, _ row: ChainRows.Row) -> Int {
        let hasContent = Self.hasContent(row)
        let own = placements[index].attributes
        guard hasContent || own >= 0 else { return 0 }
        var size = EROFSFormat.attributeHeaderSize
        if own >= 0 { size += 4 * sets[Int(own)].shared.count }
        if hasContent { size += 4 * fileSet.shared.count + redirectSize(row) }
        return size
    }

    private func redirectSize(_ row: ChainRows.Row) -> Int {
        let name = options.sharesNamePrefix ? 0 : Self.redirect.count
        return (EROFSFormat.attributeEntrySize + name + 1 + row.bytes.count + 3) & ~3
    }

    // MARK: Writing

    /// Writes the image, from its beginning to its end.
    ///
    /// - Parameter write: gets up to a megabyte at a time.
    public func write(_ write: @escaping (UnsafeRawBufferPointer) throws -> Void) throws {
        var output = ImageOutput(write)
        try output.put(EROFSFormat.blockSize) { fillFirstBlock($0) }
        for index in tree.nodes.indices { try writeInode(index, &output) }
        try output.pad(to: tableStart << EROFSFormat.blockBits)
        try output.put(table.bytes[...])
        try output.pad(to: dataStart << EROFSFormat.blockBits)
        for index in tree.nodes.indices { try writeBlocks(index, &output) }
        try output.pad(to: size)
        try output.flush()
    }

    private func fillFirstBlock(_ block: UnsafeMutableRawBufferPointer) {
        let sb = UnsafeMutableRawBufferPointer(rebasing: block[EROFSFormat.superblockOffset...])
        sb.store(EROFSFormat.magic, at: 0)
        let compatible = EROFSFormat.Compatible.self
        var features = compatible.checksum | compatible.times | compatible.attributeFilter
        if options.sharesNamePrefix { features |= compatible.plainPrefixes }
        sb.store(features, at: 8)
        sb.store(UInt8(EROFSFormat.blockBits), at: 12)
        sb.store(UInt16(placements[0].node), at: 14)
        sb.store(UInt64(tree.nodes.count), at: 16)
        sb.store(epoch.seconds, at: 24)
        sb.store(epoch.nanoseconds, at: 32)
        sb.store(UInt32(size >> EROFSFormat.blockBits), at: 36)
        // The metadata begin at the start of the image, so that a node's number is its place.
        sb.store(UInt32(0), at: 40)
        sb.store(UInt32(tableStart), at: 44)
        UnsafeMutableRawBufferPointer(rebasing: sb[48..<64]).copyBytes(from: options.identity)
        UnsafeMutableRawBufferPointer(rebasing: sb[64..<80]).copyBytes(from: "lamina".utf8)
        let incompatible = EROFSFormat.Incompatible.self
        sb.store(incompatible.chunks | (options.sharesNamePrefix ? incompatible.attributePrefixes : 0), at: 80)
        if options.sharesNamePrefix {
            sb.store(UInt8(1), at: 91)
            sb.store(UInt32(tableStart << EROFSFormat.blockBits / 4), at: 92)
        }
        // Over the block from the superblock on, with a zero in place of the checksum.
        sb.store(crc32c(sb, seed: .max), at: 4)
    }

    private func writeInode(_ index: Int, _ output: inout ImageOutput) throws {
        let node = tree.nodes[index]
        let row = rows.rows[Int(node.row)]
        let placement = placements[index]
        try output.pad(to: Int(placement.node) * EROFSFormat.slotSize)
        let size = dataSize(index)
        let attributes = attributesSize(index, row)
        let count = placement.isExtended ? EROFSFormat.extendedInodeSize : EROFSFormat.compactInodeSize
        try output.put(count) { inode in
            inode.store(placement.layout << 1 | (placement.isExtended ? 1 : 0), at: 0)
            let units = attributes > 0 ? (attributes - EROFSFormat.attributeHeaderSize) / 4 + 1 : 0
            inode.store(UInt16(units), at: 2)
            inode.store(UInt16(truncatingIfNeeded: row.inode.mode), at: 4)
            inode.store(place(of: index, row, size), at: 16)
            inode.store(UInt32(truncatingIfNeeded: index + 1), at: 20)
            if placement.isExtended {
                inode.store(self.size(index, size), at: 8)
                inode.store(row.inode.uid, at: 24)
                inode.store(row.inode.gid, at: 28)
                inode.store(row.inode.seconds, at: 32)
                inode.store(row.inode.nanoseconds, at: 40)
                inode.store(linkCount(node), at: 44)
            } else {
                inode.store(UInt16(linkCount(node)), at: 6)
                inode.store(UInt32(self.size(index, size)), at: 8)
                inode.store(UInt16(row.inode.uid), at: 24)
                inode.store(UInt16(row.inode.gid), at: 26)
            }
        }
        if attributes > 0 { try writeAttributes(index, row, &output) }
        if placement.layout == EROFSFormat.Layout.chunks {
            for _ in 0..<Self.chunkCount(row.inode.size) {
                try output.put(4) { $0.store(EROFSFormat.absentBlock, at: 0) }
            }
        } else if placement.layout == EROFSFormat.Layout.inline {
            try writeTail(index, size, &output)
        }
    }

    /// `i_u`: a device's number, the form of the chunks, or where the blocks begin.
    private func place(of index: Int, _ row: ChainRows.Row, _ size: Int) -> UInt32 {
        switch row.type {
        case FileMode.characterDevice, FileMode.blockDevice: row.inode.device
        case FileMode.regular where Self.hasContent(row): EROFSFormat.chunkFormat
        case FileMode.directory, FileMode.symbolicLink:
            // If all of it is behind the inode, there is no block.
            placements[index].layout == EROFSFormat.Layout.inline && size < EROFSFormat.blockSize
                ? EROFSFormat.absentBlock : UInt32(dataStart) + placements[index].firstBlock
        default: EROFSFormat.absentBlock
        }
    }

    private func writeAttributes(_ index: Int, _ row: ChainRows.Row, _ output: inout ImageOutput) throws {
        let hasContent = Self.hasContent(row)
        var set = hasContent ? fileSet : AttributeTable.Set()
        if placements[index].attributes >= 0 {
            let own = sets[Int(placements[index].attributes)]
            set.shared += own.shared
            set.filter &= own.filter
        }
        try output.put(EROFSFormat.attributeHeaderSize + 4 * set.shared.count) { header in
            header.store(set.filter, at: 0)
            header.store(UInt8(set.shared.count), at: 4)
            for (position, place) in set.shared.enumerated() {
                header.store(place, at: EROFSFormat.attributeHeaderSize + 4 * position)
            }
        }
        guard hasContent else { return }
        let name = options.sharesNamePrefix ? [] : Self.redirect
        try output.put(redirectSize(row)) { entry in
            entry.store(UInt8(name.count), at: 0)
            entry.store(options.sharesNamePrefix ? EROFSFormat.longPrefix : Self.trusted, at: 1)
            entry.store(UInt16(1 + row.bytes.count), at: 2)
            let start = EROFSFormat.attributeEntrySize + name.count
            UnsafeMutableRawBufferPointer(rebasing: entry[EROFSFormat.attributeEntrySize..<start]).copyBytes(from: name)
            entry.store(UInt8(ascii: "/"), at: start)
            rows.arena.withUnsafeBytes { bytes in
                UnsafeMutableRawBufferPointer(rebasing: entry[(start + 1)...])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[row.bytes]))
            }
        }
    }

    /// Writes what stands behind the inode.
    private func writeTail(_ index: Int, _ size: Int, _ output: inout ImageOutput) throws {
        let node = tree.nodes[index]
        let row = rows.rows[Int(node.row)]
        guard row.isDirectory else {
            return try output.put(rows.arena[row.bytes].suffix(size % EROFSFormat.blockSize))
        }
        var last: (Range<Int>, Int) = (0..<0, 0)
        forEachBlock(node) { last = ($0, $1) }
        try output.put(last.1) { fill($0, with: last.0) }
    }

    /// Writes the data that have blocks of their own.
    private func writeBlocks(_ index: Int, _ output: inout ImageOutput) throws {
        let node = tree.nodes[index]
        let row = rows.rows[Int(node.row)]
        let isInline = placements[index].layout == EROFSFormat.Layout.inline
        if row.type == FileMode.symbolicLink {
            let whole = isInline ? row.bytes.count / EROFSFormat.blockSize * EROFSFormat.blockSize : row.bytes.count
            try output.put(rows.arena[row.bytes].prefix(whole))
            return try output.pad(to: Self.blocks(output.position) << EROFSFormat.blockBits)
        }
        guard row.isDirectory else { return }
        var blocks: [Range<Int>] = []
        forEachBlock(node) { range, _ in blocks.append(range) }
        // The last one may have the size of a block: then it is not behind the inode.
        if isInline { blocks.removeLast() }
        for block in blocks { try output.put(EROFSFormat.blockSize) { fill($0, with: block) } }
    }

    /// Fills a block of a directory: the entries, then the names. They are in the order of their bytes, because the kernel
    /// finds one by binary search.
    private func fill(_ block: UnsafeMutableRawBufferPointer, with range: Range<Int>) {
        var nameStart = range.count * EROFSFormat.entrySize
        var entryStart = 0
        for name in tree.names[range] {
            let entry = UnsafeMutableRawBufferPointer(rebasing: block[entryStart..<entryStart + EROFSFormat.entrySize])
            entry.store(UInt64(placements[Int(name.node)].node), at: 0)
            entry.store(UInt16(nameStart), at: 8)
            let row = rows.rows[Int(tree.nodes[Int(name.node)].row)]
            entry.store(EROFSFormat.entryType(mode: row.inode.mode), at: 10)
            let target = UnsafeMutableRawBufferPointer(rebasing: block[nameStart..<nameStart + Int(name.count)])
            if name.start < 0 {
                _ = target.initializeMemory(as: UInt8.self, repeating: UInt8(ascii: "."))
            } else {
                rows.arena.withUnsafeBytes { bytes in
                    target.copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: bytes[name.start..<name.start + Int(name.count)]))
                }
            }
            nameStart += Int(name.count)
            entryStart += EROFSFormat.entrySize
        }
    }
}
