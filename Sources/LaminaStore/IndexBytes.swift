import LaminaSQLite

/// About how many bytes of the index a layer takes. Whoever counts them says how many rows of which kind there are.
public struct IndexBytes: Sendable, Equatable {
    public var bytes: Int64

    public init(bytes: Int64) { self.bytes = bytes }

    /// An entry of a usual layer: a file with its name, its digest and where its bytes are.
    public static let entry: Int64 = 170

    // What a row takes, with what SQLite's own indexes have of it, besides names and the like.
    public static let inode: Int64 = 34
    /// Of a file or an attribute.
    public static let name: Int64 = 14
    public static let directory: Int64 = 12
    public static let content: Int64 = 96
    /// Where a chunk is in a blob.
    public static let source: Int64 = 52
    /// What a chunk is, if its content has several.
    public static let chunk: Int64 = 100
}

extension Index {
    /// What a layer takes. Looks at all of its rows: a tenth of a second for a hundred thousand entries.
    ///
    /// - Throws: `StoreError`; `notFound` if the layer is gone.
    public func bytes(of layer: LayerID) throws -> IndexBytes {
        try read { database in
            let sum = try database.cached(
                """
                SELECT (l.last_inode - l.first_inode + 1) * \(IndexBytes.inode)
                    + (SELECT coalesce(sum(length(target)), 0) FROM inode WHERE id BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT count(*) * \(IndexBytes.name) + coalesce(sum(length(name)), 0) FROM dirent
                        WHERE parent BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT count(*) * \(IndexBytes.directory) + coalesce(sum(length(path)), 0) FROM directory
                        WHERE inode BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT coalesce(sum(length(path)), 0) FROM implicit_directory
                        WHERE inode BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT count(*) * \(IndexBytes.name) + coalesce(sum(length(name) + length(value)), 0) FROM xattr
                        WHERE inode BETWEEN l.first_inode AND l.last_inode)
                    -- A file of one chunk has a row of content for it, others one of chunk for each.
                    + (SELECT count(*) * \(IndexBytes.source + IndexBytes.content) FROM chunk_source WHERE layer = l.id)
                    + (SELECT coalesce(sum(length(bytes)), 0) FROM tar_part WHERE layer = l.id)
                FROM layer l WHERE l.id = ?
                """
            ).bind(1, layer.row).first { $0.integer(0) }
            guard let sum else { throw StoreError(.notFound, "\(layer) is not in the index") }
            return IndexBytes(bytes: sum)
        }
    }
}
