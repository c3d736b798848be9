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
    var source: any BlobSource
    /// Of the image: an external table of contents is in the one of this tag and `-esgztoc`.
    var tag: String?
    /// Whether a layer is wanted only when its diff ID is known.
    var requiresDiffID = false
    /// Whether the tar-split of a tar that is hashed is kept.
    var keepsTarSplits = false
    /// The limit that the store has, which tar-splits count in; nil: none.
    var space: SpaceKeeper?
    /// Whether a layer without digests of chunks is refused.
    var refusesUnproven = false
    var limits = FormatLimits()
    /// What all layers of the image may bring together; nil: each by itself.
    var entries: EntryBudget?
    /// Memory for tables of contents that are being read, of the whole process.
    var memory: TOCMemory?
    /// What becomes of a layer that has to be read as a whole: one whose table of contents nobody vouches for.
    var unvouched = Unvouched.verified

    enum Unvouched {
        /// It is refused.
        case refused
        /// Without a look for a table of contents it is read as one stream, as programs read it that know of none.
        case streamed
        /// It is read and hashed as a whole, and a table of contents that it has is used.
        case verified
    }
    let shouldStop: @Sendable () -> Bool
    /// Reads a layer without a table of contents as a whole; the format is known if a footer says it.
    var stream: (Descriptor, _ diffID: Digest?, LayerFormat?) throws -> LayerID = { descriptor, _, _ in
        throw MergeError(.unsupportedLayer, "layer \(descriptor.digest) has no table of contents")
    }
    /// Gets the number of compressed bytes that were fetched.
    let didFetch: (Int) -> Void
    /// Runs the import of a layer that takes this many bytes of the index, if there is room for it.
    var importing: (_ bytes: Int64, _ body: () throws -> LayerID) throws -> LayerID = { try $1() }

    /// Whether the files of a layer from a place are its repository's alone.
    var isolates: (_ location: String) -> Bool = { _ in false }

    /// The layer's row; indexes it where the store does not have it.
    ///
    /// A layer is a blob, a table of contents and a repository: images that name different tables of contents for one blob have each
    /// their own, until the whole blob was hashed.
    func index(_ descriptor: Descriptor, diffID: Digest?) throws -> LayerID {
        let claims = try TOCClaims(descriptor)
        try refuseFalse(claims, descriptor)
        if let layer = try known(claims, descriptor, diffID) {
            entries?.note(layer, of: descriptor.digest)
            return try provingDiffID(of: layer, descriptor, diffID)
        }
        if !claims.isVouchedFor, unvouched == .streamed { return try stream(descriptor, diffID, nil) }
        guard unvouched != .refused || claims.isVouchedFor else {
            throw MergeError(
                .unsupportedLayer,
                "the manifest names no table of contents for the layer \(descriptor.digest): it is an ordinary one, or was "
                    + "converted by a tool that does not annotate what it makes")
        }
        do {
            var toc: FetchedTOC
            switch try fetchTOC(descriptor, claims) {
            case .withTOC(let fetched): toc = fetched
            case .plain(.stargz) where refusesUnproven:
                throw MergeError(
                    .unsupportedLayer,
                    "layer \(descriptor.digest) is in the old stargz format, which has no digests of chunks, and [store] "
                        + "verification is \"strict\"; 'lamina convert' makes an eStargz image of it")
            case .plain(let format): return try stream(descriptor, diffID, format)
            }
            let proof = try verify(&toc, claims, descriptor, diffID)
            if toc.format != .estargzExternal { try refuseFalse(toc, descriptor) }
            // What a witness has to say something of is not proven yet.
            let isSettled = proof.witness == nil || toc.format == .estargz
            guard let layer = try importTree(&toc, proof, isSettled: isSettled, descriptor, diffID) else {
                // In parts the layer would take more memory than decoders have. So it is read as a stream.
                toc.drop()
                return try stream(descriptor, diffID, toc.format == .zstdChunked ? .plainZstd : .stargz)
            }
            toc.drop()
            if !isSettled { try self.record(proof.diffID, proof.computedDiffID, of: layer, proof.witness) }
            if proof.isOfWholeBlob, toc.format != .estargzExternal {
                try store.recordTOC(toc.digest, checksum: toc.checksum, of: descriptor.digest)
            }
            return layer
        } catch let error as FormatError {
            throw MergeError(.badImage, "layer \(descriptor.digest)", cause: error)
        }
    }

    /// Makes the tree of a table of contents, and puts it into the index.
    ///
    /// - Returns: nil if the layer has to be read as a stream, as one of its members is too large to be in memory as a whole.
    private func importTree(
        _ toc: inout FetchedTOC, _ proof: LayerProof, isSettled: Bool, _ descriptor: Descriptor, _ diffID: Digest?
    ) throws -> LayerID? {
        try toc.unpark()
        let share = try memory?.takeTree(toc.treeBytes, shouldStop)
        defer { withExtendedLifetime(share) {} }
        let tree: LayerTree
        do {
            tree = try toc.makeTree(limits)
            // A member is in memory as a whole, however little of it is wanted.
            if let large = tree.chunks.first(where: { $0.blobSize > limits.memberBytes }) {
                throw FormatError(
                    .largeChunk, "the chunk is in a member that is too large", offset: large.blobOffset,
                    expected: "at most \(limits.memberBytes) bytes", actual: "\(large.blobSize)")
            }
        } catch let error as FormatError where error.code == .largeChunk && unvouched != .refused {
            return nil
        }
        var index = IndexBytes(of: tree, isIsolated: isolates(source.location))
        index.bytes += Int64(toc.tarTail?.count ?? 0)
        try entries?.take(index, of: descriptor.digest, store.index)
        var record = LayerRecord(
            digest: descriptor.digest, diffID: diffID, tocDigest: toc.digest, tocChecksum: toc.checksum,
            tocProof: proof.toc, format: Int(toc.format.rawValue), size: descriptor.size,
            prioritizedEnd: tree.prioritizedEnd, location: source.location)
        (record.diffIDState, record.computedDiffID) = (isSettled ? proof.diffID : .unknown, proof.computedDiffID)
        record.membersEnd = toc.membersEnd
        record.tarSplit = toc.tarSplit.flatMap { tree.isPlausible($0) ? $0.range : nil }
        record.isIsolated = isolates(source.location)
        record.tail = toc.tarTail.map { (toc.membersEnd, $0) }
        let layer = try importing(index.bytes) {
            try store.importLayer(record, inodeCount: tree.nodes.count) { try $0.add(tree) }
        }
        return layer
    }

    /// Refuses a table of contents that is not the one of a blob which was hashed as a whole.
    private func refuseFalse(_ claims: TOCClaims, _ descriptor: Descriptor) throws {
        guard let proven = try store.index.provenTOC(of: descriptor.digest) else { return }
        if let claimed = claims.tocDigest, claimed != proven.digest {
            throw Self.isFalse(claimed, proven.digest, descriptor)
        }
        if claims.tocDigest == nil, let claimed = claims.checksum, let checksum = proven.checksum, claimed != checksum {
            throw Self.isFalse(claimed, checksum, descriptor)
        }
    }

    private func refuseFalse(_ toc: FetchedTOC, _ descriptor: Descriptor) throws {
        guard let proven = try store.index.provenTOC(of: descriptor.digest), proven.digest != toc.digest else { return }
        throw Self.isFalse(toc.digest, proven.digest, descriptor)
    }

    private static func isFalse(_ claimed: Digest, _ proven: Digest, _ descriptor: Descriptor) -> MergeError {
        MergeError(
            .badImage,
            "layer \(descriptor.digest) has the table of contents \(proven), as the whole blob was hashed, and this image says that "
                + "it is \(claimed): the image is wrong")
    }

    /// Takes a layer that the store has, if its TOC is the one that this image's manifest vouches for; `nil`: the manifest
    /// vouches for none, or the store has none with that one.
    ///
    /// A lazily fetched blob is never hashed as a whole, so its digest does not prove the TOC that came with it: an image
    /// whose registry made up a TOC for a well-known layer must not lend it to the images that hold the real one. One of another
    /// repository is copied: it is served from the store and by this image's own registry, and not by that one's.
    private func known(_ claims: TOCClaims, _ descriptor: Descriptor, _ diffID: Digest?) throws -> LayerID? {
        try store.known(
            descriptor, diffID, at: source.location, isIsolated: isolates(source.location),
            copying: { try store.copying($0, of: descriptor.digest, countedBy: entries, importing: importing, $1) }
        ) {
            claims.fits($0) && ($0.diffID == diffID || diffID == nil || $0.tocProof == .whole)
        }
    }
}

private struct NotCopied: Error {}

extension Store {
    /// Copies a layer where the image and the store have room for what that takes of the index.
    ///
    /// - Returns: as `copy`: nil where it cannot be copied.
    func copying(
        _ layer: LayerID, of digest: Digest, countedBy entries: EntryBudget?,
        importing: @escaping (_ bytes: Int64, _ body: () throws -> LayerID) throws -> LayerID,
        _ copy: () throws -> LayerID?
    ) throws -> LayerID? {
        let bytes = try index.bytes(of: layer)
        try entries?.take(bytes, of: digest, index)
        do {
            return try importing(bytes.bytes) {
                guard let copied = try copy() else { throw NotCopied() }
                return copied
            }
        } catch is NotCopied {
            return nil
        }
    }

    /// Takes a layer that the index has for an image at a location: the one of that repository, or a copy of another repository's.
    ///
    /// - Parameters:
    ///   - copying: runs the copy of another repository's layer, if there is room for what it takes of the index.
    ///   - fits: whether a layer of the blob may be the image's, by its table of contents.
    /// - Throws: `MergeError.wrongDigest` if the blob was hashed as a whole and its tar is not the one that the image names.
    func known(
        _ descriptor: Descriptor, _ diffID: Digest?, at location: String, isIsolated: Bool,
        copying: (_ layer: LayerID, _ copy: () throws -> LayerID?) throws -> LayerID? = { try $1() },
        _ fits: (KnownLayer) -> Bool
    ) throws -> LayerID? {
        let fitting = try index.layers(of: descriptor.digest).filter { $0.isIsolated == isIsolated && fits($0) }
        if let whole = fitting.first(where: { $0.tocProof == .whole }), let diffID, let proven = whole.diffID,
            proven != diffID
        {
            throw MergeError(
                .wrongDigest,
                "layer \(descriptor.digest): its tar has the digest \(proven), and the image says \(diffID)")
        }
        if let own = fitting.first(where: { $0.origin == location }) {
            try addSource(location, to: own.id)
            return own.id
        }
        guard !isIsolated, let other = fitting.first(where: { !$0.isQuarantined }) else { return nil }
        return try copying(other.id) { try copyLayer(other.id, to: location, diffID: diffID) }
    }
}

extension TOCClaims {
    /// What tells this table of contents from others of the same blob.
    var identity: Digest? { tocDigest ?? checksum }

    /// Whether a layer of the store is the one that the manifest names.
    fileprivate func fits(_ layer: KnownLayer) -> Bool {
        // Hashed as a whole: it is what its digest says, whatever anybody claims.
        if layer.tocProof == .whole { return true }
        // Of a layer that came without the compressed TOC's digest only the JSON's is known.
        if let tocDigest, let found = layer.tocDigest { return tocDigest == found }
        if let checksum, let found = layer.tocChecksum { return checksum == found }
        return false
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
