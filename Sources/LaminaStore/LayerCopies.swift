public import LaminaDigest
import LaminaSQLite

/// One of the layers that a blob is known as: which table of contents, from which repository, and what vouches for it.
public struct KnownLayer: Sendable {
    public var id: LayerID
    public var origin: String
    public var tocDigest: Digest?
    public var tocChecksum: Digest?
    public var tocProof: TOCProof
    public var diffID: Digest?
    public var isIsolated: Bool
    public var isQuarantined: Bool
}

extension Index {
    /// The layers that a blob is known as, the oldest first.
    public func layers(of digest: Digest) throws -> [KnownLayer] {
        try read { database in
            try database.cached(
                """
                SELECT id, origin, toc_digest, toc_checksum, toc_proof, isolated, quarantined_at IS NOT NULL, diff_id
                FROM layer WHERE digest = ? ORDER BY id
                """
            ).bind(1, digest: digest).map {
                KnownLayer(
                    id: LayerID($0.integer(0)), origin: $0.text(1), tocDigest: $0.digest(2), tocChecksum: $0.digest(3),
                    tocProof: TOCProof(rawValue: $0.integer(4)) ?? .none, diffID: $0.digest(7),
                    isIsolated: $0.integer(5) != 0,
                    isQuarantined: $0.integer(6) != 0)
            }
        }
    }

    /// The repository that a layer is of; nil for one that is gone.
    public func origin(of layer: LayerID) throws -> String? {
        try read { database in
            try database.cached("SELECT origin FROM layer WHERE id = ?").bind(1, layer.row).first { $0.text(0) }
        }
    }
}

extension Store {
    /// Makes a layer of another repository out of one that the index has: the same tree, inodes and places in the blob of its own, and
    /// the same files as far as they are here. What is not here its own repository is asked for.
    ///
    /// Costs what its inodes cost: some microseconds each, and as much of the index as the first one.
    /// - Parameter diffID: as this image says it: only what was proven to be that is copied.
    /// - Returns: the layer; nil where the one to copy is not known well enough, or went meanwhile.
    public func copyLayer(_ known: LayerID, to location: String, diffID: Digest?) throws -> LayerID? {
        guard let (record, inodes) = try index.layerToCopy(known) else { return nil }
        // Of one that was not told yet, what another registry gave besides the files is no proof of this one's.
        guard record.diffIDState == .proven, diffID == nil || record.diffID == diffID else { return nil }
        var copy = record
        copy.location = location
        return try importLayer(copy, inodeCount: inodes) { try $0.copy(known) }
    }
}

extension Index {
    fileprivate func layerToCopy(_ layer: LayerID) throws -> (LayerRecord, inodes: Int)? {
        guard let blob = try blob(of: layer) else { return nil }
        let ledger = try ledger(of: layer)
        var record = LayerRecord(
            digest: ledger.digest, diffID: ledger.diffID, tocDigest: ledger.tocDigest, tocChecksum: ledger.tocChecksum,
            tocProof: ledger.tocProof, format: ledger.format, size: blob.size, prioritizedEnd: blob.prioritizedEnd,
            location: blob.origin)
        (record.diffIDState, record.computedDiffID) = (ledger.diffIDState, ledger.computedDiffID)
        let source = try tarSource(of: layer)
        record.membersEnd = source?.membersEnd
        record.tarSplit = source?.tarSplit
        let inodes = try read { database in
            try database.cached("SELECT last_inode - first_inode + 1 FROM layer WHERE id = ?").bind(1, layer.row)
                .first { Int($0.integer(0)) }
        }
        return inodes.map { (record, $0) }
    }
}

extension LayerImporter {
    /// Adds the tree of another layer.
    fileprivate func copy(_ other: LayerID) throws {
        let range = try database.cached("SELECT first_inode, last_inode FROM layer WHERE id = ?").bind(1, other.row)
            .first { ($0.integer(0), $0.integer(1)) }
        guard let (first, last) = range else { throw StoreError(.notFound, "\(other) is not in the index") }
        let shift = firstInode - first
        // Each is shared from now on: its group becomes one of this layer, too.
        for content in try database.cached("SELECT DISTINCT content FROM chunk_source WHERE layer = ?")
            .bind(1, other.row).map({ ContentID($0.integer(0)) })
        { shared.insert(content) }
        try database.cached(
            """
            INSERT INTO chunk_source (layer, blob_offset, inner_offset, content, offset, blob_size)
            SELECT ?1, blob_offset, inner_offset, content, offset, blob_size FROM chunk_source WHERE layer = ?2
            """
        ).bind(1, layer.row).bind(2, other.row).run()
        // Not a row at a time over a statement that the inserts would reset.
        let inodes = try database.cached(
            """
            SELECT id, mode, uid, gid, size, mtime, mtime_ns, device, nlink, content, target, up FROM inode
            WHERE id BETWEEN ? AND ? ORDER BY id
            """
        ).bind(1, first).bind(2, last).map { row in
            (
                Inode(
                    id: row.integer(0), mode: UInt32(truncatingIfNeeded: row.integer(1)),
                    uid: UInt32(truncatingIfNeeded: row.integer(2)), gid: UInt32(truncatingIfNeeded: row.integer(3)),
                    size: row.integer(4), mtime: row.integer(5),
                    mtimeNanoseconds: Int32(truncatingIfNeeded: row.integer(6)),
                    device: UInt64(bitPattern: row.integer(7)), nlink: UInt32(truncatingIfNeeded: row.integer(8)),
                    content: row.optionalInteger(9).map { ContentID($0) }),
                target: row.isNull(10) ? nil : Array(row.blob(10)), up: row.optionalInteger(11)
            )
        }
        for (inode, target, up) in inodes {
            let parent = up.map { inode.id - $0 + shift }
            guard let target else {
                try addInode(inode, in: parent, target: nil)
                continue
            }
            try target.withUnsafeBytes { _ = try addInode(inode, in: parent, target: $0) }
        }
        let entries = try database.cached(
            "SELECT parent, name, inode FROM dirent WHERE parent BETWEEN ? AND ? ORDER BY parent, name"
        ).bind(1, first).bind(2, last).map { ($0.integer(0), Array($0.blob(1)), $0.integer(2)) }
        for (parent, name, inode) in entries {
            try name.withUnsafeBytes { try addEntry(parent: parent + shift, name: $0, inode: inode + shift) }
        }
        for sql in [
            "INSERT INTO xattr (inode, name, value) SELECT inode + ?1, name, value FROM xattr WHERE inode BETWEEN ?2 AND ?3",
            "INSERT INTO implicit_directory (inode, path) SELECT inode + ?1, path FROM implicit_directory WHERE inode BETWEEN ?2 AND ?3",
        ] {
            try database.cached(sql).bind(1, shift).bind(2, first).bind(3, last).run()
        }
    }
}
