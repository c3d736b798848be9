import LaminaDigest

/// Makes a ``LayerTree`` from a table of contents, entry by entry, in their order there. A later entry replaces an earlier one
/// of the same path, as in unpacking.
///
/// While it grows, nodes are drafts: what is replaced stays and is dropped at the end (`TreeBuilder+Finish.swift`), so that no
/// entry ever costs more than its own length.
struct TreeBuilder: ~Copyable {
    /// What is known of a node while it is under construction, besides what it becomes.
    struct Draft {
        enum Kind: UInt8 { case directory, whiteout, other, unresolvedLink }

        var kind: Kind
        /// A directory that a later entry has replaced: everything below it is gone.
        var isReplaced = false
        /// A directory of aufs's own, which is not shown; links to what is in it are valid.
        var isHidden = false
        /// A directory that hides what lower layers have in it.
        var isOpaque = false
        /// Whether its name also has a whiteout: a directory that gets this name is opaque.
        var isWhitedOut = false
        /// Its attributes in ``TreeBuilder/xattrs``.
        var xattrs: Range<Int32> = 0..<0
        /// The entry's place in the JSON, for errors that are found later.
        var position: Int32 = 0
    }

    /// What following symbolic links has cost so far: `LinkWalk.workLimit`.
    var linkWork = 0

    let tocOffset: Int64
    let limits: FormatLimits
    var path: PathCleaner
    /// The targets of links, while ``path`` holds the link's own name.
    var linkPath: PathCleaner

    var drafts: [Draft]
    /// Of each draft; in an array of its own, which becomes the tree's without a copy.
    var nodes: [LayerTree.Node]
    var names = NodeTable()
    var xattrs: [LayerTree.Xattr] = []
    var hasUnresolvedLinks = false
    var prioritizedEnd: Int64?
    var hasNoPrefetchMark = false
    /// Whether landmarks and the table of contents belong to the format and are not shown.
    var hidesFormatNames = true

    // Files and their chunks: `TreeBuilder+Files.swift`.
    var file = PendingFile()
    var zeros: ZeroDigests
    var contents: [LayerTree.Content] = []
    var chunks: [LayerTree.Chunk] = []
    var contentByHash: [UInt64: Int32] = [:]
    /// Where members begin: every payload's offset, including hidden and replaced entries.
    var memberOffsets: [Int64] = []
    var memberOffsetsAreSorted = true

    /// The directory of the entry before: usually that of the next entry too.
    var lastDirectory: (path: [UInt8], node: Int32)? = nil

    /// `tocSize` is the size of the JSON: it tells about how many entries to make room for.
    init(tocOffset: Int64, tocSize: Int, limits: FormatLimits) {
        self.tocOffset = tocOffset
        self.limits = limits
        zeros = ZeroDigests(limits: limits)
        path = PathCleaner(limits: limits)
        linkPath = PathCleaner(limits: limits)
        drafts = [Draft(kind: .directory)]
        nodes = [Self.implicitDirectory(in: 0)]
        // An entry has 350 bytes or so. Memory that is reserved for nothing is not touched.
        let entries = min(tocSize / 350, limits.entries)
        drafts.reserveCapacity(entries)
        nodes.reserveCapacity(entries)
        chunks.reserveCapacity(entries)
        contents.reserveCapacity(entries)
        contentByHash.reserveCapacity(entries)
        memberOffsets.reserveCapacity(entries)
        names.reserveCapacity(entries)
    }

    /// Takes the next entry.
    mutating func add(_ entry: inout TOCEntry, _ parser: TOCParser) throws(FormatError) {
        try take(entry, parser)
        guard memory <= limits.treeBytes else {
            throw FormatError(
                .tooLarge, "the layer takes too much memory to be read",
                expected: "at most \(limits.treeBytes) bytes", actual: "more, with \(nodes.count) of its entries")
        }
    }

    private mutating func take(_ entry: TOCEntry, _ parser: TOCParser) throws(FormatError) {
        guard let kind = entry.kind else { return }
        if kind == .chunk { return try addChunk(entry, parser) }
        try finishFile()
        try parser.reader.withBytes(entry.name) { (name) throws(FormatError) in try path.clean(name) }
        if kind == .regular { try beginFile(entry) }
        switch try role() {
        case .hidden: noteLandmark(entry)
        case .opaqueMark:
            let directory = try directory()
            drafts[Int(directory)].isOpaque = true
        case .whiteout(let name): try addWhiteout(of: name, entry)
        case .plain: try addPlain(kind, entry, parser)
        }
    }

    /// About how many bytes of memory it takes so far, where that is many.
    private var memory: Int {
        nodes.count * (MemoryLayout<LayerTree.Node>.stride + MemoryLayout<Draft>.stride)
            + names.slots.count * (MemoryLayout<NodeTable.Slot>.stride + 8) + names.arena.count
            + chunks.count * MemoryLayout<LayerTree.Chunk>.stride
            // With their places in the dictionary by hash.
            + contents.count * (MemoryLayout<LayerTree.Content>.stride + 24)
            + file.chunks.count * MemoryLayout<PendingFile.Chunk>.stride
            + memberOffsets.count * 8 + xattrs.count * MemoryLayout<LayerTree.Xattr>.stride
    }

    /// What an entry with this name means for the tree.
    private enum Role {
        case plain
        /// Part of the format, or of aufs: it is not shown.
        case hidden
        case opaqueMark
        /// Hides what lower layers have under this name.
        case whiteout(UnsafeRawBufferPointer)
    }

    /// Decides by the name alone: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts.
    private func role() throws(FormatError) -> Role {
        let last = path.componentCount - 1
        for index in 0..<path.componentCount {
            let component = path.component(index)
            guard component[0] == UInt8(ascii: ".") else { continue }
            if last == 0, hidesFormatNames,
                component.isEqual(to: Landmark.prefetch) || component.isEqual(to: Landmark.noPrefetch)
                    || component.isEqual(to: EStargz.tocName)
            {
                return .hidden
            }
            guard component.begins(with: ".wh.") else { continue }
            if index == last, component.isEqual(to: ".wh..wh..opq") { return .opaqueMark }
            // Below `.wh..wh.plnk` aufs kept the targets of the layer's hard links; no other name of a directory is special.
            guard index == last else { continue }
            if component.begins(with: ".wh..wh.") { return .hidden }
            let name = UnsafeRawBufferPointer(rebasing: component.dropFirst(4))
            guard !name.isEmpty, !name.isEqual(to: "."), !name.isEqual(to: "..") else {
                throw FormatError(.badEntry, "the whiteout hides no name")
            }
            return .whiteout(name)
        }
        // The only hidden name that does not begin with a dot.
        return hidesFormatNames && last == 0 && path.component(0).isEqual(to: EStargz.tocName) ? .hidden : .plain
    }

    private enum Landmark {
        static let prefetch: StaticString = ".prefetch.landmark"
        static let noPrefetch: StaticString = ".no.prefetch.landmark"
    }

    private mutating func noteLandmark(_ entry: TOCEntry) {
        guard path.componentCount == 1 else { return }
        if path.path.isEqual(to: Landmark.noPrefetch) { hasNoPrefetchMark = true }
        // Without a payload it has no place in the blob.
        if path.path.isEqual(to: Landmark.prefetch), entry.kind == .regular, entry.size > 0 {
            prioritizedEnd = entry.offset
        }
    }
}

extension TreeBuilder {
    static func implicitDirectory(in parent: Int32) -> LayerTree.Node {
        var node = LayerTree.Node(
            mode: FileType.directory | 0o755, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0)
        node.isImplicit = true
        node.parent = parent
        return node
    }

    /// Gives a name to a new node, and takes it from the node that had it; returns the number of the new node.
    @discardableResult
    mutating func place(
        _ new: LayerTree.Node, _ draft: Draft, in parent: Int32, named name: UnsafeRawBufferPointer
    ) throws(FormatError) -> Int32 {
        guard drafts.count <= min(limits.entries, Int(Int32.max) / 2) else {
            throw FormatError(
                .tooLarge, "the layer has too many entries, with the directories that its paths imply",
                expected: "at most \(limits.entries)")
        }
        let node = Int32(drafts.count)
        drafts.append(draft)
        nodes.append(new)
        guard let slot = names.find(parent, name) else {
            _ = names.add(parent, name, node: node)
            return node
        }
        replace(slot, with: node)
        return node
    }

    /// Gives a name that is in use to another node.
    mutating func replace(_ slot: Int, with node: Int32) {
        let replaced = Int(names.slots[slot].node)
        // It may have been a symbolic link on the way to that directory.
        lastDirectory = nil
        switch drafts[replaced].kind {
        case .directory: drafts[replaced].isReplaced = true
        case .whiteout, .other, .unresolvedLink: break
        }
        // A whiteout hides what lower layers have, never what its own layer has: the new node is visible, and if it is a
        // directory, opaque.
        if drafts[replaced].kind == .whiteout || drafts[replaced].isWhitedOut { drafts[Int(node)].isWhitedOut = true }
        names.replace(slot, with: node)
    }

    private mutating func addWhiteout(of name: UnsafeRawBufferPointer, _ entry: TOCEntry) throws(FormatError) {
        let parent = try directory()
        if let slot = names.find(parent, name), drafts[Int(names.slots[slot].node)].kind != .whiteout {
            // The layer has the name itself: see ``replace(_:with:)``.
            drafts[Int(names.slots[slot].node)].isWhitedOut = true
            return
        }
        var node = try attributes(entry, type: FileType.character)
        node.mode = FileType.character
        try place(node, Draft(kind: .whiteout), in: parent, named: name)
    }

    private mutating func addPlain(
        _ kind: TOCEntry.Kind, _ entry: TOCEntry, _ parser: TOCParser
    ) throws(FormatError) {
        if path.componentCount == 0 {
            // An entry without a name, or one that climbs to the root: containerd skips it, because nothing can be made of it.
            guard kind == .directory else { return }
            return try setAttributes(of: 0, entry, parser)
        }
        let parent = try directory()
        let name = path.component(path.componentCount - 1)
        switch kind {
        case .directory: try addDirectory(in: parent, named: name, entry, parser)
        case .hardLink: try addHardLink(in: parent, named: name, entry, parser)
        case .regular:
            let node = try addNode(FileType.regular, in: parent, named: name, entry, parser)
            nodes[Int(node)].size = entry.size
            file.node = node
        case .symlink:
            let target = try linkTarget(entry, parser)
            let node = try addNode(FileType.symlink, in: parent, named: name, entry, parser)
            nodes[Int(node)].mode = FileType.symlink | 0o777
            nodes[Int(node)].target = target
            nodes[Int(node)].size = Int64(entry.linkName.count)
        case .character, .block:
            let device = try Self.device(entry)
            let type = kind == .block ? FileType.block : FileType.character
            let node = try addNode(type, in: parent, named: name, entry, parser)
            nodes[Int(node)].device = device
        case .fifo: try addNode(FileType.fifo, in: parent, named: name, entry, parser)
        case .chunk: break
        }
    }

    @discardableResult
    private mutating func addNode(
        _ type: UInt32, in parent: Int32, named name: UnsafeRawBufferPointer, _ entry: TOCEntry, _ parser: TOCParser
    ) throws(FormatError) -> Int32 {
        let node = try attributes(entry, type: type)
        var draft = Draft(kind: .other)
        draft.xattrs = try adoptXattrs(parser, of: type)
        return try place(node, draft, in: parent, named: name)
    }

    private mutating func addDirectory(
        in parent: Int32, named name: UnsafeRawBufferPointer, _ entry: TOCEntry, _ parser: TOCParser
    ) throws(FormatError) {
        if let slot = names.find(parent, name), drafts[Int(names.slots[slot].node)].kind == .directory {
            return try setAttributes(of: names.slots[slot].node, entry, parser)
        }
        let node = try place(Self.implicitDirectory(in: parent), Draft(kind: .directory), in: parent, named: name)
        try setAttributes(of: node, entry, parser)
    }

    /// Gives a directory, new or old, the attributes of an entry; its entries stay.
    private mutating func setAttributes(
        of directory: Int32, _ entry: TOCEntry, _ parser: TOCParser
    ) throws(FormatError) {
        let parent = nodes[Int(directory)].parent
        nodes[Int(directory)] = try attributes(entry, type: FileType.directory)
        nodes[Int(directory)].parent = parent
        drafts[Int(directory)].xattrs = try adoptXattrs(parser, of: FileType.directory)
    }
}
