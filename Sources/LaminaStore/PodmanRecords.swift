public import LaminaDigest
import LaminaSQLite

/// A layer of an image, with what an image store says of it.
public struct PodmanLayerFacts: Sendable, Equatable {
    public var layer: LayerID
    public var view: ViewID
    /// Of the blob.
    public var digest: Digest
    /// Of the blob, in bytes.
    public var size: Int64
    /// Raw value of LaminaFormats' `LayerFormat`.
    public var format: Int
    public var diffID: Digest?
    public var state: ChainState
    /// Whether the whole blob was hashed, so that the tar is certainly what the blob's digest names.
    public var isBlobProven: Bool
    /// Of the tar, where there is a tar-split.
    public var tarSize: Int64?
}

/// An image that an image store may show.
public struct PodmanCandidate: Sendable {
    public var image: ImageRecord
    public var manifest: [UInt8]
    public var config: [UInt8]
    /// Seconds since 1970.
    public var pulledAt: Int64
    /// Bottom first.
    public var layers: [PodmanLayerFacts]
}

/// A layer that is in the image store.
public struct PodmanLayerRow: Sendable, Hashable {
    /// containers/storage's own name for it.
    public var id: Digest
    public var parent: Digest?
    public var layer: LayerID
    public var view: ViewID

    public init(id: Digest, parent: Digest?, layer: LayerID, view: ViewID) {
        (self.id, self.parent, self.layer, self.view) = (id, parent, layer, view)
    }
}

/// An image that is in the image store.
public struct PodmanImageRow: Sendable, Hashable {
    /// The configuration's digest.
    public var id: Digest
    /// The id of its uppermost layer.
    public var top: Digest
    public var manifest: [UInt8]
    public var config: [UInt8]

    public init(id: Digest, top: Digest, manifest: [UInt8], config: [UInt8]) {
        (self.id, self.top, self.manifest, self.config) = (id, top, manifest, config)
    }
}

extension Index {
    /// What an image store can be made of, in a value that is equal as long as nothing of it has changed. Some microseconds for each layer
    /// of an image.
    public func podmanFingerprint() throws -> Digest {
        var hash = SHA256()
        try read { database in
            try database.cached(
                """
                SELECT m.id || '/' || m.reference || '/' || hex(m.manifest_digest) || '/' || (m.manifest IS NULL) || '/' || m.pulled_at
                    || '/' || il.layer || '/' || il.view || '/' || l.diff_id_state || '/' || l.toc_proof || '/'
                    || (l.blob_proven_at IS NULL) || '/' || (l.quarantined_at IS NULL) || '/'
                    || EXISTS (SELECT 1 FROM tar_split t WHERE t.diff_id = l.diff_id)
                FROM image m JOIN image_layer il ON il.image = m.id JOIN layer l ON l.id = il.layer
                ORDER BY m.id, il.position
                """
            ).forEach { hash.update($0.blob(0)) }
        }
        return hash.digest()
    }

    /// The images whose manifests are known, each with its layers.
    public func podmanCandidates() throws -> [PodmanCandidate] {
        let images = try images()
        return try read { database in
            let find = try database.cached(
                "SELECT manifest, config, pulled_at FROM image WHERE id = ? AND manifest IS NOT NULL")
            return try images.compactMap { image in
                let found = try find.bind(1, image.id.row).first {
                    (Array($0.blob(0)), Array($0.blob(1)), $0.integer(2))
                }
                guard let (manifest, config, pulledAt) = found else { return nil }
                let layers = try zip(image.layers, image.views).compactMap { try database.podmanFacts($0, $1) }
                guard layers.count == image.layers.count else { return nil }
                return PodmanCandidate(
                    image: image, manifest: manifest, config: config, pulledAt: pulledAt, layers: layers)
            }
        }
    }

    /// The same of one layer; nil where it is gone.
    public func podmanFacts(_ layer: LayerID, _ view: ViewID) throws -> PodmanLayerFacts? {
        try read { try $0.podmanFacts(layer, view) }
    }

    public func podmanLayers() throws -> [PodmanLayerRow] {
        try read { database in
            try database.cached("SELECT id, parent, layer, view FROM podman_layer ORDER BY id").map { row in
                guard let id = row.digest(0) else {
                    throw StoreError(.damaged, "a layer of the image store has no id in the index")
                }
                return PodmanLayerRow(
                    id: id, parent: row.digest(1), layer: LayerID(row.integer(2)), view: ViewID(row.integer(3)))
            }
        }
    }

    public func podmanImages() throws -> [PodmanImageRow] {
        try read { database in
            try database.cached("SELECT id, top, manifest, config FROM podman_image ORDER BY id").map { row in
                guard let id = row.digest(0), let top = row.digest(1) else {
                    throw StoreError(.damaged, "an image of the image store has no id in the index")
                }
                return PodmanImageRow(id: id, top: top, manifest: Array(row.blob(2)), config: Array(row.blob(3)))
            }
        }
    }

    /// About how long a layer's tar is, for one whose length was not told: headers and files, in bytes.
    public func estimatedTarSize(of layer: LayerID) throws -> Int64 {
        try read { database in
            try database.cached(
                """
                SELECT 1024 + coalesce(sum(512 + iif(i.content IS NULL, 0, (i.size + 511) / 512 * 512)), 0)
                FROM layer l JOIN inode i ON i.id BETWEEN l.first_inode AND l.last_inode WHERE l.id = ?
                """
            ).bind(1, layer.row).first { $0.integer(0) } ?? 0
        }
    }
}

extension Connection {
    fileprivate func podmanFacts(_ layer: LayerID, _ view: ViewID) throws -> PodmanLayerFacts? {
        try cached(
            """
            SELECT l.digest, l.size, l.format, l.diff_id, l.quarantined_at IS NOT NULL,
                l.diff_id_state = 1 OR EXISTS (SELECT 1 FROM proven_layer p WHERE p.digest = l.digest
                    AND p.toc_digest = coalesce(l.toc_digest, x'') AND p.diff_id = l.diff_id),
                l.toc_proof IN (2, 3) OR l.blob_proven_at IS NOT NULL,
                (SELECT t.tar_size FROM tar_split t WHERE t.diff_id = l.diff_id)
            FROM layer l WHERE l.id = ? AND EXISTS (SELECT 1 FROM layer_view v WHERE v.id = ?)
            """
        ).bind(1, layer.row).bind(2, view.row).first { row in
            guard let digest = row.digest(0) else { throw StoreError(.damaged, "\(layer) of the index has no digest") }
            return PodmanLayerFacts(
                layer: layer, view: view, digest: digest, size: row.integer(1), format: Int(row.integer(2)),
                diffID: row.digest(3),
                state: row.integer(4) != 0 ? .quarantined : row.integer(5) != 0 ? .proven : .claimed,
                isBlobProven: row.integer(6) != 0, tarSize: row.optionalInteger(7))
        }
    }
}

extension Store {
    /// Records what is about to be in the image store: from here on it is held. On disk when it returns.
    ///
    /// - Throws: `StoreError.notFound` where a layer went meanwhile; nothing is recorded then.
    public func holdForPodman(_ layers: [PodmanLayerRow], _ images: [PodmanImageRow]) throws {
        try writeDurably(changesContents: false) { writer in
            let database = writer.connection
            let place = try database.cached(
                """
                INSERT INTO podman_layer (id, parent, layer, view)
                SELECT ?1, ?2, v.layer, v.id FROM layer_view v WHERE v.id = ?4 AND v.layer = ?3
                ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, layer = excluded.layer, view = excluded.view
                """)
            for row in layers {
                try place.bind(1, digest: row.id).bind(2, digest: row.parent).bind(3, row.layer.row)
                    .bind(4, row.view.row).run()
                guard database.changes > 0 else {
                    throw StoreError(.notFound, "a layer was removed from the store meanwhile")
                }
            }
            let add = try database.cached(
                """
                INSERT INTO podman_image (id, top, manifest, config) VALUES (?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET top = excluded.top, manifest = excluded.manifest, config = excluded.config
                """)
            for row in images {
                try add.bind(1, digest: row.id).bind(2, digest: row.top).bind(3, blob: row.manifest)
                    .bind(4, blob: row.config).run()
            }
        }
    }

    /// Forgets what is in the image store no more.
    public func forgetForPodman(layers: Set<Digest>, images: Set<Digest>) throws {
        guard !layers.isEmpty || !images.isEmpty else { return }
        try writeDurably(changesContents: false) { writer in
            for id in images {
                try writer.connection.cached("DELETE FROM podman_image WHERE id = ?").bind(1, digest: id).run()
            }
            for id in layers {
                try writer.connection.cached("DELETE FROM podman_layer WHERE id = ?").bind(1, digest: id).run()
            }
        }
    }
}
