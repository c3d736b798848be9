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
    /// The images that have it, by reference.
    public var images: [String]
    /// Where its blob can be had, the newest first.
    public var sources: [String]
}

/// A content: a row of the view `content_status`, and who has it.
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
    /// An image with its layers and mounts; nil where it is not there any more.
    public func inspect(image record: ImageRecord) throws -> ImageInspection? {
        func isIt(_ reference: String, _ platform: String) -> Bool {
            reference == record.reference && platform == record.platform
        }
        guard let image = try imageStatus().first(where: { isIt($0.reference, $0.platform) }) else { return nil }
        let layers = try read { database in
            try Self.layers(
                database,
                """
                JOIN layer AS b ON 'sha256:' || lower(hex(b.digest)) = s.digest
                JOIN image_layer AS il ON il.layer = b.id
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
                   s.files_proven_at, s.diff_id_proof, s.diff_id_proven_at, s.computed_diff_id
            FROM layer_status AS s \(rest)
            """
        )
        for (number, text) in texts.enumerated() { statement.bind(Int32(number + 1), text: text) }
        let rows = try statement.map {
            LayerInspection(
                digest: $0.text(0), diffID: $0.optionalText(1), tocDigest: $0.optionalText(2), format: $0.text(3),
                compressedBytes: $0.integer(4), contents: $0.integer(5), mergedContents: $0.integer(6),
                bytes: $0.integer(7), landedBytes: $0.integer(8), state: $0.text(9), indexedAt: $0.text(10),
                tocProof: $0.text(11), blobProvenAt: $0.optionalText(12), chunksProvenAt: $0.optionalText(13),
                filesProvenAt: $0.optionalText(14), diffIDProof: $0.text(15), diffIDProvenAt: $0.optionalText(16),
                computedDiffID: $0.optionalText(17), images: [], sources: [])
        }
        return try rows.map { row in
            var row = row
            guard let digest = Digest(parsing: row.digest) else { return row }
            row.images = try database.cached(
                """
                SELECT DISTINCT m.reference FROM layer AS l JOIN image_layer AS il ON il.layer = l.id
                JOIN image AS m ON m.id = il.image WHERE l.digest = ? ORDER BY 1
                """
            ).bind(1, digest: digest).map { $0.text(0) }
            row.sources = try database.cached(
                """
                SELECT p.location FROM layer AS l JOIN layer_source AS p ON p.layer = l.id
                WHERE l.digest = ? ORDER BY p.added DESC
                """
            ).bind(1, digest: digest).map { $0.text(0) }
            return row
        }
    }

    /// The contents whose digest begins like this, `sha256:` included. Walks the trees of all layers, about a second for
    /// 100,000 paths.
    ///
    /// - Parameter limit: so many contents are looked at; what is asked for is one.
    public func inspect(contentsWithPrefix prefix: String, limit: Int) throws -> [ContentInspection] {
        try read { database in
            let rows = try database.cached(
                """
                SELECT digest, bytes, landed_bytes, state, proof, durable FROM content_status
                WHERE substr(digest, 1, length(?1)) = ?1 ORDER BY digest LIMIT ?2
                """
            ).bind(1, text: prefix).bind(2, Int64(limit)).map {
                ContentInspection(
                    digest: $0.text(0), bytes: $0.integer(1), landedBytes: $0.integer(2), state: $0.text(3),
                    proof: $0.text(4), durable: $0.text(5), images: [], files: [])
            }
            return try rows.map { row in
                var row = row
                row.images = try database.cached(
                    "SELECT DISTINCT reference FROM image_content WHERE digest = ? ORDER BY reference"
                ).bind(1, text: row.digest).map { $0.text(0) }
                row.files = try database.cached("SELECT layer, path FROM file WHERE digest = ? ORDER BY layer, path")
                    .bind(1, text: row.digest).map { ContentInspection.File(layer: $0.text(0), path: $0.text(1)) }
                return row
            }
        }
    }

    /// What the layers of an image have at a path, from the lowest.
    ///
    /// - Parameter path: from the image's root, with a leading slash and without a trailing one.
    public func inspect(path: String, of image: ImageRecord) throws -> [FileStatus] {
        try files(of: image).filter { $0.path == path }
    }
}
