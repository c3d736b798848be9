import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSeal
import LaminaSystem
import Synchronization

/// A row of `sealed`: the name of its directory, and of its image.
public struct SealedID: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let row: Int64
    public init(_ row: Int64) { self.row = row }
    public static func < (left: Self, right: Self) -> Bool { left.row < right.row }
    public var description: String { String(row) }
}

/// A chain of layers that has an image.
public struct SealedChain: Sendable {
    public var id: SealedID
    /// Bottom first.
    public var views: [ViewID]
    /// Of the image.
    public var bytes: Int64
    public var inodes: Int64
    /// Whether something uses it: then what it shows stays.
    public var isUsed: Bool
}

/// What the kernel has mounted of a sealed chain, or was about to mount.
public struct SealedMountRecord: Sendable {
    public var row: Int64
    public var sealed: SealedID
    /// What the kernel calls the image's file system; nil: it was about to be mounted when its process ended.
    public var device: String?
}

// Sealed chains: images below <root>/sealed, and which of them are in use. A chain that is not in use is a cache: eviction and
// garbage collection may forget it, and it is written again. What a chain in use shows stays (`sealed_use`).

extension Store {
    /// Where a chain's image is, relative to the root.
    public static func imagePath(of id: SealedID) -> String { "sealed/\(id).erofs" }
    /// Where the contents are.
    public static let contentPath = "content"
    /// Where it is mounted.
    public static func directoryPath(of id: SealedID) -> String { "sealed/\(id)" }

    /// Writes the image of a chain, if all of its contents are merged and it has none yet.
    ///
    /// - Returns: the chain; nil if something of it has not landed.
    /// - Throws: `SealError` for a chain that EROFS cannot show, `StoreError`.
    public func seal(_ views: [ViewID]) throws -> SealedChain? {
        if let known = try index.sealed(views) { return known }
        guard try index.isComplete(views) else { return nil }
        let chain = try index.read { try $0.digest(ofChain: views) }
        let (image, momentary) = try writeImage(views, chain)
        defer { unlink("\(root)/\(momentary)") }
        let id = try writeDurably(changesContents: false) { writer -> SealedID? in
            // Once more, now that nothing can be given up meanwhile.
            guard try writer.connection.isComplete(views) else { return nil }
            // Another thread was faster; its image has the same bytes.
            if let known = try writer.connection.sealedID(ofChain: chain) { return known }
            try writer.connection.cached(
                "INSERT INTO sealed (chain, bytes, inodes, sealed_at) VALUES (?, ?, ?, ?)"
            ).bind(1, digest: chain).bind(2, Int64(image.size)).bind(3, Int64(image.inodeCount))
                .bind(4, Int64(time(nil))).run()
            let id = SealedID(writer.connection.lastInsertedRow)
            let insert = try writer.connection.cached(
                "INSERT INTO sealed_view (sealed, position, view) VALUES (?, ?, ?)")
            for (position, view) in views.enumerated() {
                try insert.bind(1, id.row).bind(2, Int64(position)).bind(3, view.row).run()
            }
            // On disk before the row, so that a row's image is always there. A kill in between leaves a file without a row.
            try place(momentary, as: Self.imagePath(of: id))
            return id
        }
        return try id.flatMap { try index.sealed($0) }
    }

    /// Writes the image of a chain again, because its file is gone.
    public func rewriteImage(of chain: SealedChain) throws {
        let digest = try index.read { try $0.digest(ofChain: chain.views) }
        let (_, momentary) = try writeImage(chain.views, digest)
        try place(momentary, as: Self.imagePath(of: chain.id))
    }

    private func writeImage(_ views: [ViewID], _ chain: Digest) throws -> (image: SealedImage, momentary: String) {
        let (rows, roots) = try index.chainRows(views)
        let identity = chain.withUnsafeBytes { Array($0.prefix(16)) }
        let image = try SealedImage(rows, roots: roots, options: SealedImage.Options(identity: identity))
        let momentary = "sealed/new-\(Self.momentaryNames.add(1, ordering: .relaxed).newValue)-\(getpid())"
        do {
            try createDirectories(root + "/sealed", mode: 0o700)
            let file = try File("\(root)/\(momentary)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
            var offset: Int64 = 0
            try image.write { bytes in
                try file.write(bytes, at: offset)
                offset += Int64(bytes.count)
            }
            try file.synchronize()
        } catch let error as SystemError {
            unlink("\(root)/\(momentary)")
            throw StoreError(.system(error.code), "cannot write the image of a chain", cause: error)
        }
        return (image, momentary)
    }

    /// Two threads that write the image of one chain write two files.
    private static let momentaryNames = Atomic<Int>(0)

    private func place(_ momentary: String, as path: String) throws {
        do throws(SystemError) {
            guard rename("\(root)/\(momentary)", "\(root)/\(path)") == 0 else {
                throw SystemError.last("rename", momentary)
            }
            try File(root + "/sealed", O_RDONLY | O_DIRECTORY).synchronize()
        } catch {
            throw StoreError(.system(error.code), "cannot put the image of a chain in its place", cause: error)
        }
    }

    /// Forgets a chain that is not in use.
    ///
    /// - Returns: whether it was forgotten; false for one in use.
    @discardableResult
    public func forget(_ id: SealedID) throws -> Bool {
        try writeDurably(changesContents: false) { writer in
            try writer.connection.cached(
                "DELETE FROM sealed WHERE id = ?1 AND id NOT IN (SELECT sealed FROM sealed_use)"
            ).bind(1, id.row).run()
            return writer.connection.changes > 0
        }
    }

    /// Records that a chain is about to be mounted: from here on what it shows stays.
    ///
    /// - Returns: the number for `settleSealedMount`; nil if the chain is gone or something of it is missing: then it must not
    ///   be mounted.
    public func beginSealedMount(_ id: SealedID) throws -> Int64? {
        let boot = try Self.bootID()
        return try writeUses { writer in
            let views = try writer.connection.views(ofSealed: id)
            guard !views.isEmpty, try writer.connection.isComplete(views) else { return nil }
            try writer.connection.cached("INSERT INTO sealed_mount (sealed, boot) VALUES (?, ?)").bind(1, id.row)
                .bind(2, text: boot).run()
            return writer.connection.lastInsertedRow
        }
    }

    /// Records what the kernel calls the file system; nil: there is none, or none any more.
    public func settleSealedMount(_ row: Int64, device: String?) throws {
        try writeUses { writer in
            if let device {
                try writer.connection.cached("UPDATE sealed_mount SET device = ? WHERE id = ?").bind(1, text: device)
                    .bind(2, row).run()
            } else {
                try writer.connection.cached("DELETE FROM sealed_mount WHERE id = ?").bind(1, row).run()
            }
        }
    }

    /// Records that all of a chain was in use until now, because the kernel reports no opens of what it shows by itself.
    public func noteUse(of id: SealedID) throws {
        try writeUses { writer in
            try writer.connection.cached(
                """
                UPDATE content SET used_at = max(used_at, ?2) WHERE id IN (
                    SELECT k.content FROM sealed_view sv CROSS JOIN layer_view v ON v.id = sv.view
                    CROSS JOIN chunk_source k ON k.layer = v.layer WHERE sv.sealed = ?1)
                """
            ).bind(1, id.row).bind(2, millisecondsSince1970()).run()
        }
    }

    /// Forgets what an earlier boot had mounted.
    public func forgetSealedMountsOfOtherBoots() throws {
        let boot = try Self.bootID()
        let hasSome = try index.read { database in
            try database.cached("SELECT 1 FROM sealed_mount WHERE boot <> ? LIMIT 1").bind(1, text: boot)
                .first { _ in true } ?? false
        }
        guard hasSome else { return }
        try write { writer in
            try writer.connection.cached("DELETE FROM sealed_mount WHERE boot <> ?").bind(1, text: boot).run()
        }
    }

    /// Records how a recorded mount is made; nil: through FUSE.
    public func setWay(of target: String, _ sealed: SealedID?) throws {
        try write { writer in
            try writer.connection.cached("UPDATE mount SET sealed = ? WHERE target = ?").bind(1, sealed?.row)
                .bind(2, text: target).run()
        }
    }

    /// Removes images that no chain has any more, and what a killed process left.
    public func removeUnknownImages() throws {
        let directory = root + "/sealed"
        guard let names = try? File.names(inDirectory: directory) else { return }
        func unknown(_ database: Connection) throws -> [String] {
            let known = Set(try database.cached("SELECT id FROM sealed").map { $0.integer(0) })
            return names.filter { name in
                if name.hasPrefix("new-") { return !name.hasSuffix("-\(getpid())") }
                // The image, and the directory where it was mounted.
                let number = name.hasSuffix(".erofs") ? name.dropLast(".erofs".count) : name[...]
                return Int64(number).map { !known.contains($0) } ?? false
            }
        }
        // Called often: it waits for the writer only if there is something to do.
        guard try !index.read(unknown).isEmpty else { return }
        // While no chain is being sealed: a chain's row comes after its file.
        try write { writer in
            for name in try unknown(writer.connection) {
                // A directory that is still mounted stays (EBUSY).
                if unlink("\(directory)/\(name)") != 0 { rmdir("\(directory)/\(name)") }
            }
        }
    }

    /// As `write`, for changes that do not change what is in the store's files.
    private func writeUses<Result>(_ body: (Writer) throws -> Result) throws -> Result {
        defer { index.snapshotVersion.add(1, ordering: .releasing) }
        return try write(body)
    }
}

extension Index {
    /// The sealed chain of these views, bottom first; nil if it has no image.
    public func sealed(_ views: [ViewID]) throws -> SealedChain? {
        guard !views.isEmpty else { return nil }
        return try read { database in
            try database.sealedID(ofChain: database.digest(ofChain: views)).flatMap { try database.sealed($0) }
        }
    }

    public func sealed(_ id: SealedID) throws -> SealedChain? { try read { try $0.sealed(id) } }

    /// Every chain that has an image, the oldest first.
    public func sealedChains() throws -> [SealedChain] {
        try read { database in
            try database.cached("SELECT id FROM sealed ORDER BY id").map { SealedID($0.integer(0)) }
                .compactMap { try database.sealed($0) }
        }
    }

    /// What the kernel has of sealed chains, as far as lamina knows.
    public func sealedMounts() throws -> [SealedMountRecord] {
        try read { database in
            try database.cached("SELECT id, sealed, device FROM sealed_mount ORDER BY id").map {
                SealedMountRecord(row: $0.integer(0), sealed: SealedID($0.integer(1)), device: $0.optionalText(2))
            }
        }
    }

    /// Chains that mounts and snapshots use: without one of these they are mounted in no directory.
    public func answeredChains() throws -> Set<SealedID> {
        try read { database in
            Set(
                try database.cached(
                    """
                    SELECT sealed FROM mount WHERE sealed IS NOT NULL
                    UNION SELECT sealed FROM snapshot WHERE sealed IS NOT NULL
                    """
                ).map { SealedID($0.integer(0)) })
        }
    }

    /// The views of a lazy layer and all below it, bottom first; nil if one of them was unpacked.
    public func views(upTo key: SnapshotKey) throws -> [ViewID]? {
        try read { database in
            let id = try database.cached("SELECT id FROM snapshot WHERE key = ?").bind(1, blob: key.bytes)
                .first { SnapshotID($0.integer(0)) }
            return try id.flatMap { try database.places(from: $0).views }
        }
    }

    /// Whether everything that these views show has landed.
    public func isComplete(_ views: [ViewID]) throws -> Bool { try read { try $0.isComplete(views) } }

    /// The chains that containers are, or can be, made of: those of images, and of lazy layers that are an image's uppermost
    /// layer or have a container above them.
    public func chainsToSeal() throws -> [[ViewID]] {
        let images = try images().map(\.views)
        let snapshots = try read { database in
            try database.cached(
                """
                SELECT s.id FROM snapshot s WHERE s.view IS NOT NULL
                AND (NOT EXISTS (SELECT 1 FROM snapshot c WHERE c.parent = s.id AND c.view IS NOT NULL)
                     OR EXISTS (SELECT 1 FROM snapshot c WHERE c.parent = s.id AND c.kind < 3))
                """
            ).map { SnapshotID($0.integer(0)) }.map { try database.places(from: $0).views }
        }
        var seen: Set<[ViewID]> = []
        return (images + snapshots.compactMap(\.self)).filter { !$0.isEmpty && seen.insert($0).inserted }
    }

    /// How much the files that sealed chains in use show, and that therefore stay, take on disk.
    public func sealedBytes() throws -> Int64 {
        try read { database in
            try database.integer(
                """
                SELECT coalesce(sum((max(0, c.size - c.holes) + 4095) / 4096 * 4096), 0) FROM content c
                WHERE c.state > 0 AND c.id IN (SELECT content FROM sealed_content)
                """) ?? 0
        }
    }
}

extension [SnapshotPlace] {
    /// The views of a chain of lazy layers, bottom first; nil if one of them was unpacked.
    public var views: [ViewID]? {
        var views: [ViewID] = []
        for place in reversed() {
            guard case .layer(let view) = place else { return nil }
            views.append(view)
        }
        return views
    }
}

extension Connection {
    func views(ofSealed id: SealedID) throws -> [ViewID] {
        try cached("SELECT view FROM sealed_view WHERE sealed = ? ORDER BY position").bind(1, id.row)
            .map { ViewID($0.integer(0)) }
    }

    fileprivate func sealedID(ofChain digest: Digest) throws -> SealedID? {
        try cached("SELECT id FROM sealed WHERE chain = ?").bind(1, digest: digest).first { SealedID($0.integer(0)) }
    }

    fileprivate func sealed(_ id: SealedID) throws -> SealedChain? {
        let views = try views(ofSealed: id)
        return try cached(
            "SELECT bytes, inodes, EXISTS (SELECT 1 FROM sealed_use u WHERE u.sealed = s.id) FROM sealed s WHERE s.id = ?"
        ).bind(1, id.row).first {
            SealedChain(
                id: id, views: views, bytes: $0.integer(0), inodes: $0.integer(1), isUsed: $0.integer(2) != 0)
        }
    }

    fileprivate func isComplete(_ views: [ViewID]) throws -> Bool {
        let missing = try cached(
            """
            SELECT 1 FROM layer_view v JOIN layer l ON l.id = v.layer
            CROSS JOIN inode i ON i.id BETWEEN l.first_inode AND l.last_inode
            CROSS JOIN content c ON c.id = i.content
            WHERE v.id = ? AND c.state < 2 LIMIT 1
            """)
        return try Set(views).allSatisfy { try missing.bind(1, $0.row).first { _ in true } == nil }
    }

    /// SHA-256 of what tells a chain from every other, in whatever store: its layers' digests, those of their tables of contents, and what their views inherit.
    ///
    /// - Throws: `StoreError.notFound` if a view is not in the index.
    fileprivate func digest(ofChain views: [ViewID]) throws -> Digest {
        var hash = SHA256()
        let find = try cached(
            """
            SELECT l.digest, v.inherits, coalesce(l.toc_digest, x''), iif(l.isolated = 1, l.origin, '')
            FROM layer_view v JOIN layer l ON l.id = v.layer WHERE v.id = ?
            """)
        for view in views {
            let isFound =
                try find.bind(1, view.row).first { row -> Bool in
                    hash.update(row.blob(0))
                    withUnsafeBytes(of: UInt8(truncatingIfNeeded: row.blob(1).count)) { hash.update($0) }
                    hash.update(row.blob(1))
                    // Of one blob there may be several trees, and several repositories' files.
                    hash.update(row.blob(2))
                    Array(row.text(3).utf8).withUnsafeBytes { hash.update($0) }
                    return true
                } ?? false
            guard isFound else { throw StoreError(.notFound, "the view \(view) is not in the index") }
        }
        return hash.digest()
    }
}

extension Connection {
    /// Whether a sealed chain in use needs a content.
    func isSealed(_ content: ContentID) throws -> Bool {
        try cached(
            """
            SELECT 1 FROM chunk_source k CROSS JOIN layer_view v ON v.layer = k.layer
            CROSS JOIN sealed_view sv ON sv.view = v.id
            WHERE k.content = ? AND sv.sealed IN (SELECT sealed FROM sealed_use) LIMIT 1
            """
        ).bind(1, content.row).first { _ in true } ?? false
    }
}

extension Writer {
    /// Forgets the sealed chains, none of them in use, that need a content. `removeUnknownImages` removes their images.
    func unseal(_ content: ContentID) throws {
        try connection.cached(
            """
            DELETE FROM sealed WHERE id IN (
                SELECT sv.sealed FROM chunk_source k CROSS JOIN layer_view v ON v.layer = k.layer
                CROSS JOIN sealed_view sv ON sv.view = v.id WHERE k.content = ?)
            AND id NOT IN (SELECT sealed FROM sealed_use)
            """
        ).bind(1, content.row).run()
    }
}
