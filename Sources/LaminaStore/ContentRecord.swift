public import LaminaDigest
import LaminaSQLite

/// A content from the index, with everything that a merge needs to make it whole.
public struct ContentRecord: Sendable {
    public enum State: Int64, Sendable {
        case absent = 0
        case partial = 1
        case merged = 2
    }

    /// What is known of the whole-file digest.
    public enum Proof: Int64, Sendable {
        /// A TOC says so.
        case claimed = 0
        /// It was computed over the bytes and matches.
        case proven = 1
        /// It was computed over the bytes and differs: the layer lied.
        case disproven = 2
    }

    public var id: ContentID
    public var name: BackingName
    /// In bytes.
    public var size: Int64
    public var state: State
    public var proof: Proof
}

/// One chunk of a content and where its bytes can be fetched.
public struct ChunkRecord: Sendable {
    /// In the file.
    public var offset: Int64
    public var size: Int64
    public var digest: Digest
    public var hasLanded: Bool
    public var source: ChunkPlace
    /// Where else the same repository has it, for when its first place fails.
    public var others: [ChunkPlace] = []

    public init(offset: Int64, size: Int64, digest: Digest, hasLanded: Bool, source: ChunkPlace) {
        self.offset = offset
        self.size = size
        self.digest = digest
        self.hasLanded = hasLanded
        self.source = source
    }
}

/// A place in a layer's blob.
public struct ChunkPlace: Sendable, Hashable {
    public var layer: LayerID
    /// Of the member in the blob.
    public var blobOffset: Int64
    public var blobSize: Int64
    /// In what the member decompresses to.
    public var innerOffset: Int64

    /// Whether no part of the blob holds it: the chunk is all zeros.
    public var isHole: Bool { blobSize == 0 }

    public init(layer: LayerID, blobOffset: Int64, blobSize: Int64, innerOffset: Int64) {
        self.layer = layer
        self.blobOffset = blobOffset
        self.blobSize = blobSize
        self.innerOffset = innerOffset
    }
}

/// A content of a layer that is not merged yet.
public struct UnmergedContent: Sendable {
    public var content: ContentRecord
    /// Where its first chunk is.
    public var firstChunk: ChunkPlace
    /// Whether a merged content has the same whole-file digest.
    public var hasTwin: Bool
}

/// A layer's blob, for the fetcher.
public struct LayerBlob: Sendable {
    public var id: LayerID
    public var digest: Digest
    /// Compressed, in bytes.
    public var size: Int64
    /// `LayerFormat`'s raw value.
    public var format: Int
    /// Of its table of contents: bytes that were wrong by it say nothing of another one.
    public var tocDigest: Digest?
    /// The repository that it is of: no other is asked for it.
    public var origin: String
    public var prioritizedEnd: Int64?
    /// Where it can be fetched, newest first.
    public var locations: [String]
    /// Whether what its members hold beside files is kept, so that its diff ID can be told: of every layer with a table of contents
    /// and without a tar-split, until it has been told.
    public var keepsTarParts: Bool
}

extension Index {
    /// How many other places of a chunk are of use: each is tried once.
    private static let otherPlaces = 3

    static let contentColumns = "c.id, c.digest, c.claim, c.size, c.state, c.proof"

    static func content(_ row: Statement, from column: Int32 = 0) throws -> ContentRecord {
        guard let digest = row.digest(column + 1), let state = ContentRecord.State(rawValue: row.integer(column + 4)),
            let proof = ContentRecord.Proof(rawValue: row.integer(column + 5))
        else { throw StoreError(.damaged, "content \(row.integer(column)) of the index makes no sense") }
        return ContentRecord(
            id: ContentID(row.integer(column)), name: BackingName(digest: digest, claim: row.digest(column + 2)),
            size: row.integer(column + 3), state: state, proof: proof)
    }

    /// A content by number.
    public func content(_ id: ContentID) throws -> ContentRecord? {
        try read { database in
            try database.cached("SELECT \(Self.contentColumns) FROM content c WHERE c.id = ?").bind(1, id.row)
                .first { try Self.content($0) }
        }
    }

    /// The chunks of a content in file order, each with one place where it can be fetched. A content of one chunk has no chunk
    /// row: its chunk is the whole.
    ///
    /// - Parameter layer: who asks: places are its own, then those of other layers of its repository, and no others. Without it every
    ///   layer's, which is for the bytes that the store has had already.
    public func chunks(of content: ContentRecord, preferring layer: LayerID?) throws -> [ChunkRecord] {
        try read { database in
            let statement = try database.cached(
                """
                SELECT s.offset, s.layer, s.blob_offset, s.blob_size, s.inner_offset, k.size, k.digest, k.landed
                FROM chunk_source s JOIN layer y ON y.id = s.layer
                LEFT JOIN chunk k ON k.content = s.content AND k.offset = s.offset
                WHERE s.content = ?1 AND (?2 IS NULL OR y.origin = (SELECT origin FROM layer WHERE id = ?2))
                ORDER BY s.offset, s.layer = ?2 DESC, s.layer, s.blob_offset, s.inner_offset
                """
            ).bind(1, content.id.row).bind(2, layer?.row)
            var chunks: [ChunkRecord] = []
            try statement.forEach { row in
                let offset = row.integer(0)
                if let last = chunks.indices.last, chunks[last].offset == offset {
                    let place = ChunkPlace(
                        layer: LayerID(row.integer(1)), blobOffset: row.integer(2), blobSize: row.integer(3),
                        innerOffset: row.integer(4))
                    // Another place in the same blob is no other source.
                    let known = [chunks[last].source] + chunks[last].others
                    if chunks[last].others.count < Self.otherPlaces, !known.contains(where: { $0.layer == place.layer })
                    {
                        chunks[last].others.append(place)
                    }
                    return
                }
                chunks.append(
                    ChunkRecord(
                        offset: offset, size: row.isNull(5) ? content.size : row.integer(5),
                        digest: row.digest(6) ?? content.name.digest,
                        hasLanded: row.isNull(7) ? content.state == .merged : row.integer(7) == 1,
                        source: ChunkPlace(
                            layer: LayerID(row.integer(1)), blobOffset: row.integer(2), blobSize: row.integer(3),
                            innerOffset: row.integer(4))))
            }
            return chunks
        }
    }

    /// The contents of a layer that are not merged, in the order of their first chunk in the blob; a content whose bytes are in
    /// the blob several times comes once.
    ///
    /// - Parameters:
    ///   - position: goes on behind this place; nil begins at the front.
    ///   - end: looks at this part of the blob only.
    ///   - limit: how many at most.
    public func unmerged(
        in layer: LayerID, after position: ChunkPlace?, before end: Int64 = .max, limit: Int
    ) throws -> [UnmergedContent] {
        try read { database in
            guard try database.hasUnmerged(layer) else { return [] }
            return try database.cached(
                """
                SELECT \(Self.contentColumns), s.blob_offset, s.blob_size, s.inner_offset,
                       c.isolated = 0 AND EXISTS (SELECT 1 FROM content t WHERE t.digest = c.digest AND t.id <> c.id
                                                  AND t.state = 2 AND t.isolated = 0)
                FROM chunk_source s JOIN content c ON c.id = s.content
                WHERE s.layer = ?1 AND (s.blob_offset, s.inner_offset) > (?2, ?3) AND s.blob_offset < ?5
                  AND s.offset = 0 AND c.state < 2
                  AND NOT EXISTS (SELECT 1 FROM chunk_source e
                                  WHERE e.content = s.content AND e.offset = 0 AND e.layer = s.layer
                                    AND (e.blob_offset, e.inner_offset) < (s.blob_offset, s.inner_offset))
                ORDER BY s.blob_offset, s.inner_offset LIMIT ?4
                """
            ).bind(1, layer.row).bind(2, position?.blobOffset ?? -1).bind(3, position?.innerOffset ?? -1)
                .bind(4, Int64(limit)).bind(5, end)
                .map { try UnmergedContent($0, in: layer) }
        }
    }

    /// A layer's blob.
    public func blob(of layer: LayerID) throws -> LayerBlob? {
        try read { database in
            let locations = try database.cached("SELECT location FROM layer_source WHERE layer = ? ORDER BY added DESC")
                .bind(1, layer.row)
                .map { $0.text(0) }
            return try database.cached(
                """
                SELECT digest, size, format, prioritized_end,
                       format IN (1, 2, 4) AND diff_id IS NOT NULL AND diff_id_state = 0 AND tar_split_offset IS NULL,
                       toc_digest, origin
                FROM layer WHERE id = ?
                """
            ).bind(1, layer.row)
                .first { row in
                    guard let digest = row.digest(0) else {
                        throw StoreError(.damaged, "\(layer) of the index has no digest")
                    }
                    return LayerBlob(
                        id: layer, digest: digest, size: row.integer(1), format: Int(row.integer(2)),
                        tocDigest: row.digest(5), origin: row.text(6), prioritizedEnd: row.optionalInteger(3),
                        locations: locations,
                        keepsTarParts: row.integer(4) != 0)
                }
        }
    }

    /// A merged content with this whole-file digest other than `content` itself; proven ones first. What is one repository's own is
    /// found by nobody, and finds nothing.
    public func twin(of content: ContentRecord) throws -> ContentRecord? {
        try read { database in
            try database.cached(
                """
                SELECT \(Self.contentColumns) FROM content c
                WHERE c.digest = ?1 AND c.id <> ?2 AND c.size = ?3 AND c.state = 2 AND c.proof < 2 AND c.isolated = 0
                AND (SELECT isolated FROM content WHERE id = ?2) = 0
                ORDER BY c.proof = 1 DESC LIMIT 1
                """
            ).bind(1, digest: content.name.digest).bind(2, content.id.row).bind(3, content.size)
                .first { try Self.content($0) }
        }
    }

    /// The merged contents with this digest and size, with any chunk list.
    public func merged(_ digest: Digest, size: Int64) throws -> [ContentRecord] {
        try read { database in
            try database.cached(
                "SELECT \(Self.contentColumns) FROM content c WHERE c.digest = ? AND c.size = ? AND c.state = 2 AND c.proof < 2"
            ).bind(1, digest: digest).bind(2, size).map { try Self.content($0) }
        }
    }

    /// A landed chunk with these bytes in another content: its backing file and offset.
    public func landedChunk(
        _ digest: Digest, size: Int64, notIn content: ContentID
    ) throws -> (name: BackingName, offset: Int64)? {
        try read { database in
            if let whole = try database.cached(
                """
                SELECT \(Self.contentColumns) FROM content c
                WHERE c.digest = ?1 AND c.size = ?2 AND c.state = 2 AND c.id <> ?3 AND c.proof < 2 AND c.isolated = 0
                AND (SELECT isolated FROM content WHERE id = ?3) = 0
                ORDER BY c.proof = 1 DESC LIMIT 1
                """
            ).bind(1, digest: digest).bind(2, size).bind(3, content.row).first({ try Self.content($0) }) {
                return (whole.name, 0)
            }
            return try database.cached(
                """
                SELECT \(Self.contentColumns), k.offset FROM chunk k JOIN content c ON c.id = k.content
                WHERE k.digest = ?1 AND k.size = ?2 AND k.landed = 1 AND c.id <> ?3 AND c.isolated = 0
                AND (SELECT isolated FROM content WHERE id = ?3) = 0 LIMIT 1
                """
            ).bind(1, digest: digest).bind(2, size).bind(3, content.row)
                .first { (try Self.content($0).name, $0.integer(6)) }
        }
    }
}

extension Connection {
    /// Whether a layer has contents that are not completely here.
    func hasUnmerged(_ layer: LayerID) throws -> Bool {
        try cached(
            """
            SELECT 1 FROM layer_group lg JOIN content_group g ON g.id = lg.content_group
            WHERE lg.layer = ? AND g.merged < g.contents LIMIT 1
            """
        ).bind(1, layer.row).first { _ in true } ?? false
    }
}
