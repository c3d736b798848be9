import Glibc
public import LaminaDigest
import LaminaSQLite

/// An image as the index has it.
public struct ImageRecord: Sendable {
    public var id: ImageID
    public var reference: String
    public var manifestDigest: Digest
    public var platform: String
    /// Bottom first.
    public var layers: [LayerID]
    /// The layers as directories of the mount, bottom first.
    public var views: [ViewID]
}

/// An image mounted by name.
public struct MountRecord: Sendable {
    public var target: String
    public var image: ImageID
    public var reference: String
    /// The directory that takes the writes, for a writable mount.
    public var upper: String?
    /// What it was made of, bottom first: the image may have other layers since.
    public var views: [ViewID]
    /// The sealed chain that it is made of; nil: by way of FUSE.
    public var sealed: SealedID?
}

extension Store {
    /// Records an image, replacing what its reference named before. On disk when it returns, with its layers.
    public func addImage(
        reference: String, manifest: Digest, platform: String, config: [UInt8], layers: [LayerID], views: [ViewID]
    ) throws -> ImageID {
        precondition(layers.count == views.count, "each layer has its view")
        return try writeDurably { writer in
            let database = writer.connection
            try database.cached(
                """
                INSERT INTO image (reference, manifest_digest, platform, config, pulled_at) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT (reference) DO UPDATE SET manifest_digest = excluded.manifest_digest,
                    platform = excluded.platform, config = excluded.config, pulled_at = excluded.pulled_at
                """
            ).bind(1, text: reference).bind(2, digest: manifest).bind(3, text: platform).bind(4, blob: config)
                .bind(5, Int64(time(nil))).run()
            let image = try database.cached("SELECT id FROM image WHERE reference = ?").bind(1, text: reference)
                .first { ImageID($0.integer(0)) }
            guard let image else { throw StoreError(.damaged, "image \(reference) vanished from the index") }
            try database.cached("DELETE FROM image_layer WHERE image = ?").bind(1, image.row).run()
            let insert = try database.cached(
                "INSERT INTO image_layer (image, position, layer, view) VALUES (?, ?, ?, ?)")
            for (position, (layer, view)) in zip(layers, views).enumerated() {
                try insert.bind(1, image.row).bind(2, Int64(position)).bind(3, layer.row).bind(4, view.row).run()
            }
            return image
        }
    }

    /// Records a mount.
    ///
    /// - Parameters:
    ///   - views: what is mounted, bottom first; the image's own without it.
    ///   - sealed: the chain that stands for them.
    /// - Throws: `StoreError.notFound` where image or views are not in the index any more.
    public func addMount(
        target: String, image: ImageID, upper: String?, views: [ViewID]? = nil, sealed: SealedID? = nil
    ) throws {
        try write { writer in
            let database = writer.connection
            let views =
                try views
                ?? database.cached("SELECT view FROM image_layer WHERE image = ? ORDER BY position")
                .bind(1, image.row).map { ViewID($0.integer(0)) }
            let isKnown = try database.cached("SELECT 1 FROM image WHERE id = ?").bind(1, image.row).first { _ in true }
            let areKnown = try views.allSatisfy { view in
                try database.cached("SELECT 1 FROM layer_view WHERE id = ?").bind(1, view.row).first { _ in true }
                    != nil
            }
            guard isKnown != nil, areKnown else {
                throw StoreError(.notFound, "the image was removed from the store meanwhile; pull it again")
            }
            try database.cached(
                "INSERT OR REPLACE INTO mount (target, image, upper, mounted_at, sealed) VALUES (?, ?, ?, ?, ?)"
            )
            .bind(1, text: target).bind(2, image.row).bind(3, text: upper).bind(4, Int64(time(nil)))
            .bind(5, sealed?.row).run()
            let mount = database.lastInsertedRow
            let insert = try database.cached("INSERT INTO mount_view (mount, position, view) VALUES (?, ?, ?)")
            for (position, view) in views.enumerated() {
                try insert.bind(1, mount).bind(2, Int64(position)).bind(3, view.row).run()
            }
        }
    }

    /// Forgets a mount.
    public func removeMount(target: String) throws {
        // What is mounted cannot be removed: this comes before room can be made.
        try reserve.lending(SpaceReserve.opening) {
            try write { writer in
                try writer.connection.cached("DELETE FROM mount WHERE target = ?").bind(1, text: target).run()
            }
        }
    }
}

/// What an image holds, each content once.
public struct ImageTotals: Sendable, Equatable {
    public var contents: Int64 = 0
    public var mergedContents: Int64 = 0
    /// Uncompressed.
    public var bytes: Int64 = 0
    /// Those of them that the store has.
    public var landedBytes: Int64 = 0
}

extension Index {
    /// The image that a reference names.
    public func image(_ reference: String) throws -> ImageRecord? {
        try images().first { $0.reference == reference }
    }

    /// The configuration of an image that has this manifest; nil when there is none.
    public func configuration(ofManifest digest: Digest) throws -> [UInt8]? {
        try read { database in
            try database.cached("SELECT config FROM image WHERE manifest_digest = ? LIMIT 1").bind(1, digest: digest)
                .first { Array($0.blob(0)) }
        }
    }

    /// How much of an image's distinct contents the store has: what the view image_status says of every image, in a
    /// fraction of its time.
    public func totals(of image: ImageID) throws -> ImageTotals {
        let totals = try read { database in
            try database.cached(
                """
                SELECT count(*), coalesce(sum(c.state = 2), 0), coalesce(sum(c.size), 0),
                       coalesce(sum(CASE c.state WHEN 2 THEN c.size WHEN 1 THEN
                           (SELECT d.landed_bytes FROM content_landed d WHERE d.content = c.id) ELSE 0 END), 0)
                FROM content c
                WHERE c.id IN (SELECT i.content FROM image_layer il JOIN layer l ON l.id = il.layer
                               JOIN inode i ON i.id BETWEEN l.first_inode AND l.last_inode
                               WHERE il.image = ? AND i.content IS NOT NULL)
                """
            ).bind(1, image.row).first {
                ImageTotals(
                    contents: $0.integer(0), mergedContents: $0.integer(1), bytes: $0.integer(2),
                    landedBytes: $0.integer(3))
            }
        }
        return totals ?? ImageTotals()
    }

    /// An image by number.
    public func image(_ id: ImageID) throws -> ImageRecord? { try images().first { $0.id == id } }

    /// Every image, by reference.
    public func images() throws -> [ImageRecord] {
        try read { database in
            let layers = try database.cached("SELECT image, layer, view FROM image_layer ORDER BY image, position")
                .map { (ImageID($0.integer(0)), LayerID($0.integer(1)), ViewID($0.integer(2))) }
            let byImage = Dictionary(grouping: layers, by: { $0.0 })
            return try database.cached("SELECT id, reference, manifest_digest, platform FROM image ORDER BY reference")
                .map { row in
                    let id = ImageID(row.integer(0))
                    guard let digest = row.digest(2) else {
                        throw StoreError(.damaged, "image \(row.text(1)) of the index has no digest")
                    }
                    let rows = byImage[id] ?? []
                    return ImageRecord(
                        id: id, reference: row.text(1), manifestDigest: digest, platform: row.text(3),
                        layers: rows.map { $0.1 }, views: rows.map { $0.2 })
                }
        }
    }

    /// Every recorded mount, oldest first.
    public func mounts() throws -> [MountRecord] {
        try read { database in
            let views = try database.cached("SELECT mount, view FROM mount_view ORDER BY mount, position")
                .map { ($0.integer(0), ViewID($0.integer(1))) }
            let byMount = Dictionary(grouping: views, by: { $0.0 })
            return try database.cached(
                """
                SELECT t.target, t.image, m.reference, t.upper, t.id, t.sealed FROM mount t JOIN image m ON m.id = t.image
                ORDER BY t.id
                """
            ).map {
                MountRecord(
                    target: $0.text(0), image: ImageID($0.integer(1)), reference: $0.text(2), upper: $0.optionalText(3),
                    views: (byMount[$0.integer(4)] ?? []).map { $0.1 }, sealed: $0.optionalInteger(5).map(SealedID.init)
                )
            }
        }
    }
}
