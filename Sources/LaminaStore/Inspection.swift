import LaminaDigest
import LaminaSQLite

// What `lamina inspect` prints: single things of the store with all that the views say of them. Field names are the JSON's.

/// An image, with its layers from the lowest.
public struct ImageInspection: Sendable, Codable, Equatable {
    public var image: ImageStatus
    public var layers: [LayerInspection]
    public var mounts: [MountStatus]
}

/// A layer: a row of the view `layer_status`, and what is near it.
public struct LayerInspection: Sendable, Codable, Equatable {
    public var digest: String
    public var diffID: String?
    public var tocDigest: String?
    public var format: String
    public var compressedBytes: Int64
    public var contents: Int64
    public var mergedContents: Int64
    public var bytes: Int64
    public var landedBytes: Int64
    /// `absent`, `partial` or `complete`.
    public var state: String
    public var indexedAt: String
    public var tocProof: String
    public var blobProvenAt: String?
    public var chunksProvenAt: String?
    public var filesProvenAt: String?
    public var diffIDProof: String
    public var diffIDProvenAt: String?
    public var computedDiffID: String?
    /// Why nothing of it is served any more.
    public var quarantine: String?
    /// The images that have it, by reference.
    public var images: [String]
    /// Where its blob can be fetched, the newest first.
    public var sources: [String]
}

/// A content: a row of the view `content_status`, and what has it.
public struct ContentInspection: Sendable, Codable, Equatable {
    /// A file that has these bytes.
    public struct File: Sendable, Codable, Equatable {
        public var layer: String
        public var path: String
    }

    public var digest: String
    public var bytes: Int64
    public var landedBytes: Int64
    /// `absent`, `partial` or `merged`.
    public var state: String
    /// `claimed`, `proven` or `disproven`.
    public var proof: String
    public var durable: String
    /// The images that have it, by reference.
    public var images: [String]
    public var files: [File]
}

extension Index {
    /// An image with its layers and mounts; nil if it is not there any more.
    public func inspect(image record: ImageRecord) throws -> ImageInspection? {
        func isIt(_ reference: String, _ platform: String) -> Bool {
            reference == record.reference && platform == record.platform
        }
        guard let image = try imageStatus().first(where: { isIt($0.reference, $0.platform) }) else { return nil }
        let layers = try read { database in
            try Self.layers(
                database,
                """
                JOIN image_layer AS il ON il.layer = s.layer_row
                JOIN image AS m ON m.id = il.image
                WHERE m.reference = ?1 AND m.platform = ?2 ORDER BY il.position
                """, record.reference, record.platform)
        }
        return ImageInspection(
            image: image, layers: layers, mounts: try mountStatus().filter { isIt($0.reference, $0.platform) })
    }

    /// The layers whose digest begins like this, `sha256:` included.
    public func inspect(layersWithPrefix prefix: String) throws -> [LayerInspection] {
        try read { database in
            try Self.layers(database, "WHERE substr(s.digest, 1, length(?1)) = ?1 ORDER BY s.digest", prefix)
        }
    }

    private static func layers(_ database: Connection, _ rest: String, _ texts: String...) throws -> [LayerInspection] {
        let statement = try database.cached(
            """
            SELECT s.digest, s.diff_id, s.toc_digest, s.format, s.compressed_bytes, s.contents, s.merged_contents, s.bytes,
                   s.landed_bytes, s.state, s.indexed_at, s.toc_proof, s.blob_proven_at, s.chunks_proven_at,
                   s.files_proven_at, s.diff_id_proof, s.diff_id_proven_at, s.computed_diff_id, s.layer_row, s.quarantine
            FROM layer_status AS s \(rest)
            """
        )
        for (number, text) in texts.enumerated() { statement.bind(Int32(number + 1), text: text) }
        let rows = try statement.map {
            (
                $0.integer(18),
                LayerInspection(
                    digest: $0.text(0), diffID: $0.optionalText(1), tocDigest: $0.optionalText(2), format: $0.text(3),
                    compressedBytes: $0.integer(4), contents: $0.integer(5), mergedContents: $0.integer(6),
                    bytes: $0.integer(7), landedBytes: $0.integer(8), state: $0.text(9), indexedAt: $0.text(10),
                    tocProof: $0.text(11), blobProvenAt: $0.optionalText(12), chunksProvenAt: $0.optionalText(13),
                    filesProvenAt: $0.optionalText(14), diffIDProof: $0.text(15), diffIDProvenAt: $0.optionalText(16),
                    computedDiffID: $0.optionalText(17), quarantine: $0.optionalText(19), images: [], sources: [])
            )
        }
        return try rows.map { layer, row in
            var row = row
            row.images = try database.cached(
                """
                SELECT DISTINCT m.reference FROM image_layer AS il JOIN image AS m ON m.id = il.image
                WHERE il.layer = ? ORDER BY 1
                """
            ).bind(1, layer).map { $0.text(0) }
            row.sources = try database.cached(
                """
                SELECT location FROM layer_source WHERE layer = ? ORDER BY added DESC
                """
            ).bind(1, layer).map { $0.text(0) }
            return row
        }
    }

    /// The contents whose digest begins like this, `sha256:` included. Looks through the names of the layers that have them: about
    /// 50 ms for 100,000.
    ///
    /// - Parameter limit: how many contents are looked at; usually one is wanted.
    public func inspect(contentsWithPrefix prefix: String, limit: Int) throws -> [ContentInspection] {
        try read { database in
            guard let range = Self.digests(withPrefix: prefix) else { return [] }
            let rows = try database.cached(
                """
                SELECT digest, bytes, landed_bytes, state, proof, durable, digest_bytes FROM content_status
                WHERE digest_bytes BETWEEN ?1 AND ?2 ORDER BY digest_bytes LIMIT ?3
                """
            ).bind(1, blob: range.first).bind(2, blob: range.last).bind(3, Int64(limit)).map {
                (
                    ContentInspection(
                        digest: $0.text(0), bytes: $0.integer(1), landedBytes: $0.integer(2), state: $0.text(3),
                        proof: $0.text(4), durable: $0.text(5), images: [], files: []), Array($0.blob(6))
                )
            }
            return try rows.map { row, digest in
                var row = row
                row.images = try database.cached(
                    "SELECT DISTINCT reference FROM image_content WHERE digest_bytes = ? ORDER BY reference"
                ).bind(1, blob: digest).map { $0.text(0) }
                row.files = try database.cached(
                    """
                    SELECT 'sha256:' || lower(hex(l.digest)),
                        CASE p.path WHEN x'' THEN '/' ELSE '/' || CAST(p.path AS TEXT) || '/' END || CAST(d.name AS TEXT)
                    FROM content c
                    CROSS JOIN layer_group lg ON lg.content_group = c.content_group
                    CROSS JOIN layer l ON l.id = lg.layer
                    CROSS JOIN dirent d ON d.parent BETWEEN l.first_inode AND l.last_inode
                    CROSS JOIN inode i ON i.id = d.inode
                    CROSS JOIN directory p ON p.inode = d.parent
                    WHERE c.digest = ?1 AND i.content = c.id
                    ORDER BY 1, 2
                    """
                ).bind(1, blob: digest).map { ContentInspection.File(layer: $0.text(0), path: $0.text(1)) }
                return row
            }
        }
    }

    /// The digests that begin like this text, as bytes: the least and the greatest; nil if no digest can begin like that.
    private static func digests(withPrefix prefix: String) -> (first: [UInt8], last: [UInt8])? {
        let scheme = "sha256:"
        guard prefix.hasPrefix(scheme) else {
            return scheme.hasPrefix(prefix) ? ([], [UInt8](repeating: 0xff, count: 32)) : nil
        }
        let digits = prefix.dropFirst(scheme.count)
        guard digits.count <= 64, digits.utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) }) else {
            return nil
        }
        func bytes(filledWith digit: String) -> [UInt8] {
            var rest = (digits + String(repeating: digit, count: 64 - digits.count))[...]
            var bytes: [UInt8] = []
            while !rest.isEmpty {
                bytes.append(UInt8(rest.prefix(2), radix: 16) ?? 0)
                rest = rest.dropFirst(2)
            }
            return bytes
        }
        return (bytes(filledWith: "0"), bytes(filledWith: "f"))
    }

    /// What the layers of an image have at a path, from the lowest. Costs a search for each of the path's names in each layer.
    ///
    /// - Parameter path: from the image's root, with a leading slash and without a trailing one.
    public func inspect(path: String, of image: ImageRecord) throws -> [FileStatus] {
        try read { database in
            try image.layers.compactMap { layer in
                guard let inode = try database.inode(at: Array(path.utf8), in: layer) else { return nil }
                // The same as the view `file`, which would go through all names of the layer.
                return try database.cached(
                    """
                    SELECT CASE i.mode & 61440
                            WHEN 32768 THEN 'file' WHEN 16384 THEN 'directory' WHEN 40960 THEN 'symlink'
                            WHEN 8192 THEN 'character device' WHEN 24576 THEN 'block device' WHEN 4096 THEN 'fifo'
                            ELSE 'other' END,
                        printf('%04o', i.mode & 4095), i.uid, i.gid, i.size,
                        strftime('%Y-%m-%dT%H:%M:%SZ', i.mtime, 'unixepoch'), CAST(i.target AS TEXT),
                        CASE WHEN c.id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(c.digest)) END,
                        CASE c.state WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' WHEN 0 THEN 'absent' END,
                        'sha256:' || lower(hex(l.digest))
                    FROM layer l JOIN inode i ON i.id = ?2 LEFT JOIN content c ON c.id = i.content WHERE l.id = ?1
                    """
                ).bind(1, layer.row).bind(2, inode).first {
                    FileStatus(
                        path: path, type: $0.text(0), mode: $0.text(1), uid: $0.integer(2), gid: $0.integer(3),
                        bytes: $0.integer(4), modifiedAt: $0.text(5), target: $0.optionalText(6),
                        digest: $0.optionalText(7), state: $0.optionalText(8), layer: $0.text(9))
                }
            }
        }
    }
}
