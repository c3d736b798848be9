public import LaminaDigest
import LaminaSQLite

/// A file's bytes as a TOC lists them.
public struct ImportedContent: Sendable {
    public var digest: Digest
    public var size: Int64
    /// In file order, tiling the file.
    public var chunks: [ImportedChunk]

    public init(digest: Digest, size: Int64, chunks: [ImportedChunk]) {
        self.digest = digest
        self.size = size
        self.chunks = chunks
    }
}

extension LayerImporter {
    /// The same as `addContent` for each, but faster.
    public func addContents(_ contents: [ImportedContent]) throws -> [ContentID] {
        var ids: [ContentID] = []
        ids.reserveCapacity(contents.count)
        var start = 0
        while start < contents.count {
            let rest = contents[start...].prefix(RowInserter.rowLimit)
            let batch = rest.prefix { $0.chunks.count == 1 && isolation == nil }
            if batch.isEmpty {
                ids.append(
                    try addContent(digest: rest[start].digest, size: rest[start].size, chunks: rest[start].chunks))
                start += 1
            } else if let first = try insertNew(batch) {
                for (number, content) in batch.enumerated() {
                    ids.append(ContentID(first + Int64(number)))
                    try addSources(of: ids[ids.count - 1], content.chunks)
                }
                start = batch.endIndex
            } else {
                // Some were there already; it is asked one by one which, and whether their sizes agree.
                for content in batch {
                    ids.append(try addContent(digest: content.digest, size: content.size, chunks: content.chunks))
                }
                start = batch.endIndex
            }
        }
        return ids
    }

    /// Inserts contents of one chunk.
    ///
    /// - Returns: the number of the first, which the others follow; nil if at least one of them was there.
    private func insertNew(_ contents: ArraySlice<ImportedContent>) throws -> Int64? {
        // The writer's lock is held, so no other code takes numbers.
        let first = try nextContent ?? database.integer("SELECT \(Writer.nextContent)") ?? 1
        for (number, content) in contents.enumerated() {
            let parameter = try newContents.next()
            newContents.statement.bind(parameter, first + Int64(number)).bind(parameter + 1, digest: content.digest)
                .bind(parameter + 2, content.size).bind(parameter + 3, group)
        }
        try newContents.finish()
        let next = first + Int64(contents.count)
        nextContent = next
        files.begin(at: first)
        guard database.changes == contents.count else {
            uncounted = Set(first..<next)
            return nil
        }
        var totals = GroupTotals()
        for content in contents { totals += .absent(size: content.size) }
        writer.groups.add(totals, to: group)
        writer.groups.extend(group, first...(next - 1))
        return first
    }

    private func addSources(of content: ContentID, _ chunks: [ImportedChunk]) throws {
        for chunk in chunks {
            let first = try sources.next()
            sources.statement.bind(first, layer.row).bind(first + 1, chunk.blobOffset)
                .bind(first + 2, chunk.innerOffset).bind(first + 3, content.row).bind(first + 4, chunk.offset)
                .bind(first + 5, chunk.blobSize)
        }
    }

    /// Adds a file's bytes, or finds the content that has them: with the same digest and, for several chunks, the same chunk
    /// list.
    ///
    /// - Parameter chunks: in file order, tiling the file.
    public func addContent(digest: Digest, size: Int64, chunks: [ImportedChunk]) throws -> ContentID {
        var claim = chunks.count > 1 || isolation != nil ? Self.claim(chunks, isolation) : nil
        var (content, isNew) = try insertOrFind(digest, claim, size)
        if isNew, isolation != nil {
            try database.cached("UPDATE content SET isolated = 1 WHERE id = ?").bind(1, content.id.row).run()
        }
        if claim == nil, content.size != size {
            // Some layer lies about the size of these bytes. It is not known yet which one, so they are kept apart.
            claim = Self.claim(chunks)
            (content, isNew) = try insertOrFind(digest, claim, size)
        }
        if isNew, claim != nil {
            for chunk in chunks {
                try insertChunk.bind(1, content.id.row).bind(2, chunk.offset).bind(3, chunk.size)
                    .bind(4, digest: chunk.digest).run()
            }
        }
        try addSources(of: content.id, chunks)
        return content.id
    }

    /// Most contents are new: only what could not be inserted is looked up.
    private func insertOrFind(
        _ digest: Digest, _ claim: Digest?, _ size: Int64
    ) throws -> (content: (id: ContentID, size: Int64), isNew: Bool) {
        insertContent.bind(1, digest: digest)
        bindClaim(claim, to: insertContent)
        try insertContent.bind(3, size).bind(4, group).run()
        if database.changes > 0 {
            nextContent = nil
            let id = ContentID(database.lastInsertedRow)
            files.begin(at: id.row)
            countNew(id, size)
            return ((id, size), true)
        }
        guard let known = try find(digest, claim) else {
            throw StoreError(.damaged, "the index has and has not the content \(digest)")
        }
        if known.group != group { shared.insert(known.id) }
        // Its batch could not be counted as one.
        if uncounted.remove(known.id.row) != nil { countNew(known.id, known.size) }
        return ((known.id, known.size), false)
    }

    private func countNew(_ content: ContentID, _ size: Int64) {
        writer.groups.add(.absent(size: size), to: group)
        writer.groups.extend(group, content.row...content.row)
    }

    private func find(_ digest: Digest, _ claim: Digest?) throws -> (id: ContentID, size: Int64, group: Int64)? {
        findContent.bind(1, digest: digest)
        bindClaim(claim, to: findContent)
        return try findContent.first { (ContentID($0.integer(0)), $0.integer(1), $0.integer(2)) }
    }

    private func bindClaim(_ claim: Digest?, to statement: Statement) {
        if let claim { statement.bind(2, digest: claim) } else { statement.bind(2, blob: []) }
    }

    /// SHA-256 of the chunk list: two layers that claim one digest share its bytes unproven only when they agree on it. With the
    /// repository, where its files are its own.
    fileprivate static func claim(_ chunks: [ImportedChunk], _ isolation: String? = nil) -> Digest {
        var hash = SHA256()
        for chunk in chunks {
            withUnsafeBytes(of: (chunk.offset.littleEndian, chunk.size.littleEndian)) { hash.update($0) }
            chunk.digest.withUnsafeBytes { hash.update($0) }
        }
        if let isolation { Array(isolation.utf8).withUnsafeBytes { hash.update($0) } }
        return hash.digest()
    }
}

extension BackingName {
    /// The name of a file of one chunk, as an import will look for it: that of its digest.
    ///
    /// - Parameter isolation: the repository whose file it is alone; then the name is its own.
    public static func ofOneChunk(_ digest: Digest, size: Int64, isolation: String?) -> BackingName {
        guard let isolation else { return BackingName(digest: digest, claim: nil) }
        let chunk = ImportedChunk(offset: 0, size: size, digest: digest, blobOffset: 0, blobSize: 0, innerOffset: 0)
        return BackingName(digest: digest, claim: LayerImporter.claim([chunk], isolation))
    }
}

/// How many inodes of a layer have each content. The contents that this layer is the first to have are numbered one after the
/// other.
struct FileCounts {
    fileprivate var first = Int64.max
    fileprivate var new: [Int32] = []
    fileprivate var others: [ContentID: Int64] = [:]

    /// Notes that contents from this number on are the layer's own.
    mutating func begin(at content: Int64) { first = min(first, content) }

    mutating func add(_ content: ContentID) {
        guard content.row >= first else {
            others[content, default: 0] += 1
            return
        }
        let place = Int(content.row - first)
        if place >= new.count { new.append(contentsOf: repeatElement(0, count: place + 1 - new.count)) }
        new[place] += 1
    }
}

extension GroupTotals {
    /// For a content of which no byte is here, and which one file has.
    fileprivate static func absent(size: Int64) -> Self { Self(contents: 1, bytes: size, fileBytes: size) }
}

extension LayerImporter {
    /// Records for each content of the layer how many of its inodes have it, and moves the shared ones into their own groups.
    /// Call it after all rows are in.
    func countFiles() throws {
        // A group that is left without contents is deleted.
        writer.groups.add(GroupTotals(), to: group)
        var derived: [Int64: Derived] = [:]
        let move = try database.cached("UPDATE content SET content_group = ?2, files = ?3 WHERE id = ?1")
        for content in shared.sorted() {
            guard let before = try writer.counted(content) else { continue }
            let target = try derived[before.group] ?? derive(from: before.group)
            derived[before.group] = target
            let inodes = files.others[content] ?? 0
            var after = before
            after.group = target.group
            // If no layer had it, it belongs to no file, whatever its row says.
            after.files = (target.hadLayers ? before.files : 0) + inodes
            try move.bind(1, content.row).bind(2, after.group).bind(3, after.files).run()
            writer.groups.note(before, after)
            if inodes != 1 { try noteRepeated(content, inodes) }
        }
        let own = files.new.indices.lazy.map { (ContentID(self.files.first + Int64($0)), Int64(self.files.new[$0])) }
        let landed = files.others.lazy.filter { !self.shared.contains($0.key) }.map { ($0.key, $0.value) }
        for (content, inodes) in own where inodes != 1 { try setFiles(inodes, of: content) }
        for (content, inodes) in landed where inodes != 1 { try setFiles(inodes, of: content) }
    }

    private struct Derived {
        var group: Int64
        var hadLayers: Bool
    }

    /// The group of contents that the layers of another group have, and this layer too.
    private func derive(from other: Int64) throws -> Derived {
        let isOfLayers = try database.cached("SELECT 1 FROM layer_group WHERE content_group = ? LIMIT 1").bind(1, other)
            .first { _ in true }
        guard isOfLayers != nil else { return Derived(group: group, hadLayers: false) }
        let new = try writer.addGroup()
        try database.cached(
            "INSERT INTO layer_group SELECT layer, ?2 FROM layer_group WHERE content_group = ?1 UNION ALL SELECT ?3, ?2"
        ).bind(1, other).bind(2, new).bind(3, layer.row).run()
        return Derived(group: new, hadLayers: true)
    }

    private func setFiles(_ inodes: Int64, of content: ContentID) throws {
        guard let before = try writer.counted(content) else { return }
        try database.cached("UPDATE content SET files = ?2 WHERE id = ?1").bind(1, content.row).bind(2, inodes).run()
        var after = before
        after.files = inodes
        writer.groups.note(before, after)
        try noteRepeated(content, inodes)
    }

    private func noteRepeated(_ content: ContentID, _ inodes: Int64) throws {
        try database.cached("INSERT INTO repeated_content (layer, content, inodes) VALUES (?, ?, ?)").bind(1, layer.row)
            .bind(2, content.row).bind(3, inodes).run()
    }
}
