import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore

/// What kind of layer a blob is.
enum LayerKind {
    case withTOC(FetchedTOC)
    /// A layer that must be read as a whole: `stargz` by its footer, `nil`: by its media type and first bytes.
    case plain(LayerFormat?)
}

/// Puts a layer into the index: finds out its format, and imports its table of contents if it has one.
struct LayerIndexer {
    let store: Store
    let source: any BlobSource
    /// The image's tag: an external table of contents is in the image with this tag and `-esgztoc`.
    var tag: String?
    /// Whether a layer is wanted only when its diff ID is known.
    var requiresDiffID = false
    /// Whether a layer without digests of chunks is refused.
    var refusesUnproven = false
    var limits = FormatLimits()
    /// Whether a layer that must be read as a whole is read: one whose table of contents the manifest does not prove.
    var readsWholeBlobs = true
    let shouldStop: @Sendable () -> Bool
    /// Reads a layer without a table of contents as a whole; the format is known if a footer says it.
    var stream: (Descriptor, _ diffID: Digest?, LayerFormat?) throws -> LayerID = { descriptor, _, _ in
        throw MergeError(.unsupportedLayer, "layer \(descriptor.digest) has no table of contents")
    }
    /// Gets the number of compressed bytes that were fetched.
    let didFetch: (Int) -> Void
    /// Runs the import of a layer with this many inodes, if there is room for it.
    var importing: (_ inodes: Int, _ body: () throws -> LayerID) throws -> LayerID = { try $1() }

    /// The layer's row; indexes the layer if the store does not have it.
    func index(_ descriptor: Descriptor, diffID: Digest?) throws -> LayerID {
        let known = try store.layer(descriptor.digest)
        let claims = try TOCClaims(descriptor)
        if let known, let layer = try reuse(known, claims, descriptor) {
            return try provingDiffID(of: layer, descriptor, diffID)
        }
        guard readsWholeBlobs || claims.isVouchedFor else {
            throw MergeError(
                .unsupportedLayer,
                "the manifest names no table of contents for the layer \(descriptor.digest): it is an ordinary one, or was "
                    + "converted by a tool that does not annotate what it makes")
        }
        do {
            let toc: FetchedTOC
            switch try fetchTOC(descriptor, claims) {
            case .withTOC(let fetched): toc = fetched
            case .plain(.stargz) where refusesUnproven:
                throw MergeError(
                    .unsupportedLayer,
                    "layer \(descriptor.digest) is in the old stargz format, which has no digests of chunks, and [store] "
                        + "verification is \"strict\"; 'lamina convert' makes an eStargz image of it")
            case .plain(let format): return try stream(descriptor, diffID, format)
            }
            let proof = try verify(toc, claims, descriptor, diffID)
            if let known {
                let claims = TOCClaims(tocDigest: toc.digest)
                if let layer = try reuse(known, claims, descriptor) { return layer }
            }
            let tree = try toc.json.withUnsafeBytes {
                try LayerTree.parse(toc: $0, tocOffset: toc.membersEnd, format: toc.format, limits: limits)
            }
            var record = LayerRecord(
                digest: descriptor.digest, diffID: diffID, tocDigest: toc.digest, tocChecksum: toc.checksum,
                tocProof: proof.toc, format: Int(toc.format.rawValue), size: descriptor.size,
                prioritizedEnd: tree.prioritizedEnd, location: source.location)
            (record.diffIDState, record.computedDiffID) = (proof.diffID, proof.computedDiffID)
            record.membersEnd = toc.membersEnd
            record.tarSplit = toc.tarSplit.flatMap { tree.isPlausible($0) ? $0.range : nil }
            return try importing(tree.nodes.count) {
                try store.importLayer(record, inodeCount: tree.nodes.count) { try $0.add(tree) }
            }
        } catch let error as FormatError {
            throw MergeError(.badImage, "layer \(descriptor.digest)", cause: error)
        }
    }

    /// Takes a layer that the store has, if this image's manifest names its TOC; `nil`: the manifest names none, so the TOC has
    /// to be looked at.
    ///
    /// A lazily fetched blob is never hashed as a whole, so its digest does not prove its TOC. If a registry made up a TOC for
    /// a well-known layer, images with the real layer must not get that TOC.
    private func reuse(_ known: LayerID, _ claims: TOCClaims, _ descriptor: Descriptor) throws -> LayerID? {
        let stored = try store.index.ledger(of: known)
        // It was hashed as a whole: it is what its digest says, whatever a manifest claims.
        if stored.tocProof == .whole {
            try store.addSource(source.location, to: known)
            return known
        }
        let pairs = [(claims.tocDigest, stored.tocDigest), (claims.checksum, stored.tocChecksum)]
        guard
            let (claimed, found) = pairs.first(where: { $0.0 != nil && $0.1 != nil })
                ?? pairs.first(where: { $0.0 != nil }),
            let claimed
        else { return nil }
        // If a layer came without the compressed TOC's digest, only the JSON's digest is known.
        if found == nil, claims.tocDigest == nil { return nil }
        guard found == claimed else {
            throw MergeError(
                .badImage,
                "layer \(descriptor.digest) is in the store with the table of contents \(found?.description ?? "of nobody"), "
                    + "and this image has \(claimed) for it: one of the two images is wrong; "
                    + "pull the one that you trust into a store of its own (--root)")
        }
        try store.addSource(source.location, to: known)
        return known
    }
}

extension LayerImporter {
    /// Adds a whole tree: contents, inodes, names, attributes.
    func add(_ tree: LayerTree) throws {
        var contents: [ContentID] = []
        contents.reserveCapacity(tree.contents.count)
        // Not all at once: a layer may have millions.
        while contents.count < tree.contents.count {
            let next = tree.contents[contents.count...].prefix(1024)
            contents += try addContents(next.map { ImportedContent($0, of: tree) })
        }
        try tree.withArena { arena in
            func bytes(_ range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: arena[range]) }
            var entries = [Int](repeating: -1, count: tree.nodes.count)
            for (index, dirent) in tree.dirents.enumerated() { entries[Int(dirent.node)] = index }
            for (number, node) in tree.nodes.enumerated() {
                let inode = Inode(
                    id: 0, mode: node.mode, uid: node.uid, gid: node.gid, size: node.size, mtime: node.mtimeSeconds,
                    mtimeNanoseconds: node.mtimeNanoseconds, device: node.device, nlink: node.nlink,
                    content: node.content >= 0 ? contents[Int(node.content)] : nil)
                let id = try addInode(
                    inode, in: number == 0 ? nil : firstInode + Int64(node.parent),
                    target: tree.targetRange(of: Int32(number)).map(bytes))
                if node.isImplicit { try markImplicit(inode: id, path: tree.path(of: number, entries)) }
            }
            for dirent in tree.dirents {
                try addEntry(
                    parent: firstInode + Int64(dirent.parent), name: bytes(tree.nameRange(of: dirent)),
                    inode: firstInode + Int64(dirent.node))
            }
            for xattr in tree.xattrs {
                try addXattr(
                    inode: firstInode + Int64(xattr.node), name: bytes(tree.nameRange(of: xattr)),
                    value: bytes(tree.valueRange(of: xattr)))
            }
        }
    }
}

extension ImportedContent {
    fileprivate init(_ content: LayerTree.Content, of tree: LayerTree) {
        self.init(
            digest: content.digest, size: content.size,
            chunks: tree.chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)].map {
                ImportedChunk(
                    offset: $0.offset, size: $0.size, digest: $0.digest, blobOffset: $0.blobOffset,
                    blobSize: $0.blobSize, innerOffset: $0.innerOffset)
            })
    }
}

extension LayerTree {
    /// Whether a tar-split can name every file: each needs a line with at least four fields.
    fileprivate func isPlausible(_ tarSplit: ZstdChunked.Place) -> Bool {
        tarSplit.size / 40 >= Int64(nodes.lazy.count { $0.content >= 0 })
    }

    /// A directory's path without a leading slash; `entries` has each node's index in `dirents`.
    fileprivate func path(of node: Int, _ entries: [Int]) -> [UInt8] {
        var components: [ArraySlice<UInt8>] = []
        var current = node
        while current != 0, entries[current] >= 0 {
            components.append(name(of: dirents[entries[current]]))
            current = Int(nodes[current].parent)
        }
        return Array(components.reversed().joined(separator: [UInt8(ascii: "/")]))
    }
}
