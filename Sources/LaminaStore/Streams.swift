import Glibc
public import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// A row of `stream`: a layer without a table of contents that is read as one stream.
public struct StreamID: Hashable, Sendable {
    public let row: Int64
    init(_ row: Int64) { self.row = row }
}

/// A place in a blob from which it can be decompressed without what is before it.
public struct CheckpointRecord: Sendable, Equatable {
    /// In the tar: of the first byte that comes out.
    public var output: Int64
    /// In the blob: of the first byte that goes in.
    public var blobOffset: Int64
    /// What the decompressor has to know.
    public var decoder: [UInt8]

    public init(output: Int64, blobOffset: Int64, decoder: [UInt8]) {
        self.output = output
        self.blobOffset = blobOffset
        self.decoder = decoder
    }
}

/// A stream that goes on.
public struct StreamRecord: Sendable {
    public var id: StreamID
    /// What was recorded with the last checkpoint; nil for a stream that begins.
    public var state: [UInt8]?
    /// Whether the machine was restarted since: what was written outside the index may be lost.
    public var isOfOtherBoot: Bool
    /// The last one.
    public var checkpoint: CheckpointRecord?
}

/// What a stream has done since it was last recorded.
public struct StreamStep: Sendable {
    /// A whole file whose digest was computed.
    public struct Landed: Sendable {
        public var digest: Digest
        public var size: Int64
        /// Where its bytes are, if not in its backing file: a temporary file of the stream.
        public var temporary: String?
        /// How many of its bytes may be holes: they are zeros.
        public var holes: Int64

        public init(digest: Digest, size: Int64, temporary: String?, holes: Int64 = 0) {
            self.digest = digest
            self.size = size
            self.temporary = temporary
            self.holes = holes
        }
    }

    public var landed: [Landed] = []
    /// Of a table of contents, compressed.
    public var lines: [UInt8] = []
    public var state: [UInt8] = []
    /// Where the stream can go on from; nil at its end.
    public var checkpoint: CheckpointRecord?

    public init() {}
}

extension Store {
    /// The stream of a layer; one that was begun goes on.
    public func stream(of layer: Digest) throws -> StreamRecord {
        try write { writer in
            let database = writer.connection
            let boot = try database.cached("SELECT boot FROM store").first { $0.text(0) } ?? ""
            let known = try database.cached("SELECT id, boot, state FROM stream WHERE digest = ?")
                .bind(1, digest: layer)
                .first { row in
                    StreamRecord(
                        id: StreamID(row.integer(0)), state: row.isNull(2) ? nil : [UInt8](row.blob(2)),
                        isOfOtherBoot: row.text(1) != boot)
                }
            if var known {
                known.checkpoint = try database.cached(
                    "SELECT output, blob_offset, decoder FROM checkpoint WHERE stream = ? ORDER BY output DESC LIMIT 1"
                ).bind(1, known.id.row).first(Index.checkpoint)
                return known
            }
            try database.cached("INSERT INTO stream (digest, boot) VALUES (?, ?)").bind(1, digest: layer)
                .bind(2, text: boot).run()
            return StreamRecord(id: StreamID(database.lastInsertedRow), isOfOtherBoot: false)
        }
    }

    /// Records what a stream has done, in one transaction; then its temporary files are gone.
    public func record(_ step: StreamStep, of stream: StreamID) throws {
        try write { writer in
            let database = writer.connection
            for landed in step.landed { try land(landed, of: stream, writer) }
            if !step.lines.isEmpty {
                try database.cached(
                    """
                    INSERT INTO stream_entry (stream, number, lines)
                    VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM stream_entry WHERE stream = ?1), ?2)
                    """
                ).bind(1, stream.row).bind(2, blob: step.lines).run()
            }
            if let checkpoint = step.checkpoint {
                // Within one zstd frame the place to go on from stays the same.
                try database.cached(
                    "INSERT OR IGNORE INTO checkpoint (stream, output, blob_offset, decoder) VALUES (?, ?, ?, ?)"
                ).bind(1, stream.row).bind(2, checkpoint.output).bind(3, checkpoint.blobOffset)
                    .bind(4, blob: checkpoint.decoder).run()
            }
            try database.cached(
                "UPDATE stream SET state = ?2, boot = (SELECT boot FROM store) WHERE id = ?1"
            ).bind(1, stream.row).bind(2, blob: step.state).run()
        }
        for case let temporary? in step.landed.map(\.temporary) { files.removeTemporary(temporary) }
    }

    /// Puts one file's bytes where they belong and says so.
    private func land(_ landed: StreamStep.Landed, of stream: StreamID, _ writer: Writer) throws {
        let database = writer.connection
        let known = try database.cached(
            "SELECT \(Index.contentColumns) FROM content c WHERE c.digest = ? AND c.claim = x''"
        ).bind(1, digest: landed.digest).first { try Index.content($0) }
        // Of the two sizes that layers claim for one digest, this one is right: it was counted. The import keeps them apart.
        if let known, known.state == .merged || known.size != landed.size { return }
        if let temporary = landed.temporary {
            let name = BackingName(digest: landed.digest, claim: nil)
            do throws(SystemError) {
                // Whoever merges it has its file open: that one gets the bytes.
                if known != nil {
                    try files.copyTemporary(temporary, to: name, size: landed.size)
                } else {
                    try files.linkTemporary(temporary, as: name)
                }
            } catch {
                throw StoreError(.system(error.code), "cannot keep \(landed.digest)", cause: error)
            }
        }
        let content = try database.cached(
            """
            INSERT INTO content (id, digest, size, state, proof, holes, used_at, sync)
            VALUES (\(Writer.nextContent), ?1, ?2, 2, 1, ?3, ?4, ?5)
            ON CONFLICT (digest, claim) DO UPDATE
            SET state = 2, proof = 1, sync = ?5, holes = max(holes, ?3), used_at = ?4 RETURNING id
            """
        ).bind(1, digest: landed.digest).bind(2, landed.size).bind(3, landed.holes).bind(4, millisecondsSince1970())
            .bind(5, try writer.noteLanding()).first { ContentID($0.integer(0)) }
        guard let content else { return }
        try database.cached("INSERT OR IGNORE INTO stream_content (stream, content) VALUES (?, ?)").bind(1, stream.row)
            .bind(2, content.row).run()
    }

    /// Whether the store has a file whole, and nothing need be written for it.
    public func hasMerged(_ digest: Digest, size: Int64) throws -> Bool {
        try index.read { database in
            try database.cached("SELECT 1 FROM content WHERE digest = ? AND claim = x'' AND size = ? AND state = 2")
                .bind(1, digest: digest).bind(2, size).first { _ in true } ?? false
        }
    }

    /// Forgets a stream, so that its layer is read from the start again. What landed stays: it has its digest.
    public func forget(_ stream: StreamID, of layer: Digest) throws {
        try write { writer in
            try writer.connection.cached("DELETE FROM stream WHERE id = ?").bind(1, stream.row).run()
        }
        files.removeTemporaries(of: layer, except: nil)
    }
}

extension Store {
    /// Forgets the stream of a layer that is wrong, and gives up what it has brought, where no other layer wants it.
    public func abandon(_ stream: StreamID, of layer: Digest) throws {
        let contents = try index.read { database in
            try database.cached(
                """
                SELECT \(Index.contentColumns) FROM stream_content s JOIN content c ON c.id = s.content
                WHERE s.stream = ?1 AND NOT EXISTS (SELECT 1 FROM chunk_source WHERE content = c.id)
                    AND NOT EXISTS (SELECT 1 FROM stream_content WHERE content = c.id AND stream <> ?1)
                """
            ).bind(1, stream.row).map { try Index.content($0) }
        }
        try evict(contents)
        try forget(stream, of: layer)
    }

    /// Takes away files that were written under their names and of which the index knows nothing.
    public func removeUnknown(_ digests: [Digest]) {
        // What cannot be taken away costs space, no more.
        try? write { writer in
            for digest in digests {
                let isKnown = try writer.connection.cached("SELECT 1 FROM content WHERE digest = ? AND claim = x''")
                    .bind(1, digest: digest).first { _ in true }
                if isKnown == nil { try files.evict([BackingName(digest: digest, claim: nil)]) {} }
            }
        }
    }
}

extension Index {
    static func checkpoint(_ row: Statement) -> CheckpointRecord {
        CheckpointRecord(output: row.integer(0), blobOffset: row.integer(1), decoder: [UInt8](row.blob(2)))
    }

    /// What the stream of a layer has recorded last; nil where none is under way.
    public func streamState(of layer: Digest) throws -> [UInt8]? {
        try read { database in
            try database.cached("SELECT state FROM stream WHERE digest = ? AND state IS NOT NULL")
                .bind(1, digest: layer).first { [UInt8]($0.blob(0)) }
        }
    }

    /// What was kept of a stream's entries, in order; each compressed.
    public func lines(of stream: StreamID) throws -> [[UInt8]] {
        try read { database in
            try database.cached("SELECT lines FROM stream_entry WHERE stream = ? ORDER BY number").bind(1, stream.row)
                .map { [UInt8]($0.blob(0)) }
        }
    }

    /// Where a layer's blob is to be decompressed from for a range of its tar, and where it has been read far enough:
    /// nil where nothing but its end is known.
    public func checkpoints(
        around range: Range<Int64>, in layer: LayerID
    ) throws -> (first: CheckpointRecord?, end: CheckpointRecord?) {
        try read { database in
            let select =
                "SELECT output, blob_offset, decoder FROM checkpoint WHERE stream = "
                + "(SELECT s.id FROM stream s JOIN layer l ON l.digest = s.digest WHERE l.id = ?1) AND output "
            return (
                try database.cached(select + "<= ?2 ORDER BY output DESC LIMIT 1")
                    .bind(1, layer.row).bind(2, range.lowerBound).first(Self.checkpoint),
                try database.cached(select + ">= ?2 ORDER BY output LIMIT 1")
                    .bind(1, layer.row).bind(2, range.upperBound).first(Self.checkpoint)
            )
        }
    }
}
