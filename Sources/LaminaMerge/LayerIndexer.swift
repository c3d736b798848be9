import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore

/// Puts a layer's table of contents into the index: fetches its footer and TOC, verifies, parses, imports.
struct LayerIndexer {
    /// Bytes at the end of a blob that are fetched with the footer: the TOCs of most layers are smaller.
    private static let tailSize: Int64 = 256 << 10
    /// The annotation that says the SHA-256 of the TOC's JSON
    /// (https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md).
    private static let tocDigestAnnotation = "containerd.io/snapshot/stargz/toc.digest"
    /// What a compressed TOC may have at most, in bytes.
    private static let memberLimit: Int64 = 512 << 20

    let store: Store
    let source: any BlobSource
    let shouldStop: @Sendable () -> Bool
    /// Told the number of compressed bytes that were fetched.
    let didFetch: (Int) -> Void

    /// The layer's row; indexes it where the store does not have it.
    func index(_ descriptor: Descriptor, diffID: Digest?) throws -> LayerID {
        let known = try store.layer(descriptor.digest)
        if let known, let tocDigest = descriptor.annotations[Self.tocDigestAnnotation].flatMap(Digest.init(parsing:)) {
            return try reuse(known, tocDigest, descriptor)
        }
        do {
            let (json, tocOffset, tail) = try fetchTOC(descriptor)
            let tocDigest = SHA256.hash(json)
            try verify(tocDigest, from: tocOffset, tail, descriptor)
            if let known { return try reuse(known, tocDigest, descriptor) }
            let tree = try json.withUnsafeBytes { try LayerTree.parse(toc: $0, tocOffset: tocOffset, format: .estargz) }
            let record = LayerRecord(
                digest: descriptor.digest, diffID: diffID, tocDigest: tocDigest,
                format: Int(LayerFormat.estargz.rawValue), size: descriptor.size, prioritizedEnd: tree.prioritizedEnd,
                location: source.location)
            return try store.importLayer(record, inodeCount: tree.nodes.count) { try $0.add(tree) }
        } catch let error as FormatError where error.code == .notEStargz {
            throw MergeError(
                .unsupportedLayer,
                "layer \(descriptor.digest) (\(descriptor.mediaType)) is not eStargz, which is what lamina reads so far; "
                    + "'lamina convert' makes an eStargz image of it", cause: error)
        } catch let error as FormatError {
            throw MergeError(.badImage, "layer \(descriptor.digest)", cause: error)
        }
    }

    /// Takes a layer that the store has, if its TOC is the one that this image's manifest vouches for.
    ///
    /// A lazily fetched blob is never hashed as a whole, so its digest does not prove the TOC that came with it: an image
    /// whose registry made up a TOC for a well-known layer must not lend it to the images that hold the real one.
    private func reuse(_ known: LayerID, _ tocDigest: Digest, _ descriptor: Descriptor) throws -> LayerID {
        let stored = try store.index.tocDigest(of: known)
        guard stored == tocDigest else {
            throw MergeError(
                .badImage,
                "layer \(descriptor.digest) is in the store with the table of contents \(stored?.description ?? "of nobody"), "
                    + "and this image has \(tocDigest) for it: one of the two images is wrong; "
                    + "pull the one that you trust into a store of its own (--root)")
        }
        try store.addSource(source.location, to: known)
        return known
    }

    /// The TOC's JSON, its offset in the blob, and the digest of the blob's bytes from there on.
    private func fetchTOC(_ descriptor: Descriptor) throws -> (json: [UInt8], offset: Int64, tail: Digest) {
        let size = descriptor.size
        guard size >= Int64(EStargz.footerSize) else {
            throw FormatError(.notEStargz, "the blob is shorter than a footer", actual: "\(size) bytes")
        }
        let tailStart = max(0, size - Self.tailSize)
        var tail = try read(descriptor, tailStart..<size)
        let tocOffset = try tail.withUnsafeBytes {
            try EStargz.parseFooter(UnsafeRawBufferPointer(rebasing: $0[($0.count - EStargz.footerSize)...]))
        }
        let tocEnd = size - Int64(EStargz.footerSize)
        guard tocOffset >= 0, tocOffset < tocEnd else {
            throw FormatError(
                .badFooter, "the footer places the table of contents outside of the blob", offset: tocOffset,
                expected: "below \(tocEnd)", actual: "\(tocOffset)")
        }
        guard tocEnd - tocOffset <= Self.memberLimit else {
            throw FormatError(
                .tooLarge, "the table of contents is over its limit", offset: tocOffset,
                expected: "at most \(Self.memberLimit) bytes", actual: "\(tocEnd - tocOffset)")
        }
        if tocOffset < tailStart { tail = try read(descriptor, tocOffset..<tailStart) + tail }
        let skipped = Int(tocOffset - min(tocOffset, tailStart))
        let count = Int(tocEnd - tocOffset)
        return try tail.withUnsafeBytes { tail in
            let json = try EStargz.extractTOC(
                fromMember: UnsafeRawBufferPointer(rebasing: tail[skipped..<(skipped + count)]))
            return (json, tocOffset, SHA256.hash(UnsafeRawBufferPointer(rebasing: tail[skipped...])))
        }
    }

    private func read(_ descriptor: Descriptor, _ range: Range<Int64>) throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(range.count)
        try source.read(descriptor.digest, size: descriptor.size, range: range, shouldStop: shouldStop) {
            bytes.append(contentsOf: $0)
        }
        didFetch(bytes.count)
        return bytes
    }

    /// Holds the TOC against what the manifest says of it.
    ///
    /// The manifest names the blob, not the TOC. Without the annotation nothing ties the one to the other but the blob's own
    /// digest, so the whole blob is read and hashed before its TOC is believed: with the TOC that was read before, as a
    /// source may give other bytes to each request.
    private func verify(_ tocDigest: Digest, from tocOffset: Int64, _ tail: Digest, _ descriptor: Descriptor) throws {
        if let text = descriptor.annotations[Self.tocDigestAnnotation] {
            guard let expected = Digest(parsing: text), expected == tocDigest else {
                throw MergeError(
                    .badImage,
                    "layer \(descriptor.digest): the table of contents is not the manifest's: expected \(text), got \(tocDigest)"
                )
            }
            return
        }
        var hash = SHA256()
        var tailHash = SHA256()
        var position: Int64 = 0
        try source.read(
            descriptor.digest, size: descriptor.size, range: 0..<descriptor.size, shouldStop: shouldStop
        ) {
            hash.update($0)
            let skipped = Int(min(max(tocOffset - position, 0), Int64($0.count)))
            tailHash.update(UnsafeRawBufferPointer(rebasing: $0[skipped...]))
            position += Int64($0.count)
            didFetch($0.count)
        }
        let actual = hash.digest()
        guard actual == descriptor.digest else {
            throw MergeError(.badImage, "layer \(descriptor.digest): the blob has another digest: \(actual)")
        }
        guard tailHash.digest() == tail else {
            throw MergeError(
                .badImage, "layer \(descriptor.digest): its table of contents was another when it was read again")
        }
    }
}

extension LayerImporter {
    /// Adds a whole tree: contents, inodes, names, attributes.
    fileprivate func add(_ tree: LayerTree) throws {
        // One array for all, as there are as many lists of chunks as files.
        var chunks: [ImportedChunk] = []
        let contents = try tree.contents.map { content in
            chunks.removeAll(keepingCapacity: true)
            for chunk in tree.chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)] {
                chunks.append(
                    ImportedChunk(
                        offset: chunk.offset, size: chunk.size, digest: chunk.digest, blobOffset: chunk.blobOffset,
                        blobSize: chunk.blobSize, innerOffset: chunk.innerOffset))
            }
            return try addContent(digest: content.digest, size: content.size, chunks: chunks)
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
                let id = try addInode(inode, target: tree.targetRange(of: Int32(number)).map(bytes))
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

extension LayerTree {
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
