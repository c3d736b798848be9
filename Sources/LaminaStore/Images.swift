import Glibc
public import LaminaDigest
import LaminaSQLite

/// An image in the index.
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
    /// The views that it was made of, bottom first: the image may have other layers since.
    public var views: [ViewID]
    /// The sealed chain that it is made of; nil: it goes through FUSE.
    public var sealed: SealedID?
    /// What it was asked to allow.
    public var rights: MountRights
}

extension Store {
    /// Records an image, replacing what its reference named before for this platform. On disk when it returns, with its layers.
    ///
    /// - Parameters:
    ///   - platform: normalized, so that a platform has one image.
    ///   - manifestBytes: the manifest itself; those who want it do without the image where it is nil.
    ///   - outdated: images of the same reference for other platforms that this one replaces, with their mounts and pins.
    public func addImage(
        reference: String, manifest: Digest, manifestBytes: [UInt8]? = nil, platform: String, config: [UInt8],
        layers: [LayerID], views: [ViewID], replacing outdated: [ImageID] = []
    ) throws -> ImageID {
        precondition(layers.count == views.count, "each layer has its view")
        return try writeDurably { writer in
            let database = writer.connection
            let image = try Self.imageRow(reference, platform, outdated, in: database)
            let update = try database.cached(
                "UPDATE image SET manifest_digest = ?, config = ?, pulled_at = ?, manifest = ? WHERE id = ?"
            ).bind(1, digest: manifest).bind(2, blob: config).bind(3, Int64(time(nil))).bind(5, image.row)
            if let manifestBytes { update.bind(4, blob: manifestBytes) } else { update.bindNull(4) }
            try update.run()
            try database.cached("DELETE FROM image_layer WHERE image = ?").bind(1, image.row).run()
            let insert = try database.cached(
                "INSERT INTO image_layer (image, position, layer, view) VALUES (?, ?, ?, ?)")
            for (position, (layer, view)) in zip(layers, views).enumerated() {
                try insert.bind(1, image.row).bind(2, Int64(position)).bind(3, layer.row).bind(4, view.row).run()
            }
            return image
        }
    }

    /// The one row of an image: its own, else that of an image that it replaces, else a new one, whose manifest is still all
    /// zeros.
    private static func imageRow(
        _ reference: String, _ platform: String, _ outdated: [ImageID], in database: Connection
    ) throws -> ImageID {
        func row(of id: ImageID) throws -> Bool {
            try database.cached("SELECT 1 FROM image WHERE id = ? AND reference = ?").bind(1, id.row)
                .bind(2, text: reference).first { _ in true } != nil
        }
        let own = try database.cached("SELECT id FROM image WHERE reference = ? AND platform = ?")
            .bind(1, text: reference).bind(2, text: platform).first { ImageID($0.integer(0)) }
        // They may have been removed meanwhile.
        var others = try outdated.filter { try $0 != own && row(of: $0) }
        let kept: ImageID
        if let own {
            kept = own
        } else if !others.isEmpty {
            kept = others.removeFirst()
            try database.cached("UPDATE image SET platform = ? WHERE id = ?").bind(1, text: platform).bind(2, kept.row)
                .run()
        } else {
            try database.cached(
                """
                INSERT INTO image (reference, manifest_digest, platform, config, pulled_at)
                VALUES (?, zeroblob(32), ?, zeroblob(0), 0)
                """
            ).bind(1, text: reference).bind(2, text: platform).run()
            kept = ImageID(database.lastInsertedRow)
        }
        for other in others {
            try database.cached("UPDATE mount SET image = ? WHERE image = ?").bind(1, kept.row).bind(2, other.row).run()
            try database.cached(
                "UPDATE image SET pinned = max(pinned, (SELECT pinned FROM image WHERE id = ?2)) WHERE id = ?1"
            ).bind(1, kept.row).bind(2, other.row).run()
            try database.cached("DELETE FROM image WHERE id = ?").bind(1, other.row).run()
        }
        return kept
    }

    /// Records a mount.
    ///
    /// - Parameters:
    ///   - views: what is mounted, bottom first; by default the image's own views.
    ///   - sealed: the chain that is mounted in their place.
    /// - Throws: `StoreError.notFound` if the image or the views are not in the index any more.
    public func addMount(
        target: String, image: ImageID, upper: String?, views: [ViewID]? = nil, sealed: SealedID? = nil,
        rights: MountRights = MountRights()
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
                "INSERT OR REPLACE INTO mount (target, image, upper, mounted_at, sealed, suid, dev) VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            .bind(1, text: target).bind(2, image.row).bind(3, text: upper).bind(4, Int64(time(nil)))
            .bind(5, sealed?.row).bind(6, rights.setUserID ? 1 : 0).bind(7, rights.devices ? 1 : 0).run()
            let mount = database.lastInsertedRow
            let insert = try database.cached("INSERT INTO mount_view (mount, position, view) VALUES (?, ?, ?)")
            for (position, view) in views.enumerated() {
                try insert.bind(1, mount).bind(2, Int64(position)).bind(3, view.row).run()
            }
        }
    }

    /// Forgets a mount.
    public func removeMount(target: String) throws {
        // A mounted image cannot be removed, so this comes before room can be made.
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
    /// The images that a reference names: one for each platform that was pulled, the earliest pull first.
    public func images(named reference: String) throws -> [ImageRecord] {
        try images().filter { $0.reference == reference }
    }

    /// The configuration of an image with this manifest; nil if there is none.
    public func configuration(ofManifest digest: Digest) throws -> [UInt8]? {
        try read { database in
            try database.cached("SELECT config FROM image WHERE manifest_digest = ? LIMIT 1").bind(1, digest: digest)
                .first { Array($0.blob(0)) }
        }
    }

    /// How much of an image's distinct contents the store has: what the view image_status says of every image.
    public func totals(of image: ImageID) throws -> ImageTotals {
        let totals = try read { database in
            try database.cached(
                """
                SELECT coalesce(sum(contents), 0), coalesce(sum(merged), 0), coalesce(sum(bytes), 0),
                       coalesce(sum(landed_bytes), 0)
                FROM content_group
                WHERE id IN (SELECT lg.content_group FROM image_layer il JOIN layer_group lg ON lg.layer = il.layer
                             WHERE il.image = ?)
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

    /// Every image, ordered by reference, and then by number.
    public func images() throws -> [ImageRecord] {
        try read { database in
            let layers = try database.cached("SELECT image, layer, view FROM image_layer ORDER BY image, position")
                .map { (ImageID($0.integer(0)), LayerID($0.integer(1)), ViewID($0.integer(2))) }
            let byImage = Dictionary(grouping: layers, by: { $0.0 })
            return try database.cached(
                "SELECT id, reference, manifest_digest, platform FROM image ORDER BY reference, id"
            )
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
                SELECT t.target, t.image, m.reference, t.upper, t.id, t.sealed, t.suid, t.dev
                FROM mount t JOIN image m ON m.id = t.image
                ORDER BY t.id
                """
            ).map {
                MountRecord(
                    target: $0.text(0), image: ImageID($0.integer(1)), reference: $0.text(2), upper: $0.optionalText(3),
                    views: (byMount[$0.integer(4)] ?? []).map { $0.1 },
                    sealed: $0.optionalInteger(5).map(SealedID.init),
                    rights: MountRights(setUserID: $0.integer(6) != 0, devices: $0.integer(7) != 0))
            }
        }
    }
}
