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
        /// Where its bytes are, if they are not in its backing file: a spool of the stream.
        public var spool: String?
        /// How many of its bytes may be holes: they are zeros.
        public var holes: Int64
        /// The repository whose file it is alone; nil where files are shared.
        public var isolation: String?

        public init(digest: Digest, size: Int64, spool: String?, holes: Int64 = 0, isolation: String? = nil) {
            self.digest = digest
            self.size = size
            self.spool = spool
            self.holes = holes
            self.isolation = isolation
        }

        /// What its content is named.
        public var name: BackingName { .ofOneChunk(digest, size: size, isolation: isolation) }
    }

    public var landed: [Landed] = []
    /// Lines of a table of contents, compressed.
    public var lines: [UInt8] = []
    public var state: [UInt8] = []
    /// Where the stream can go on from; nil at its end.
    public var checkpoint: CheckpointRecord?

    public init() {}
}

extension Store {
    /// The stream of a layer from a repository; one that was begun goes on. After a restart of the machine it goes on from what was
    /// certainly on disk. What another repository has sent of the blob is not gone on from: nobody knows what it is before its end.
    public func stream(of layer: Digest, origin: String) throws -> StreamRecord {
        try write { writer in
            let database = writer.connection
            let boot = try database.cached("SELECT boot FROM store").first { $0.text(0) } ?? ""
            let known = try database.cached("SELECT id, boot, state FROM stream WHERE digest = ? AND origin = ?")
                .bind(1, digest: layer).bind(2, text: origin)
                .first { row in
                    StreamRecord(
                        id: StreamID(row.integer(0)), state: row.isNull(2) ? nil : [UInt8](row.blob(2)),
                        isOfOtherBoot: row.text(1) != boot)
                }
            if var known {
                if known.isOfOtherBoot { known.state = try writer.returnToDurableState(of: known.id) ?? known.state }
                known.checkpoint = try database.cached(
                    "SELECT output, blob_offset, decoder FROM checkpoint WHERE stream = ? ORDER BY output DESC LIMIT 1"
                ).bind(1, known.id.row).first(Index.checkpoint)
                return known
            }
            try database.cached("INSERT INTO stream (digest, boot, origin) VALUES (?, ?, ?)").bind(1, digest: layer)
                .bind(2, text: boot).bind(3, text: origin).run()
            return StreamRecord(id: StreamID(database.lastInsertedRow), isOfOtherBoot: false)
        }
    }

    /// Records what a stream has done, in one transaction.
    ///
    /// - Parameter lease: the lease of the names of all files of the step; their writer ends it afterwards.
    /// - Returns: the syncfs after which the step is durable. The spools of its files are needed until then: a power cut
    ///   takes the stream back to where they were not whole.
    public func record(
        _ step: StreamStep, of stream: StreamID, under lease: borrowing WritingLease
    ) throws -> Int64 {
        let links = try step.landed.map { try link($0, under: lease) }
        return try write { writer in
            let database = writer.connection
            for (landed, isInPlace) in zip(step.landed, links) where isInPlace {
                try writer.land(landed, of: stream)
            }
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
            try writer.keepState(step.state, of: stream)
            try database.cached(
                "UPDATE stream SET state = ?2, boot = (SELECT boot FROM store) WHERE id = ?1"
            ).bind(1, stream.row).bind(2, blob: step.state).run()
            return try writer.noteLanding()
        }
    }

    /// Puts one file's bytes where they belong. Not in the transaction: code that holds the writer may not wait for files.
    ///
    /// - Returns: whether its bytes are under its name; false if a layer claims another size for the digest.
    private func link(_ landed: StreamStep.Landed, under lease: borrowing WritingLease) throws -> Bool {
        let name = landed.name
        let known = try index.content(named: name)
        // Layers claim two sizes for one digest; this one is right, because it was counted. The import keeps them apart.
        if let known, known.size != landed.size { return false }
        guard let spool = landed.spool else { return true }
        if known?.state == .merged, files.isThere(name, size: landed.size) { return true }
        do throws(SystemError) {
            // A merge of it may have its file open: that file gets the bytes.
            if known != nil, files.exists(name) {
                try lease.copy(spool: spool, to: name, size: landed.size)
            } else {
                try lease.link(spool: spool, as: name)
            }
        } catch {
            throw StoreError(.system(error.code), "cannot keep \(landed.digest)", cause: error)
        }
        return true
    }

    /// Whether the store has a file whole, so that nothing need be written for it. Ask with a lease of its name: then it stays
    /// so.
    public func hasMerged(_ name: BackingName, size: Int64) throws -> Bool {
        let isMerged = try index.read { database in
            try database.cached("SELECT 1 FROM content WHERE digest = ? AND claim = ? AND size = ? AND state = 2")
                .bind(1, digest: name.digest).bind(2, claim: name.claim).bind(3, size).first { _ in true } ?? false
        }
        return isMerged && files.isThere(name, size: size)
    }

    /// Forgets a stream, so that its layer is read from the start again. What landed stays: it has its digest.
    public func forget(_ stream: StreamID, of layer: Digest) throws {
        try writeDurably { writer in
            try writer.connection.cached("DELETE FROM stream WHERE id = ?").bind(1, stream.row).run()
        }
        try files.removeSpools(of: stream, layer, except: nil)
    }

    /// Forgets the stream of a layer that is wrong, and gives up what it has brought, unless another layer wants it.
    public func abandon(_ stream: StreamID, of layer: Digest) throws {
        let names = try index.read { try Index.contentsOnly(of: stream, $0).map(\.name) }
        // What another stream is writing has a lease, and stays. What one has recorded meanwhile is noticed when the index is
        // asked again.
        try files.leases.removing(names) { free in
            let free = Set(free)
            let gone = try writeDurably { writer in
                let contents = try Index.contentsOnly(of: stream, writer.connection).filter { free.contains($0.name) }
                for content in contents { try writer.forget(content.id) }
                try writer.connection.cached("DELETE FROM stream WHERE id = ?").bind(1, stream.row).run()
                return contents
            }
            do {
                for content in gone { try files.remove(content.name) }
            } catch {
                files.leases.giveUp(gone.map(\.name))
                throw error
            }
        }
        try files.removeSpools(of: stream, layer, except: nil)
    }
}

extension Index {
    /// What a stream has brought and nothing else has.
    fileprivate static func contentsOnly(of stream: StreamID, _ database: Connection) throws -> [ContentRecord] {
        try database.cached(
            """
            SELECT \(contentColumns) FROM stream_content s JOIN content c ON c.id = s.content
            WHERE s.stream = ?1 AND NOT EXISTS (SELECT 1 FROM chunk_source WHERE content = c.id)
                AND NOT EXISTS (SELECT 1 FROM stream_content WHERE content = c.id AND stream <> ?1)
            """
        ).bind(1, stream.row).map { try content($0) }
    }
}

extension Writer {
    /// Records a file of a stream that is under its name.
    fileprivate func land(_ landed: StreamStep.Landed, of stream: StreamID) throws {
        let name = landed.name
        let known = try connection.cached("SELECT id, state, size FROM content WHERE digest = ? AND claim = ?")
            .bind(1, digest: name.digest).bind(2, claim: name.claim)
            .first { ($0.integer(0), $0.integer(1), $0.integer(2)) }
        if let known, known.2 != landed.size { return }
        var content = known.map { ContentID($0.0) }
        if known?.1 != ContentRecord.State.merged.rawValue {
            let before = try content.flatMap { try counted($0) }
            content = try connection.cached(
                """
                INSERT INTO content (id, digest, size, state, proof, holes, used_at, sync, content_group, claim, isolated)
                VALUES (\(Writer.nextContent), ?1, ?2, 2, 1, ?3, ?4, ?5, ?6, ?7, ?8)
                ON CONFLICT (digest, claim) DO UPDATE
                SET state = 2, proof = 1, sync = ?5, holes = max(holes, ?3), used_at = ?4 RETURNING id
                """
            ).bind(1, digest: landed.digest).bind(2, landed.size).bind(3, landed.holes)
                .bind(4, millisecondsSince1970()).bind(5, try noteLanding()).bind(6, try group(of: stream))
                .bind(7, claim: name.claim).bind(8, landed.isolation == nil ? 0 : 1)
                .first { ContentID($0.integer(0)) }
            if let content, name.claim != nil { try landChunk(of: content, landed) }
            if let after = try content.flatMap({ try counted($0) }) { groups.note(before, after) }
        }
        guard let content else { return }
        if landed.spool != nil {
            // Its name may now mean the spool's file, which was not synced yet.
            try connection.cached("UPDATE content SET sync = max(sync, ?2) WHERE id = ?1").bind(1, content.row)
                .bind(2, try noteLanding()).run()
        }
        // Whatever had it first: from here on this stream holds it too.
        try connection.cached("INSERT OR IGNORE INTO stream_content (stream, content) VALUES (?, ?)")
            .bind(1, stream.row).bind(2, content.row).run()
    }

    /// What an import would list of a file with a name of its own: its one chunk, which is here.
    private func landChunk(of content: ContentID, _ landed: StreamStep.Landed) throws {
        try connection.cached(
            """
            INSERT INTO chunk (content, offset, size, digest, landed) VALUES (?1, 0, ?2, ?3, 1)
            ON CONFLICT (content, offset) DO UPDATE SET landed = 1
            """
        ).bind(1, content.row).bind(2, landed.size).bind(3, digest: landed.digest).run()
    }

    /// The group of the contents that a stream brings.
    fileprivate func group(of stream: StreamID) throws -> Int64 {
        let known =
            try connection.cached("SELECT content_group FROM stream WHERE id = ?").bind(1, stream.row)
            .first { $0.optionalInteger(0) } ?? nil
        if let known { return known }
        let group = try addGroup()
        try connection.cached("UPDATE stream SET content_group = ?2 WHERE id = ?1").bind(1, stream.row).bind(2, group)
            .run()
        return group
    }

    /// Keeps a stream's state until a later one is durable.
    fileprivate func keepState(_ state: [UInt8], of stream: StreamID) throws {
        try connection.cached(
            """
            DELETE FROM stream_resume WHERE stream = ?1 AND number < (
                SELECT max(number) FROM stream_resume WHERE stream = ?1 AND sync <= (SELECT syncs FROM store))
            """
        ).bind(1, stream.row).run()
        try connection.cached(
            """
            INSERT INTO stream_resume (stream, number, output, entries, sync, state)
            VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM stream_resume WHERE stream = ?1),
                    (SELECT coalesce(max(output), -1) FROM checkpoint WHERE stream = ?1),
                    (SELECT coalesce(max(number), 0) FROM stream_entry WHERE stream = ?1), ?2, ?3)
            """
        ).bind(1, stream.row).bind(2, try noteLanding()).bind(3, blob: state).run()
    }

    /// Takes a stream back to its last state that is certainly on disk, and forgets what came after it.
    ///
    /// - Returns: that state; nil if there is none.
    fileprivate func returnToDurableState(of stream: StreamID) throws -> [UInt8]? {
        let found = try connection.cached(
            """
            SELECT number, output, entries, state FROM stream_resume
            WHERE stream = ? AND sync <= (SELECT syncs FROM store) ORDER BY number DESC LIMIT 1
            """
        ).bind(1, stream.row).first { ($0.integer(0), $0.integer(1), $0.integer(2), [UInt8]($0.blob(3))) }
        guard let (number, output, entries, state) = found else { return nil }
        for (sql, limit) in [
            ("DELETE FROM stream_resume WHERE stream = ? AND number > ?", number),
            ("DELETE FROM checkpoint WHERE stream = ? AND output > ?", output),
            ("DELETE FROM stream_entry WHERE stream = ? AND number > ?", entries),
        ] {
            try connection.cached(sql).bind(1, stream.row).bind(2, limit).run()
        }
        try connection.cached("UPDATE stream SET state = ?2 WHERE id = ?1").bind(1, stream.row).bind(2, blob: state)
            .run()
        return state
    }
}

extension Index {
    static func checkpoint(_ row: Statement) -> CheckpointRecord {
        CheckpointRecord(output: row.integer(0), blobOffset: row.integer(1), decoder: [UInt8](row.blob(2)))
    }

    /// What the stream of a layer from a repository has recorded last; nil if none is running.
    public func streamState(of layer: Digest, origin: String) throws -> [UInt8]? {
        try read { database in
            try database.cached("SELECT state FROM stream WHERE digest = ? AND origin = ? AND state IS NOT NULL")
                .bind(1, digest: layer).bind(2, text: origin).first { [UInt8]($0.blob(0)) }
        }
    }

    /// What was kept of a stream's entries, in order; each compressed.
    public func lines(of stream: StreamID) throws -> [[UInt8]] {
        try read { database in
            try database.cached("SELECT lines FROM stream_entry WHERE stream = ? ORDER BY number").bind(1, stream.row)
                .map { [UInt8]($0.blob(0)) }
        }
    }

    /// From where a layer's blob must be decompressed for a range of its tar, and up to where it must be read: nil if only its
    /// end is known.
    public func checkpoints(
        around range: Range<Int64>, in layer: LayerID
    ) throws -> (first: CheckpointRecord?, end: CheckpointRecord?) {
        try read { database in
            // Of a stream that has ended: then its blob was the one of this digest, whoever sent it.
            let select =
                "SELECT output, blob_offset, decoder FROM checkpoint WHERE stream = "
                + "(SELECT s.id FROM stream s JOIN layer l ON l.digest = s.digest WHERE l.id = ?1 AND s.state IS NULL "
                + "AND EXISTS (SELECT 1 FROM checkpoint c WHERE c.stream = s.id) "
                + "ORDER BY s.origin IS l.origin DESC LIMIT 1) AND output "
            return (
                try database.cached(select + "<= ?2 ORDER BY output DESC LIMIT 1")
                    .bind(1, layer.row).bind(2, range.lowerBound).first(Self.checkpoint),
                try database.cached(select + ">= ?2 ORDER BY output LIMIT 1")
                    .bind(1, layer.row).bind(2, range.upperBound).first(Self.checkpoint)
            )
        }
    }
}
