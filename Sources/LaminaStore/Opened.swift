import LaminaDigest
import LaminaSQLite

// The order in which the files of an image were first opened. Opens come as inodes; paths are kept, because the next version of
// the image has other inodes.

extension Store {
    /// No more files of one image are kept: a program that starts opens some hundreds.
    static let openedLimit: Int64 = 4096
    /// For how many images of one repository the lists are kept.
    private static let listsOfRepository: Int64 = 4

    /// Adds inodes, in the order of their first opens, to the lists of their images: those that are mounted and have the
    /// inode's layer, or, if none is mounted, all that have it.
    func recordOpened(_ inodes: [Int64]) throws {
        let (paths, images) = try index.read { database in
            let paths = try database.paths(of: inodes)
            return (paths, try database.images(of: Set(paths.values.map(\.layer))))
        }
        guard !images.isEmpty else { return }
        try write { writer in
            for image in images {
                let wanted = inodes.compactMap { paths[$0] }.filter { image.layers.contains($0.layer) }.map(\.path)
                try writer.addOpened(wanted, to: image)
            }
        }
    }

    fileprivate static func prune(_ database: Connection, _ repository: String) throws {
        try database.cached(
            """
            DELETE FROM opened_image WHERE repository = ?1 AND id NOT IN
                (SELECT id FROM opened_image WHERE repository = ?1 ORDER BY id DESC LIMIT ?2)
            """
        ).bind(1, text: repository).bind(2, listsOfRepository).run()
    }
}

extension Index {
    /// The paths that were first opened in an image, in their order, without a leading slash. If nothing is known for this
    /// image, the list of an earlier one: of the same reference, else of the same repository.
    public func opened(of image: ImageRecord) throws -> [[UInt8]] {
        try opened(of: SnapshotImage(reference: image.reference, manifest: image.manifestDigest))
    }

    /// The same for an image of containerd.
    public func opened(of image: SnapshotImage) throws -> [[UInt8]] {
        try read { database in
            try database.cached(
                """
                SELECT path FROM opened WHERE image = (
                    SELECT id FROM opened_image WHERE repository = ?3
                    ORDER BY manifest_digest = ?2 DESC, reference = ?1 DESC, id DESC LIMIT 1)
                ORDER BY position
                """
            ).bind(1, text: image.reference).bind(2, digest: image.manifest)
                .bind(3, text: ImageRecord.repository(of: image.reference)).map { Array($0.blob(0)) }
        }
    }

    /// Those of the first opened files whose bytes the store does not have, each in the layer that it belongs to.
    ///
    /// - Parameter layers: bottom first.
    public func unmergedOpened(_ paths: [[UInt8]], in layers: [LayerID]) throws -> [LayerID: [UnmergedContent]] {
        try read { database in
            var result: [LayerID: [UnmergedContent]] = [:]
            var seen: Set<ContentID> = []
            for path in paths {
                // A file belongs to the last layer that has it.
                for layer in layers.reversed() {
                    guard let inode = try database.inode(at: path, in: layer) else { continue }
                    if let content = try database.unmerged(ofInode: inode, in: layer),
                        seen.insert(content.content.id).inserted
                    {
                        result[layer, default: []].append(content)
                    }
                    break
                }
            }
            return result
        }
    }
}

extension ImageRecord {
    /// The reference without tag and digest.
    static func repository(of reference: String) -> String {
        var name = reference[...]
        if let at = name.firstIndex(of: "@") { name = name[..<at] }
        // A colon before a slash belongs to a port, or to `oci:`.
        if let colon = name.lastIndex(of: ":"), !name[colon...].contains("/") { name = name[..<colon] }
        return String(name)
    }
}

private struct OpenedImage {
    var reference: String
    var manifest: Digest
    var layers: Set<LayerID>
}

extension Writer {
    fileprivate func addOpened(_ paths: [[UInt8]], to image: OpenedImage) throws {
        guard !paths.isEmpty else { return }
        let repository = ImageRecord.repository(of: image.reference)
        try connection.cached(
            "INSERT OR IGNORE INTO opened_image (reference, repository, manifest_digest) VALUES (?, ?, ?)"
        ).bind(1, text: image.reference).bind(2, text: repository).bind(3, digest: image.manifest).run()
        if connection.changes > 0 { try Store.prune(connection, repository) }
        let list = try connection.cached("SELECT id FROM opened_image WHERE reference = ? AND manifest_digest = ?")
            .bind(1, text: image.reference).bind(2, digest: image.manifest).first { $0.integer(0) }
        guard let list else { return }
        // Counted once: when each path was counted, that took the writer's connection for seconds after a walk through an
        // image.
        var (count, position) =
            try connection.cached("SELECT count(*), coalesce(max(position), 0) FROM opened WHERE image = ?")
            .bind(1, list).first { ($0.integer(0), $0.integer(1)) } ?? (0, 0)
        let add = try connection.cached("INSERT OR IGNORE INTO opened (image, position, path) VALUES (?, ?, ?)")
        for path in paths {
            guard count < Store.openedLimit else { break }
            try add.bind(1, list).bind(2, position + 1).bind(3, blob: path).run()
            guard connection.changes > 0 else { continue }
            count += 1
            position += 1
        }
    }
}

extension Connection {
    /// The paths of inodes in their layers: looks through each directory that they are in.
    fileprivate func paths(of inodes: [Int64]) throws -> [Int64: (layer: LayerID, path: [UInt8])] {
        let layers = try cached("SELECT id, first_inode, last_inode FROM layer")
            .map { (id: LayerID($0.integer(0)), inodes: $0.integer(1)...$0.integer(2)) }
        var parents: [Int64: [Int64]] = [:]
        for inode in inodes {
            let up = try cached("SELECT up FROM inode WHERE id = ?").bind(1, inode).first { $0.optionalInteger(0) }
            if case let up?? = up { parents[inode - up, default: []].append(inode) }
        }
        var result: [Int64: (layer: LayerID, path: [UInt8])] = [:]
        for (directory, wanted) in parents {
            let layer = layers.first { $0.inodes.contains(directory) }
            let path = try cached("SELECT path FROM directory WHERE inode = ?").bind(1, directory)
                .first { Array($0.blob(0)) }
            guard let layer, let path else { continue }
            let list = "[" + wanted.map(String.init).joined(separator: ",") + "]"
            try cached(
                "SELECT inode, name FROM dirent WHERE parent = ?1 AND inode IN (SELECT value FROM json_each(?2))"
            ).bind(1, directory).bind(2, text: list).forEach { row in
                // If a file has several names, the first one is enough.
                guard result[row.integer(0)] == nil else { return }
                let prefix = path.isEmpty ? [] : path + [UInt8(ascii: "/")]
                result[row.integer(0)] = (layer.id, prefix + Array(row.blob(1)))
            }
        }
        return result
    }

    /// The images that opens of these layers' files count for: those that are mounted, or that containers run from, if there
    /// are any. For containerd these are the images of the topmost layers, each with all layers below, which it may share with
    /// others.
    fileprivate func images(of layers: Set<LayerID>) throws -> [OpenedImage] {
        let rows = try cached(
            """
            WITH RECURSIVE top (id, reference, manifest_digest, is_used) AS (
                SELECT s.id, s.reference, s.manifest_digest,
                       EXISTS (SELECT 1 FROM snapshot c WHERE c.parent = s.id AND c.kind <> 3)
                FROM snapshot s WHERE s.manifest_digest IS NOT NULL
            ),
            chain (reference, manifest_digest, is_used, id) AS (
                SELECT reference, manifest_digest, is_used, id FROM top
                WHERE is_used OR NOT EXISTS (SELECT 1 FROM snapshot c WHERE c.parent = top.id AND c.view IS NOT NULL)
                UNION
                SELECT c.reference, c.manifest_digest, c.is_used, s.parent
                FROM chain c JOIN snapshot s ON s.id = c.id WHERE s.parent IS NOT NULL
            )
            SELECT c.reference, c.manifest_digest, s.layer, c.is_used FROM chain c JOIN snapshot s ON s.id = c.id
            WHERE s.layer IS NOT NULL
            UNION ALL
            SELECT m.reference, m.manifest_digest, v.layer, 1 FROM mount mt JOIN image m ON m.id = mt.image
            JOIN mount_view mv ON mv.mount = mt.id JOIN layer_view v ON v.id = mv.view
            UNION ALL
            SELECT m.reference, m.manifest_digest, il.layer, 0 FROM image m JOIN image_layer il ON il.image = m.id
            """
        ).map {
            (
                reference: $0.text(0), manifest: $0.digest(1), layer: LayerID($0.integer(2)),
                isMounted: $0.integer(3) == 1
            )
        }
        let mounted = Set(rows.filter(\.isMounted).map(\.layer))
        var images: [String: OpenedImage] = [:]
        for row in rows where layers.contains(row.layer) && row.isMounted == mounted.contains(row.layer) {
            guard let manifest = row.manifest else { continue }
            images[row.reference, default: OpenedImage(reference: row.reference, manifest: manifest, layers: [])]
                .layers.insert(row.layer)
        }
        return images.values.sorted { $0.reference < $1.reference }
    }

    /// What a layer has at a path: one search for each of its names.
    func inode(at path: [UInt8], in layer: LayerID) throws -> Int64? {
        var inode = try cached("SELECT root FROM layer WHERE id = ?").bind(1, layer.row).first { $0.integer(0) }
        for name in path.split(separator: UInt8(ascii: "/")) {
            guard let parent = inode else { return nil }
            inode = try cached("SELECT inode FROM dirent WHERE parent = ? AND name = ?").bind(1, parent)
                .bind(2, blob: Array(name)).first { $0.integer(0) }
        }
        return inode
    }

    fileprivate func unmerged(ofInode inode: Int64, in layer: LayerID) throws -> UnmergedContent? {
        try cached(
            """
            SELECT \(Index.contentColumns), s.blob_offset, s.blob_size, s.inner_offset,
                   EXISTS (SELECT 1 FROM content t WHERE t.digest = c.digest AND t.id <> c.id AND t.state = 2)
            FROM inode i JOIN content c ON c.id = i.content
            JOIN chunk_source s ON s.content = c.id AND s.offset = 0 AND s.layer = ?2
            WHERE i.id = ?1 AND c.state < 2 ORDER BY s.blob_offset, s.inner_offset LIMIT 1
            """
        ).bind(1, inode).bind(2, layer.row).first { try UnmergedContent($0, in: layer) }
    }
}

extension UnmergedContent {
    /// Reads the columns of a content, the place of its first chunk, and whether it has a twin.
    init(_ row: Statement, in layer: LayerID) throws {
        self.init(
            content: try Index.content(row),
            firstChunk: ChunkPlace(
                layer: layer, blobOffset: row.integer(6), blobSize: row.integer(7), innerOffset: row.integer(8)),
            hasTwin: row.integer(9) != 0)
    }
}
