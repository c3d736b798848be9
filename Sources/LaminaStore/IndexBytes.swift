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

    /// What the bytes of a value take with what is left over of their pages, by SQLite's rules for a page of 4,096 bytes ("Database File
    /// Format", 1.6): a row goes into one page where it fits, and what is too long goes into pages of its own.
    public struct Rows: Sendable {
        /// Values up to here share a page with so many others that little is left over, in bytes.
        private static let short: Int64 = 200
        /// What a page has for rows, and a page of one long value for its bytes.
        private static let (page, room, overflowRoom): (Int64, Int64, Int64) = (4096, 4064, 4092)
        /// What of a long value may be in the row's page all the same.
        private static let head: Int64 = 490

        /// The longest value that fits into a page with the rest of its row.
        private let longest: Int64
        /// The rest of its row.
        private let rest: Int64

        /// Of a table with row IDs.
        public static let ofTable = Rows(longest: 4_000, rest: 40)
        /// Of a table without, which is kept as an index is: four rows go into each page.
        public static let ofIndex = Rows(longest: 960, rest: 40)

        /// What a value of a length takes, in bytes.
        public func bytes(_ length: Int64) -> Int64 {
            if length <= Self.short { return length }
            if length <= longest { return Self.page / (Self.room / (length + rest)) }
            return (length / Self.overflowRoom + 1) * Self.page + Self.head
        }

        /// The same in SQL.
        func sum(_ length: String) -> String {
            """
            coalesce(sum(CASE WHEN \(length) <= \(Self.short) THEN \(length)
                WHEN \(length) <= \(longest) THEN \(Self.page) / (\(Self.room) / (\(length) + \(rest)))
                ELSE (\(length) / \(Self.overflowRoom) + 1) * \(Self.page) + \(Self.head) END), 0)
            """
        }
    }
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
                    + (SELECT \(IndexBytes.Rows.ofTable.sum("length(target)")) FROM inode WHERE id BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT count(*) * \(IndexBytes.name) + coalesce(sum(length(name)), 0) FROM dirent
                        WHERE parent BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT count(*) * \(IndexBytes.directory) + \(IndexBytes.Rows.ofTable.sum("length(path)")) FROM directory
                        WHERE inode BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT \(IndexBytes.Rows.ofTable.sum("length(path)")) FROM implicit_directory
                        WHERE inode BETWEEN l.first_inode AND l.last_inode)
                    + (SELECT count(*) * \(IndexBytes.name) + \(IndexBytes.Rows.ofIndex.sum("(length(name) + length(value))")) FROM xattr
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
