import LaminaSQLite
import LaminaSystem
import Synchronization

/// What a merge has done since the last transaction.
public struct Landing: Sendable {
    /// Chunks whose verified bytes are in the backing file; for contents of several chunks.
    public var chunks: [(content: ContentID, offset: Int64)] = []
    /// For chunks with zeros that take no space: how many bytes these are. The chunk has landed with them. A content of one
    /// chunk has no offset here; `merged` has its zeros.
    public var holes: [(content: ContentID, offset: Int64?, bytes: Int64)] = []
    /// Contents whose every chunk has landed, with what is known of the whole-file digest.
    public var merged: [(content: ContentID, proof: ContentRecord.Proof)] = []
    /// What the members of these chunks hold besides files, as in `TarPart`.
    public var tarParts: [(layer: LayerID, blobOffset: Int64, blobSize: Int64, bytes: [UInt8])] = []

    public init() {}

    public var isEmpty: Bool { chunks.isEmpty && holes.isEmpty && merged.isEmpty && tarParts.isEmpty }
}

extension Store {
    /// Records what has landed, in one transaction.
    public func record(_ landing: Landing) throws {
        guard !landing.isEmpty else { return }
        do {
            try recordNow(landing)
        } catch {
            // What was counted for parts that are not on record after all is counted anew.
            tarRoom.withLock { room in for part in landing.tarParts { room[part.layer] = nil } }
            throw error
        }
    }

    private func recordNow(_ landing: Landing) throws {
        try finishAside(landing.merged.map(\.0))
        try write { writer in
            let database = writer.connection
            let sync = try writer.noteLanding()
            let withHoles = landing.holes.compactMap { hole in hole.offset.map { (content: hole.content, offset: $0) } }
            // First, because a chunk's holes are counted when it lands.
            try Self.record(landing.holes, in: database)
            try writer.land(landing.chunks + withHoles, sync: sync)
            try keep(landing.tarParts, in: database)
            let merged = try database.cached(
                "UPDATE content SET state = 2, proof = ?, sync = ?, used_at = ? WHERE id = ?")
            let now = millisecondsSince1970()
            // A content that was copied as a whole names no chunks, but the check after a restart needs them.
            let rest = try database.cached("UPDATE chunk SET landed = 1 WHERE content = ? AND landed = 0")
            for (content, proof) in landing.merged {
                guard let before = try writer.counted(content) else { continue }
                try merged.bind(1, proof.rawValue).bind(2, sync).bind(3, now).bind(4, content.row).run()
                if before.hasClaim { try rest.bind(1, content.row).run() }
                var after = before
                after.state = ContentRecord.State.merged.rawValue
                after.isProven = proof == .proven
                writer.groups.note(before, after)
            }
        }
    }

    /// Counts the holes of chunks, each once: those of a chunk that has landed already are counted already.
    private static func record(
        _ holes: [(content: ContentID, offset: Int64?, bytes: Int64)], in database: Connection
    ) throws {
        guard !holes.isEmpty else { return }
        let count = try database.cached(
            """
            UPDATE content SET holes = holes + ?3
            WHERE id = ?1 AND EXISTS (SELECT 1 FROM chunk WHERE content = ?1 AND offset = ?2 AND landed = 0)
            """)
        let only = try database.cached("UPDATE content SET holes = max(holes, ?2) WHERE id = ?1")
        for hole in holes {
            if let offset = hole.offset {
                try count.bind(1, hole.content.row).bind(2, offset).bind(3, hole.bytes).run()
            } else {
                try only.bind(1, hole.content.row).bind(2, hole.bytes).run()
            }
        }
    }

    /// Records the result of proving a merged content's whole-file digest.
    public func recordProof(_ proof: ContentRecord.Proof, of content: ContentID) throws {
        try write { writer in
            // If it was given up meanwhile, nothing is recorded.
            try writer.counting(content) {
                try writer.connection.cached("UPDATE content SET proof = ? WHERE id = ? AND state = 2")
                    .bind(1, proof.rawValue).bind(2, content.row).run()
            }
        }
    }

    /// Makes a content whole with the bytes of a proven one that has the same digest: one file with two names.
    ///
    /// - Throws: `StoreError.conflict` if the index does not have the first as proven, or the two differ in digest or size: if
    ///   claimed contents were shared, one layer could give other layers its bytes.
    public func adopt(_ proven: ContentRecord, as content: ContentRecord) throws {
        try requireProven(proven, as: content)
        var lease = files.lease(writing: content.name)
        do {
            // The proven one cannot be given up meanwhile.
            try files.reading(proven.name) { _ in
                // Again: it may have been given up, and another file written under its name.
                try requireProven(proven, as: content)
                try lease.link(proven.name, as: content.name)
            }
        } catch let error as SystemError {
            throw StoreError(.system(error.code), "cannot share \(proven.name.path)", cause: error)
        }
        try write { writer in
            let database = writer.connection
            try database.cached("UPDATE chunk SET landed = 1 WHERE content = ?").bind(1, content.id.row).run()
            try writer.counting(content.id) {
                try database.cached(
                    """
                    UPDATE content SET state = 2, proof = 1, sync = ?4, used_at = ?3,
                        holes = (SELECT holes FROM content WHERE id = ?2) WHERE id = ?1
                    """
                ).bind(1, content.id.row).bind(2, proven.id.row).bind(3, millisecondsSince1970())
                    .bind(4, try writer.noteLanding()).run()
            }
        }
        lease.recorded()
    }

    private func requireProven(_ proven: ContentRecord, as content: ContentRecord) throws {
        let known = try index.content(proven.id)
        guard let known, known.state == .merged, known.proof == .proven, known.id != content.id,
            known.name.digest == content.name.digest, known.size == content.size
        else { throw StoreError(.conflict, "\(proven.id) is not proven to have the bytes of \(content.id)") }
    }

    /// Records how many bytes of a content's file may be holes: they were verified to be zeros.
    public func recordHoles(_ bytes: Int64, of content: ContentID) throws {
        try write { writer in
            try writer.connection.cached("UPDATE content SET holes = max(holes, ?) WHERE id = ?").bind(1, bytes)
                .bind(2, content.row).run()
        }
    }
}

extension Writer {
    /// Notes that something lands, in the transaction that records it.
    ///
    /// - Returns: the number of the syncfs that makes it durable, for its content's row.
    func noteLanding() throws -> Int64 {
        try connection.cached("UPDATE store SET landing = ?1 WHERE landing < ?1").bind(1, nextSync).run()
        return nextSync
    }

    func forget(_ content: ContentID) throws {
        try counting(content) {
            try connection.cached("UPDATE chunk SET landed = 0 WHERE content = ?").bind(1, content.row).run()
            try connection.cached("UPDATE content SET state = 0, proof = 0, holes = 0, landed = 0 WHERE id = ?")
                .bind(1, content.row).run()
        }
    }

    /// Records chunks; fastest if those of one content come one after the other.
    fileprivate func land(_ chunks: [(content: ContentID, offset: Int64)], sync: Int64) throws {
        let landed = try connection.cached(
            "UPDATE chunk SET landed = 1 WHERE content = ? AND offset = ? AND landed = 0 RETURNING size")
        // All of a merged content has landed.
        let partial = try connection.cached(
            """
            UPDATE content SET state = max(state, 1), sync = max(sync, ?2), landed = iif(state = 2, landed, landed + ?3)
            WHERE id = ?1
            """)
        var start = 0
        while start < chunks.count {
            let content = chunks[start].content
            let own = chunks[start...].prefix { $0.content == content }
            var bytes: Int64 = 0
            for (_, offset) in own {
                bytes += try landed.bind(1, content.row).bind(2, offset).first { $0.integer(0) } ?? 0
            }
            start = own.endIndex
            guard let before = try counted(content) else { continue }
            try partial.bind(1, content.row).bind(2, sync).bind(3, bytes).run()
            var after = before
            if before.state < ContentRecord.State.merged.rawValue {
                after.state = ContentRecord.State.partial.rawValue
                after.landed += bytes
            }
            groups.note(before, after)
        }
    }
}

extension Index {
    /// How many bytes of a content's file may be holes.
    public func holes(of content: ContentID) throws -> Int64 {
        try read { database in
            try database.cached("SELECT holes FROM content WHERE id = ?").bind(1, content.row).first { $0.integer(0) }
        } ?? 0
    }
}

extension Store {
    /// What may be kept of a layer's tar until it is told, in bytes: for each of its inodes a header with what belongs to it, compressed, and
    /// some more.
    private static let tarPartBytes: (base: Int64, ofInode: Int64) = (1 << 20, 256)

    /// Keeps parts of tars, as long as there is room: who made the layer says how much stands between its files. Without all of them its diff ID
    /// is not told from what was fetched.
    private func keep(
        _ parts: [(layer: LayerID, blobOffset: Int64, blobSize: Int64, bytes: [UInt8])], in database: Connection
    ) throws {
        guard !parts.isEmpty else { return }
        let insert = try database.cached(
            // The layer may have been given up meanwhile, or its diff ID computed: then these would never be deleted.
            """
            INSERT OR REPLACE INTO tar_part (layer, blob_offset, blob_size, bytes)
            SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM layer WHERE id = ?1 AND diff_id_state = 0)
            """)
        let before = try database.cached("SELECT length(bytes) FROM tar_part WHERE layer = ? AND blob_offset = ?")
        for part in parts {
            let room = try tarRoom.withLock { $0[part.layer] } ?? tarRoom(of: part.layer, in: database)
            // What comes again takes the place of what was there.
            let more =
                Int64(part.bytes.count)
                - (try before.bind(1, part.layer.row).bind(2, part.blobOffset).first { $0.integer(0) } ?? 0)
            var taken: Int64 = 0
            if room >= more {
                try insert.bind(1, part.layer.row).bind(2, part.blobOffset).bind(3, part.blobSize)
                    .bind(4, blob: part.bytes).run()
                if database.changes > 0 { taken = more }
            }
            tarRoom.withLock { $0[part.layer] = room - taken }
        }
    }

    private func tarRoom(of layer: LayerID, in database: Connection) throws -> Int64 {
        try database.cached(
            """
            SELECT \(Self.tarPartBytes.base) + (last_inode - first_inode + 1) * \(Self.tarPartBytes.ofInode)
                - (SELECT coalesce(sum(length(bytes)), 0) FROM tar_part WHERE layer = ?1 AND blob_offset <> coalesce(members_end, -1))
            FROM layer WHERE id = ?1
            """
        ).bind(1, layer.row).first { $0.integer(0) } ?? 0
    }
}
