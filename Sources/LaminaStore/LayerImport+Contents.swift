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
    /// As `addContent` for each, in less time.
    public func addContents(_ contents: [ImportedContent]) throws -> [ContentID] {
        var ids: [ContentID] = []
        ids.reserveCapacity(contents.count)
        var start = 0
        while start < contents.count {
            let rest = contents[start...].prefix(RowInserter.rowLimit)
            let batch = rest.prefix { $0.chunks.count == 1 }
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
                // Some were there; which they were, and whether they are as large, is asked one by one.
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
    /// - Returns: the number of the first, which the others follow; nil if one of them, or some, were there.
    private func insertNew(_ contents: ArraySlice<ImportedContent>) throws -> Int64? {
        // The writer's lock is held: nobody else takes numbers.
        let first = try nextContent ?? database.integer("SELECT \(Writer.nextContent)") ?? 1
        for (number, content) in contents.enumerated() {
            let parameter = try newContents.next()
            newContents.statement.bind(parameter, first + Int64(number)).bind(parameter + 1, digest: content.digest)
                .bind(parameter + 2, content.size)
        }
        try newContents.finish()
        nextContent = first + Int64(contents.count)
        return database.changes == contents.count ? first : nil
    }

    private func addSources(of content: ContentID, _ chunks: [ImportedChunk]) throws {
        for chunk in chunks {
            let first = try sources.next()
            sources.statement.bind(first, layer.row).bind(first + 1, chunk.blobOffset)
                .bind(first + 2, chunk.innerOffset).bind(first + 3, content.row).bind(first + 4, chunk.offset)
                .bind(first + 5, chunk.blobSize)
        }
    }

    /// Adds a file's bytes, or finds them: the content with the same digest and, for several chunks, the same chunk list.
    ///
    /// - Parameter chunks: in file order, tiling the file.
    public func addContent(digest: Digest, size: Int64, chunks: [ImportedChunk]) throws -> ContentID {
        var claim = chunks.count > 1 ? Self.claim(chunks) : nil
        var (content, isNew) = try insertOrFind(digest, claim, size)
        if claim == nil, content.size != size {
            // Some layer lies about the size of these bytes. Nobody knows yet which one, so they are kept apart.
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

    /// Most contents are new: it is looked for only what could not be inserted.
    private func insertOrFind(
        _ digest: Digest, _ claim: Digest?, _ size: Int64
    ) throws -> (content: (id: ContentID, size: Int64), isNew: Bool) {
        insertContent.bind(1, digest: digest)
        bindClaim(claim, to: insertContent)
        try insertContent.bind(3, size).run()
        if database.changes > 0 {
            nextContent = nil
            return ((ContentID(database.lastInsertedRow), size), true)
        }
        guard let known = try find(digest, claim) else {
            throw StoreError(.damaged, "the index has and has not the content \(digest)")
        }
        return (known, false)
    }

    private func find(_ digest: Digest, _ claim: Digest?) throws -> (id: ContentID, size: Int64)? {
        findContent.bind(1, digest: digest)
        bindClaim(claim, to: findContent)
        return try findContent.first { (ContentID($0.integer(0)), $0.integer(1)) }
    }

    private func bindClaim(_ claim: Digest?, to statement: Statement) {
        if let claim { statement.bind(2, digest: claim) } else { statement.bind(2, blob: []) }
    }

    /// SHA-256 of the chunk list: two layers that claim one digest share its bytes unproven only when they agree on it.
    private static func claim(_ chunks: [ImportedChunk]) -> Digest {
        var hash = SHA256()
        for chunk in chunks {
            withUnsafeBytes(of: (chunk.offset.littleEndian, chunk.size.littleEndian)) { hash.update($0) }
            chunk.digest.withUnsafeBytes { hash.update($0) }
        }
        return hash.digest()
    }
}
