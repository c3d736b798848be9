import Glibc
public import LaminaDigest
import LaminaSQLite

/// What the index keeps of a layer blob besides its tree.
public struct LayerRecord: Sendable {
    public var digest: Digest
    public var diffID: Digest?
    public var tocDigest: Digest?
    /// SHA-256 of the compressed TOC, if manifests name that.
    public var tocChecksum: Digest?
    /// What ties the TOC to the manifest.
    public var tocProof: TOCProof
    /// `LayerFormat`'s raw value.
    public var format: Int
    /// Of the compressed blob, in bytes.
    public var size: Int64
    /// Members before this blob offset are prioritized.
    public var prioritizedEnd: Int64?
    /// Where the blob can be had: the repository that it was found in, which is part of what a layer is.
    public var location: String
    /// Whether its files are this repository's alone, so that no other image gets them without having brought them.
    public var isIsolated = false
    /// What the blob has behind its members and belongs to its tar, as it stands there: the table of contents of an eStargz.
    public var tail: (offset: Int64, bytes: [UInt8])?
    /// What was found of the diff ID while indexing, and the tar's digest where that is another.
    public var diffIDState = DiffIDState.unknown
    public var computedDiffID: Digest?
    /// Where in the blob the last member ends.
    public var membersEnd: Int64?
    /// Where in the blob the layer's tar-split is.
    public var tarSplit: Range<Int64>?

    public init(
        digest: Digest, diffID: Digest?, tocDigest: Digest?, tocChecksum: Digest? = nil, tocProof: TOCProof = .manifest,
        format: Int, size: Int64, prioritizedEnd: Int64?, location: String
    ) {
        self.digest = digest
        self.diffID = diffID
        self.tocDigest = tocDigest
        self.tocChecksum = tocChecksum
        self.tocProof = tocProof
        self.format = format
        self.size = size
        self.prioritizedEnd = prioritizedEnd
        self.location = location
    }
}

/// One chunk of a file as a TOC lists it.
public struct ImportedChunk: Sendable {
    /// In the file.
    public var offset: Int64
    public var size: Int64
    public var digest: Digest
    /// Of the member in the blob.
    public var blobOffset: Int64
    public var blobSize: Int64
    /// In what the member decompresses to.
    public var innerOffset: Int64

    public init(
        offset: Int64, size: Int64, digest: Digest, blobOffset: Int64, blobSize: Int64, innerOffset: Int64
    ) {
        self.offset = offset
        self.size = size
        self.digest = digest
        self.blobOffset = blobOffset
        self.blobSize = blobSize
        self.innerOffset = innerOffset
    }
}

extension Store {
    /// A layer with this digest, if the index has one; of several the oldest.
    public func layer(_ digest: Digest) throws -> LayerID? { try index.layers(of: digest).first?.id }

    /// Records a source of a layer's blob, as the newest; a known one becomes the newest.
    public func addSource(_ location: String, to layer: LayerID) throws {
        try write { try $0.addSource(location, to: layer) }
    }

    /// Puts a layer into the index: all of it in one transaction, or nothing.
    ///
    /// - Parameters:
    ///   - inodeCount: how many inodes `body` will add; they are numbered without a gap.
    ///   - stream: what the tree was made of, and is at its end now.
    ///   - body: adds the tree. The inode that it adds first is the root.
    /// - Returns: the layer; the one that is there already when blob, table of contents, diff ID and repository are
    ///   known.
    public func importLayer(
        _ record: LayerRecord, inodeCount: Int, stream: StreamID? = nil, _ body: (LayerImporter) throws -> Void
    ) throws -> LayerID {
        try write { writer in
            let database = writer.connection
            // Within the transaction: two imports of one layer may come at the same time.
            let known = try database.cached(
                """
                SELECT id FROM layer WHERE digest = ?1 AND origin = ?2 AND toc_digest IS ?3
                    AND (?3 IS NULL OR diff_id IS ?4)
                """
            ).bind(1, digest: record.digest).bind(2, text: record.location).bind(3, digest: record.tocDigest)
                .bind(4, digest: record.diffID).first { LayerID($0.integer(0)) }
            if let known {
                try writer.addSource(record.location, to: known)
                return known
            }
            let first = try writer.takeInodes(inodeCount)
            try database.cached(
                """
                INSERT INTO layer (id, digest, diff_id, toc_digest, format, size, root, first_inode, last_inode,
                                   prioritized_end, indexed_at, toc_checksum, toc_proof, blob_proven_at,
                                   diff_id_state, diff_id_at, computed_diff_id, members_end, tar_split_offset,
                                   tar_split_size, chunks_proven_at, files_proven_at, origin, isolated)
                VALUES ((SELECT max(coalesce((SELECT max(id) FROM layer), 0), last_layer) + 1 FROM store), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, CASE WHEN ?12 >= 2 OR ?13 > 0 THEN ?10 END,
                        ?13, CASE WHEN ?13 > 0 THEN ?10 END, ?14, ?15, ?16, ?17, iif(?12 = 3, ?10, NULL),
                        iif(?12 = 3, ?10, NULL), ?18, ?19)
                """
            ).bind(1, digest: record.digest).bind(2, digest: record.diffID).bind(3, digest: record.tocDigest)
                .bind(4, Int64(record.format)).bind(5, record.size).bind(6, first).bind(7, first)
                .bind(8, first + Int64(inodeCount) - 1).bind(9, record.prioritizedEnd).bind(10, Int64(time(nil)))
                .bind(11, digest: record.tocChecksum).bind(12, record.tocProof.rawValue)
                .bind(13, record.diffIDState.rawValue).bind(14, digest: record.computedDiffID)
                .bind(15, record.membersEnd).bind(16, record.tarSplit?.lowerBound)
                .bind(17, record.tarSplit.map { Int64($0.count) }).bind(18, text: record.location)
                .bind(19, record.isIsolated ? 1 : 0).run()
            let layer = LayerID(database.lastInsertedRow)
            try writer.addSource(record.location, to: layer)
            try writer.noteTrust(of: record, layer)
            let importer = try LayerImporter(
                writer, layer: layer, firstInode: first, group: try writer.group(for: layer, of: stream))
            importer.isolation = record.isIsolated ? record.location : nil
            try body(importer)
            try importer.finish()
            guard importer.nextInode == first + Int64(inodeCount) else {
                throw StoreError(
                    .conflict,
                    "layer \(record.digest) has \(importer.nextInode - first) inodes where \(inodeCount) were announced"
                )
            }
            if let stream {
                try writer.releaseUnwanted(of: stream, layer, group: importer.group)
                try database.cached("DELETE FROM stream_entry WHERE stream = ?").bind(1, stream.row).run()
                try database.cached("DELETE FROM stream_content WHERE stream = ?").bind(1, stream.row).run()
                try database.cached("DELETE FROM stream_resume WHERE stream = ?").bind(1, stream.row).run()
                try database.cached("UPDATE stream SET state = NULL, content_group = NULL WHERE id = ?").bind(
                    1, stream.row
                ).run()
            }
            return layer
        }
    }
}

extension Writer {
    fileprivate func addSource(_ location: String, to layer: LayerID) throws {
        try connection.cached(
            """
            INSERT INTO layer_source (layer, location, added)
            VALUES (?1, ?2, (SELECT coalesce(max(added), 0) + 1 FROM layer_source WHERE layer = ?1))
            ON CONFLICT (layer, location) DO UPDATE SET added = excluded.added
            """
        ).bind(1, layer.row).bind(2, text: location).run()
    }

    /// The group of the contents that this layer is the first to have: its stream's, or a new one.
    fileprivate func group(for layer: LayerID, of stream: StreamID?) throws -> Int64 {
        let known = try stream.flatMap { stream in
            try connection.cached("SELECT content_group FROM stream WHERE id = ?").bind(1, stream.row)
                .first { $0.optionalInteger(0) } ?? nil
        }
        let group = try known ?? addGroup()
        try connection.cached("INSERT INTO layer_group (layer, content_group) VALUES (?, ?)").bind(1, layer.row)
            .bind(2, group).run()
        return group
    }

    /// Contents that a stream has brought but its layer does not have, because a later entry of the tar replaced the file: no
    /// layer has them.
    fileprivate func releaseUnwanted(of stream: StreamID, _ layer: LayerID, group: Int64) throws {
        let unwanted = try connection.cached(
            """
            SELECT c.id FROM stream_content s JOIN content c ON c.id = s.content
            WHERE s.stream = ?1 AND c.content_group = ?3
                AND NOT EXISTS (SELECT 1 FROM chunk_source k WHERE k.content = c.id AND k.layer = ?2)
            """
        ).bind(1, stream.row).bind(2, layer.row).bind(3, group).map { ContentID($0.integer(0)) }
        for content in unwanted {
            try counting(content) {
                try connection.cached("UPDATE content SET content_group = 0 WHERE id = ?").bind(1, content.row).run()
            }
        }
    }

    /// Takes `count` inode numbers; they are never used again.
    func takeInodes(_ count: Int) throws -> Int64 {
        let statement = try connection.cached(
            "UPDATE store SET next_inode = next_inode + ? RETURNING next_inode")
        let next = try statement.bind(1, Int64(count)).first { $0.integer(0) }
        guard let next else { throw StoreError(.damaged, "the index has no store row") }
        return next - Int64(count)
    }
}

/// Adds one layer's tree to the index, within the transaction of `Store.importLayer`.
public final class LayerImporter {
    let layer: LayerID
    /// The number of the layer's first inode, its root.
    public let firstInode: Int64
    fileprivate var nextInode: Int64

    private let inodes: RowInserter
    private let dirents: RowInserter
    private let directories: RowInserter
    /// The paths of the directories so far; empty for the root, and for one that has no name yet.
    private var paths: [Int64: [UInt8]] = [:]
    let sources: RowInserter
    let newContents: RowInserter
    /// A number above those of all contents; nil before it was asked for.
    var nextContent: Int64?
    private let insertXattr: Statement
    private let insertImplicit: Statement
    let findContent: Statement
    let insertContent: Statement
    let insertChunk: Statement
    let writer: Writer
    var database: Connection { writer.connection }
    /// The group of the contents that no layer had before.
    let group: Int64
    /// Contents that were there already: they move from their groups to others that have this layer too.
    var shared: Set<ContentID> = []
    /// Numbers of a batch in which not all were new: the new ones are counted one by one.
    var uncounted: Set<Int64> = []
    /// How many inodes have each content.
    var files = FileCounts()
    /// The repository whose files are its own; nil where they are shared.
    var isolation: String?

    fileprivate init(_ writer: Writer, layer: LayerID, firstInode: Int64, group: Int64) throws {
        self.writer = writer
        let database = writer.connection
        self.layer = layer
        self.firstInode = firstInode
        self.group = group
        nextInode = firstInode
        inodes = try RowInserter(
            database,
            "INSERT INTO inode (id, mode, uid, gid, size, mtime, mtime_ns, device, nlink, content, target, up)",
            columnCount: 12)
        dirents = try RowInserter(database, "INSERT INTO dirent (parent, name, inode)", columnCount: 3)
        directories = try RowInserter(database, "INSERT INTO directory (inode, path)", columnCount: 2)
        sources = try RowInserter(
            database,
            "INSERT OR IGNORE INTO chunk_source (layer, blob_offset, inner_offset, content, offset, blob_size)",
            columnCount: 6)
        insertXattr = try database.cached("INSERT INTO xattr (inode, name, value) VALUES (?, ?, ?)")
        insertImplicit = try database.cached("INSERT INTO implicit_directory (inode, path) VALUES (?, ?)")
        newContents = try RowInserter(
            database, "INSERT OR IGNORE INTO content (id, digest, size, content_group)", columnCount: 4)
        findContent = try database.cached("SELECT id, size, content_group FROM content WHERE digest = ? AND claim = ?")
        insertContent = try database.cached(
            """
            INSERT INTO content (id, digest, claim, size, content_group) VALUES (\(Writer.nextContent), ?, ?, ?, ?)
            ON CONFLICT (digest, claim) DO NOTHING
            """)
        insertChunk = try database.cached("INSERT INTO chunk (content, offset, size, digest) VALUES (?, ?, ?, ?)")
    }

    /// Inserts the rows that were gathered.
    fileprivate func finish() throws {
        try inodes.finish()
        try dirents.finish()
        try sources.finish()
        for (inode, path) in paths.sorted(by: { $0.key < $1.key }) {
            let first = try directories.next()
            directories.statement.bind(first, inode).bind(first + 1, blob: path)
        }
        try directories.finish()
        try countFiles()
    }

    /// Adds the next inode. `inode.id` is not read; `nlink` and `size` are taken as they are.
    ///
    /// - Parameter directory: the directory of the first of its names; nil for the root.
    @discardableResult
    public func addInode(
        _ inode: Inode, in directory: Int64? = nil, target: UnsafeRawBufferPointer?
    ) throws -> Int64 {
        let id = nextInode
        nextInode += 1
        if let content = inode.content { files.add(content) }
        if inode.mode & UInt32(S_IFMT) == UInt32(S_IFDIR) { paths[id] = [] }
        let first = try inodes.next()
        inodes.statement.bind(first, id).bind(first + 1, Int64(inode.mode)).bind(first + 2, Int64(inode.uid))
            .bind(first + 3, Int64(inode.gid)).bind(first + 4, inode.size).bind(first + 5, inode.mtime)
            .bind(first + 6, Int64(inode.mtimeNanoseconds)).bind(first + 7, Int64(bitPattern: inode.device))
            .bind(first + 8, Int64(inode.nlink)).bind(first + 9, inode.content?.row)
        if let target { inodes.statement.bind(first + 10, blob: target) } else { inodes.statement.bindNull(first + 10) }
        inodes.statement.bind(first + 11, directory.map { id - $0 })
        return id
    }

    /// Names an inode. A directory must be named before its entries; it is fastest in the order of parent and name.
    public func addEntry(parent: Int64, name: UnsafeRawBufferPointer, inode: Int64) throws {
        if inode != firstInode, paths[inode] != nil {
            var path = paths[parent] ?? []
            if !path.isEmpty { path.append(UInt8(ascii: "/")) }
            path.append(contentsOf: name)
            paths[inode] = path
        }
        let first = try dirents.next()
        dirents.statement.bind(first, parent).bind(first + 1, blob: name).bind(first + 2, inode)
    }

    public func addXattr(inode: Int64, name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) throws {
        try insertXattr.bind(1, inode).bind(2, blob: name).bind(3, blob: value).run()
    }

    /// Records that the layer does not list this directory, whose path within the layer has no leading slash.
    public func markImplicit(inode: Int64, path: [UInt8]) throws {
        try insertImplicit.bind(1, inode).bind(2, blob: path).run()
    }
}
