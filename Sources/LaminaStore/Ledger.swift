import Glibc
public import LaminaDigest
import LaminaSQLite
import Synchronization

/// What ties a layer's table of contents to the manifest that names the layer. Raw values are stored.
public enum TOCProof: Int64, Sendable {
    /// Nothing yet.
    case none = 0
    /// The manifest names its digest.
    case manifest = 1
    /// The blob that contains it was hashed as a whole.
    case blob = 2
    /// It needs no proof: the index was made from the blob itself while it was hashed.
    case whole = 3
}

/// What is known of a layer's diff ID. Raw values are stored.
public enum DiffIDState: Int64, Sendable {
    case unknown = 0
    /// The tar was hashed, or put together again from what was fetched, and has this digest.
    case proven = 1
    /// The tar has another digest.
    case mismatch = 2
    /// Not everything that the tar was made of was fetched, and nothing is fetched twice.
    case notProvable = 3
    /// The tar has another digest, but only because the zeros at its end are missing: with them it has this one. skopeo 1.9 writes such
    /// zstd:chunked layers. What they unpack to is what the diff ID says, so they are served.
    case unpadded = 4
}

/// The ledger of a layer: what has been proven of it.
public struct LayerLedger: Sendable {
    public var digest: Digest
    public var format: Int
    public var tocDigest: Digest?
    public var tocChecksum: Digest?
    public var tocProof: TOCProof
    public var diffID: Digest?
    public var diffIDState: DiffIDState
    /// The tar's real digest, if it is not the diff ID.
    public var computedDiffID: Digest?
    public var areChunksProven: Bool
    public var areFilesProven: Bool

    /// Whether it came as a whole, without a table of contents.
    public var isPlain: Bool { tocDigest == nil && tocChecksum == nil && tocProof == .whole }
}

/// The table of contents that a manifest names for a layer, which is the manifest's claim as long as nobody has hashed the blob.
public struct NamedTOC: Sendable, Equatable {
    /// SHA-256 of the JSON.
    public var digest: Digest?
    /// SHA-256 of the JSON as it stands in the blob.
    public var checksum: Digest?

    public init(digest: Digest? = nil, checksum: Digest? = nil) {
        self.digest = digest
        self.checksum = checksum
    }

    /// Whether the manifest names none, as that of a plain layer.
    public var isEmpty: Bool { digest == nil && checksum == nil }

    /// Whether a layer was made of this one. One that is not named is nobody's.
    public func isOf(_ layer: LayerLedger) -> Bool {
        var isNamed = false
        for (named, known) in [(digest, layer.tocDigest), (checksum, layer.tocChecksum)] {
            guard let named, let known else { continue }
            if named != known { return false }
            isNamed = true
        }
        return isNamed
    }
}

extension Index {
    /// What has been proven of a layer.
    public func ledger(of layer: LayerID) throws -> LayerLedger {
        let ledger = try read { database in
            try database.cached(
                """
                SELECT digest, format, toc_digest, toc_checksum, toc_proof, diff_id, diff_id_state, computed_diff_id,
                       chunks_proven_at IS NOT NULL, files_proven_at IS NOT NULL
                FROM layer WHERE id = ?
                """
            ).bind(1, layer.row).first { row -> LayerLedger in
                guard let digest = row.digest(0), let tocProof = TOCProof(rawValue: row.integer(4)),
                    let diffIDState = DiffIDState(rawValue: row.integer(6))
                else { throw StoreError(.damaged, "\(layer) of the index makes no sense") }
                return LayerLedger(
                    digest: digest, format: Int(row.integer(1)), tocDigest: row.digest(2), tocChecksum: row.digest(3),
                    tocProof: tocProof, diffID: row.digest(5), diffIDState: diffIDState,
                    computedDiffID: row.digest(7), areChunksProven: row.integer(8) != 0,
                    areFilesProven: row.integer(9) != 0)
            }
        }
        guard let ledger else { throw StoreError(.notFound, "\(layer) is not in the index") }
        return ledger
    }
}

/// What a layer's diff ID is computed from, besides its files.
public struct TarSource: Sendable {
    /// Where in the blob the last member ends; `nil` if it was not recorded.
    public var membersEnd: Int64?
    /// Where the layer's own tar-split is.
    public var tarSplit: Range<Int64>?
}

/// What is kept of a member besides files.
public struct KeptTarPart: Sendable {
    public var blobOffset: Int64
    public var blobSize: Int64
    public var bytes: [UInt8]
}

extension Index {
    /// Layers whose every file is merged, and for which not all possible proofs are done.
    public func layersToProve() throws -> [LayerID] {
        try read { database in
            try database.cached(
                """
                SELECT l.id FROM layer l
                WHERE l.chunks_proven_at IS NULL
                  AND NOT EXISTS (SELECT 1 FROM layer_group lg JOIN content_group g ON g.id = lg.content_group
                                  WHERE lg.layer = l.id AND g.merged < g.contents)
                ORDER BY l.id
                """
            ).map { LayerID($0.integer(0)) }
        }
    }

    /// The files of a layer whose whole-file digest is only claimed.
    public func claimedContents(of layer: LayerID) throws -> [ContentRecord] {
        try read { database in
            try database.cached(
                """
                SELECT \(Self.contentColumns) FROM content c
                WHERE c.proof = 0 AND c.id IN (SELECT s.content FROM chunk_source s WHERE s.layer = ?)
                """
            ).bind(1, layer.row).map { try Self.content($0) }
        }
    }

    public func tarSource(of layer: LayerID) throws -> TarSource? {
        try read { database in
            try database.cached("SELECT members_end, tar_split_offset, tar_split_size FROM layer WHERE id = ?")
                .bind(1, layer.row)
                .first { row in
                    var source = TarSource(membersEnd: row.optionalInteger(0))
                    if let offset = row.optionalInteger(1), let size = row.optionalInteger(2), size >= 0 {
                        source.tarSplit = offset..<(offset + size)
                    }
                    return source
                }
        }
    }

    /// The places in a blob for which something is kept, in order.
    public func tarPartPlaces(of layer: LayerID) throws -> [Range<Int64>] {
        try read { database in
            try database.cached("SELECT blob_offset, blob_size FROM tar_part WHERE layer = ? ORDER BY blob_offset")
                .bind(1, layer.row).map { $0.integer(0)..<($0.integer(0) + $0.integer(1)) }
        }
    }

    public func tarPart(of layer: LayerID, at blobOffset: Int64) throws -> [UInt8]? {
        try read { database in
            try database.cached("SELECT bytes FROM tar_part WHERE layer = ? AND blob_offset = ?").bind(1, layer.row)
                .bind(2, blobOffset).first { Array($0.blob(0)) }
        }
    }

    /// A merged content whose bytes are at a place in a layer's blob, and where in the file they are.
    public func content(
        in layer: LayerID, at blobOffset: Int64, innerOffset: Int64
    ) throws -> (record: ContentRecord, offset: Int64)? {
        try read { database in
            try database.cached(
                """
                SELECT \(Self.contentColumns), s.offset FROM chunk_source s JOIN content c ON c.id = s.content
                WHERE s.layer = ? AND s.blob_offset = ? AND s.inner_offset = ? AND c.state = 2
                ORDER BY c.proof = 1 DESC LIMIT 1
                """
            ).bind(1, layer.row).bind(2, blobOffset).bind(3, innerOffset)
                .first { (try Self.content($0), $0.integer(6)) }
        }
    }

    /// The file that a layer has at a path, by its components: its inode and its bytes; `nil` if it has none there.
    public func content(
        in layer: LayerID, at path: [[UInt8]]
    ) throws -> (inode: Int64, record: ContentRecord)? {
        try read { database in
            var inode = try database.cached("SELECT root FROM layer WHERE id = ?").bind(1, layer.row)
                .first { $0.integer(0) }
            for name in path {
                guard let parent = inode else { return nil }
                inode = try database.cached("SELECT inode FROM dirent WHERE parent = ? AND name = ?").bind(1, parent)
                    .bind(2, blob: name).first { $0.integer(0) }
            }
            guard let inode else { return nil }
            return try database.cached(
                """
                SELECT \(Self.contentColumns) FROM inode i JOIN content c ON c.id = i.content
                WHERE i.id = ? AND c.state = 2
                """
            ).bind(1, inode).first { (inode, try Self.content($0)) }
        }
    }

    /// How many files of a layer have bytes.
    public func fileCount(of layer: LayerID) throws -> Int {
        try read { database in
            try database.cached(
                """
                SELECT count(*) FROM inode i JOIN layer l ON i.id BETWEEN l.first_inode AND l.last_inode
                WHERE l.id = ? AND i.content IS NOT NULL
                """
            ).bind(1, layer.row).first { Int($0.integer(0)) } ?? 0
        }
    }
}

extension Store {
    /// Writes into the ledger of a layer whose every chunk has landed. What was kept to compute the diff ID is deleted once the
    /// diff ID is computed.
    ///
    /// - Parameter computed: the digest of the tar, if it is not the diff ID.
    public func recordProofs(
        of layer: LayerID, areFilesProven: Bool, diffID: DiffIDState, computed: Digest?
    ) throws {
        try write { writer in
            let database = writer.connection
            try database.cached(
                """
                UPDATE layer SET chunks_proven_at = coalesce(chunks_proven_at, ?2),
                    files_proven_at = CASE WHEN ?3 THEN coalesce(files_proven_at, ?2) END
                WHERE id = ?1
                """
            ).bind(1, layer.row).bind(2, Int64(time(nil))).bind(3, areFilesProven ? 1 : 0).run()
            guard diffID != .unknown else { return }
            try database.cached(
                """
                UPDATE layer SET diff_id_state = ?2, diff_id_at = ?3, computed_diff_id = ?4
                WHERE id = ?1 AND diff_id_state NOT IN (1, 2, 4)
                """
            ).bind(1, layer.row).bind(2, diffID.rawValue).bind(3, Int64(time(nil))).bind(4, digest: computed).run()
            try database.cached("DELETE FROM tar_part WHERE layer = ?").bind(1, layer.row).run()
            try writer.settle(diffID, computed, of: layer)
        }
        if diffID != .unknown { tarRoom.withLock { $0[layer] = nil } }
        if diffID == .mismatch { try readQuarantine() }
    }

    /// Writes into the ledger that a layer's tar was put together from what is here, and is what the image says. Its files' own digests
    /// are another matter.
    public func recordProven(_ layer: LayerID) throws {
        try write { writer in
            let database = writer.connection
            try database.cached(
                "UPDATE layer SET diff_id_state = 1, diff_id_at = ?2 WHERE id = ?1 AND diff_id_state = 0"
            )
            .bind(1, layer.row).bind(2, Int64(time(nil))).run()
            guard database.changes > 0 else { return }
            try database.cached("DELETE FROM tar_part WHERE layer = ?").bind(1, layer.row).run()
            try writer.noteProven(layer)
        }
    }

    /// Writes into the ledger what a pass over a layer's whole blob has shown about its diff ID.
    public func recordDiffID(_ state: DiffIDState, computed: Digest?, of layer: LayerID) throws {
        try write { writer in
            try writer.connection.cached(
                "UPDATE layer SET diff_id_state = ?2, diff_id_at = ?3, computed_diff_id = ?4, blob_proven_at = ?3 WHERE id = ?1"
            ).bind(1, layer.row).bind(2, state.rawValue).bind(3, Int64(time(nil))).bind(4, digest: computed).run()
            try writer.connection.cached("DELETE FROM tar_part WHERE layer = ?").bind(1, layer.row).run()
            try writer.settle(state, computed, of: layer)
        }
        tarRoom.withLock { $0[layer] = nil }
        if state == .mismatch { try readQuarantine() }
    }
}

extension Writer {
    /// What a diff ID that was told means: it is known for ever, or nothing of the layer is served any more.
    fileprivate func settle(_ state: DiffIDState, _ computed: Digest?, of layer: LayerID) throws {
        switch state {
        case .proven: try noteProven(layer)
        case .mismatch:
            let expected =
                try connection.cached("SELECT diff_id FROM layer WHERE id = ?").bind(1, layer.row)
                .first { $0.digest(0) } ?? nil
            try quarantine(layer, because: Self.mismatch(computed, expected))
        case .unknown, .notProvable, .unpadded: break
        }
    }
}
