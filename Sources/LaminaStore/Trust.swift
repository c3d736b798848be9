import Glibc
public import LaminaDigest
import LaminaSQLite
import Synchronization

/// Why a layer is no longer served.
public struct Quarantine: Sendable, Equatable {
    public var layer: LayerID
    public var digest: Digest
    public var reason: String
    /// Its inodes, which are opened no more.
    public var inodes: ClosedRange<Int64>
}

/// What is known of a layer that a chain is made of.
public enum ChainState: String, Sendable, Codable, CaseIterable {
    /// Only the author of the image says so.
    case claimed
    /// Its tar was hashed, here and at any time.
    case proven
    /// It is another one than was said.
    case quarantined
}

/// A row of the view `chain_status`.
public struct ChainStatus: Sendable, Codable, Equatable {
    public var chain: String?
    public var state: String
    public var reason: String?
    public var image: String?
    public var layer: String
    public var tocDigest: String?
    public var diffID: String?
    public var repository: String
}

/// The inodes that are opened no more, for those who answer opens: a look at it takes no lock as long as there are none.
public final class QuarantinedInodes: Sendable {
    private let count = Atomic<Int>(0)
    private let ranges = Mutex<[ClosedRange<Int64>]>([])

    init() {}

    public func contains(_ inode: Int64) -> Bool {
        guard count.load(ordering: .acquiring) > 0 else { return false }
        return ranges.withLock { $0.contains { $0.contains(inode) } }
    }

    func set(_ new: [ClosedRange<Int64>]) {
        ranges.withLock { ranges in
            ranges = new
            count.store(new.count, ordering: .releasing)
        }
    }
}

extension Index {
    /// The layers that nothing is served of.
    public func quarantine() throws -> [Quarantine] { try read { try $0.quarantine() } }

    /// Those of some views' layers that nothing is served of.
    public func quarantine(of views: [ViewID]) throws -> [Quarantine] {
        let all = try quarantine()
        if all.isEmpty { return [] }
        let layers = try read { database in
            let find = try database.cached("SELECT layer FROM layer_view WHERE id = ?")
            return try Set(views.compactMap { try find.bind(1, $0.row).first { LayerID($0.integer(0)) } })
        }
        return all.filter { layers.contains($0.layer) }
    }

    /// The nearest layer below a snapshot, itself included, that nothing is served of.
    public func quarantine(below key: SnapshotKey) throws -> Quarantine? {
        try read { database in
            guard try database.integer("SELECT 1 FROM layer WHERE quarantined_at IS NOT NULL LIMIT 1") != nil else {
                return nil
            }
            let layers = try database.cached(
                """
                WITH RECURSIVE chain (id, parent, layer) AS (
                    SELECT id, parent, layer FROM snapshot WHERE key = ?
                    UNION ALL
                    SELECT s.id, s.parent, s.layer FROM chain c JOIN snapshot s ON s.id = c.parent
                )
                SELECT layer FROM chain WHERE layer IS NOT NULL
                """
            ).bind(1, blob: key.bytes).map { LayerID($0.integer(0)) }
            return try database.quarantine().first { layers.contains($0.layer) }
        }
    }

    /// Whether every file of a layer is here.
    public func isWhole(_ layer: LayerID) throws -> Bool { try read { try !$0.hasUnmerged(layer) } }

    /// The one table of contents of a blob that was hashed as a whole; nil where none was.
    public func provenTOC(of blob: Digest) throws -> (digest: Digest, checksum: Digest?)? {
        try read { database in
            try database.cached("SELECT toc_digest, toc_checksum FROM blob_toc WHERE digest = ?").bind(1, digest: blob)
                .first { row in row.digest(0).map { ($0, row.digest(1)) } } ?? nil
        }
    }

    /// What is known of a layer as the tar that its image says that it is.
    public func chainState(of layer: LayerID) throws -> ChainState {
        try read { database in
            let state = try database.cached(
                """
                SELECT l.quarantined_at IS NOT NULL, l.diff_id_state = 1 OR EXISTS (
                    SELECT 1 FROM proven_layer p WHERE p.digest = l.digest
                    AND p.toc_digest = coalesce(l.toc_digest, x'') AND p.diff_id = l.diff_id)
                FROM layer l WHERE l.id = ?
                """
            ).bind(1, layer.row).first { row -> ChainState in
                row.integer(0) != 0 ? .quarantined : row.integer(1) != 0 ? .proven : .claimed
            }
            guard let state else { throw StoreError(.notFound, "\(layer) is not in the index") }
            return state
        }
    }

    /// How many layers of containerd's chains are known how well.
    public func chainCounts() throws -> [ChainState: Int64] {
        try read { database in
            var counts: [ChainState: Int64] = [:]
            try database.cached("SELECT state, count(*) FROM chain_status GROUP BY state").forEach { row in
                if let state = ChainState(rawValue: row.text(0)) { counts[state] = row.integer(1) }
            }
            return counts
        }
    }

    /// What is known of the layers of all chains, or of one image's.
    public func chainStatus(ofImage reference: String? = nil) throws -> [ChainStatus] {
        try read { database in
            try database.cached(
                """
                SELECT chain_id, state, reason, image, layer, toc_digest, diff_id, repository FROM chain_status
                WHERE ?1 IS NULL OR image = ?1 OR substr(image, 1, length(?1) + 1) = ?1 || '@' ORDER BY image, layer_row
                """
            ).bind(1, text: reference).map {
                ChainStatus(
                    chain: $0.optionalText(0), state: $0.text(1), reason: $0.optionalText(2), image: $0.optionalText(3),
                    layer: $0.text(4), tocDigest: $0.optionalText(5), diffID: $0.optionalText(6), repository: $0.text(7)
                )
            }
        }
    }

    /// The same of the layers of an image that was pulled.
    public func chainStatus(of image: ImageRecord) throws -> [ChainStatus] {
        try image.layers.map { layer in
            let (ledger, state) = try (ledger(of: layer), chainState(of: layer))
            let reason =
                ledger.diffIDState == .unpadded
                ? "its tar has the diff ID once the zeros are added that are missing at its end"
                : state == .quarantined ? try quarantine().first { $0.layer == layer }?.reason : nil
            return ChainStatus(
                chain: nil, state: state.rawValue, reason: reason, image: image.reference,
                layer: ledger.digest.description, tocDigest: ledger.tocDigest?.description,
                diffID: ledger.diffID?.description, repository: try origin(of: layer) ?? "")
        }
    }

    /// The lazy layers that stand for a chain, in whatever namespace and above whatever parent.
    public func layers(ofChain chain: String) throws -> [LayerID] {
        try read { database in
            try database.cached(
                """
                SELECT DISTINCT s.layer FROM snapshot_label c JOIN snapshot s ON s.id = c.snapshot
                WHERE c.name = 'containerd.io/snapshot.ref' AND c.value = ? AND s.layer IS NOT NULL
                """
            ).bind(1, text: chain).map { LayerID($0.integer(0)) }
        }
    }
}

extension Connection {
    func quarantine() throws -> [Quarantine] {
        try cached(
            "SELECT id, digest, quarantine, first_inode, last_inode FROM layer WHERE quarantined_at IS NOT NULL ORDER BY id"
        ).map { row in
            guard let digest = row.digest(1) else { throw StoreError(.damaged, "a layer of the index has no digest") }
            return Quarantine(
                layer: LayerID(row.integer(0)), digest: digest, reason: row.text(2),
                inodes: row.integer(3)...max(row.integer(3), row.integer(4)))
        }
    }
}

extension Store {
    /// Stops serving a layer. On disk when it returns. Twice is once: the first reason stays.
    public func quarantine(_ layer: LayerID, because reason: String) throws {
        try writeDurably { writer in try writer.quarantine(layer, because: reason) }
        try readQuarantine()
    }

    /// Reads which inodes are opened no more.
    func readQuarantine() throws { quarantined.set(try index.quarantine().map(\.inodes)) }

    /// Notes what the only table of contents of a blob is, as the whole of it was hashed. Layers of the blob with another one are
    /// served to nobody any more.
    public func recordTOC(_ toc: Digest, checksum: Digest?, of blob: Digest) throws {
        try write { writer in
            try writer.connection.cached(
                "INSERT OR REPLACE INTO blob_toc (digest, toc_digest, toc_checksum) VALUES (?, ?, ?)"
            ).bind(1, digest: blob).bind(2, digest: toc).bind(3, digest: checksum).run()
            let others = try writer.connection.cached(
                // A table of contents in another image is not in the blob.
                "SELECT id FROM layer WHERE digest = ? AND toc_digest <> ? AND format <> 4"
            ).bind(1, digest: blob).bind(2, digest: toc).map { LayerID($0.integer(0)) }
            for layer in others {
                try writer.quarantine(
                    layer, because: "the blob was read as a whole, and its table of contents is another one: \(toc)")
            }
        }
        try readQuarantine()
    }

    /// Has other layers stand for chains, in the places of those that do so now: each snapshot keeps its name, and its children their
    /// own. On disk when it returns.
    ///
    /// - Parameter layers: for the chains of an image, bottom first; nil: it stays what it is, above what may be others now.
    /// - Returns: how many snapshots are other layers now.
    public func takePlaces(_ layers: [(chain: String, layer: LayerID?)], of image: SnapshotImage?) throws -> Int {
        try writeDurably(changesContents: false) { writer in
            let database = writer.connection
            var changed = 0
            for (chain, layer) in layers {
                let snapshots = try database.cached(
                    """
                    SELECT s.id, s.parent, s.layer, s.view FROM snapshot_label c JOIN snapshot s ON s.id = c.snapshot
                    WHERE c.name = 'containerd.io/snapshot.ref' AND c.value = ? AND s.layer IS NOT NULL ORDER BY s.id
                    """
                ).bind(1, text: chain).map {
                    ($0.integer(0), $0.integer(1), LayerID($0.integer(2)), ViewID($0.integer(3)))
                }
                for (id, parent, before, viewBefore) in snapshots {
                    var above: [ViewID] = []
                    for place in try database.places(from: parent == 0 ? nil : SnapshotID(parent)).reversed() {
                        if case .layer(let view) = place { above.append(view) }
                    }
                    // Of a layer that stays, too: what it inherits from those below may be another now.
                    let new = layer ?? before
                    let view = try writer.view(of: new, above: above)
                    if before == new, view == viewBefore { continue }
                    try database.cached(
                        """
                        UPDATE snapshot SET layer = ?2, view = ?3, reference = coalesce(?4, reference),
                            manifest_digest = coalesce(?5, manifest_digest) WHERE id = ?1
                        """
                    ).bind(1, id).bind(2, new.row).bind(3, view.row).bind(4, text: image?.reference)
                        .bind(5, digest: image?.manifest).run()
                    changed += 1
                    // What stands on it goes by way of FUSE from now on: its sealed image is of the layers from before.
                    try database.cached(
                        "UPDATE snapshot SET sealed = NULL WHERE sealed IN (SELECT sealed FROM sealed_view WHERE view = ?)"
                    ).bind(1, viewBefore.row).run()
                }
            }
            return changed
        }
    }
}

extension Writer {
    func quarantine(_ layer: LayerID, because reason: String) throws {
        try connection.cached(
            "UPDATE layer SET quarantined_at = ?2, quarantine = ?3 WHERE id = ?1 AND quarantined_at IS NULL"
        ).bind(1, layer.row).bind(2, Int64(time(nil))).bind(3, text: reason).run()
    }

    /// What a layer's record says of proofs, when it comes into the index.
    func noteTrust(of record: LayerRecord, _ layer: LayerID) throws {
        if record.diffIDState == .proven { try noteProven(layer) }
        if record.diffIDState == .mismatch {
            try quarantine(layer, because: Self.mismatch(record.computedDiffID, record.diffID))
        }
        if let tail = record.tail, record.diffIDState == .unknown {
            try connection.cached(
                "INSERT OR REPLACE INTO tar_part (layer, blob_offset, blob_size, bytes) VALUES (?, ?, ?, ?)"
            ).bind(1, layer.row).bind(2, tail.offset).bind(3, Int64(tail.bytes.count)).bind(4, blob: tail.bytes).run()
        }
    }

    /// Notes for ever that a blob with its table of contents is the tar that its image says.
    func noteProven(_ layer: LayerID) throws {
        try connection.cached(
            """
            INSERT OR IGNORE INTO proven_layer (digest, toc_digest, diff_id, proven_at)
            SELECT digest, coalesce(toc_digest, x''), diff_id, ?2 FROM layer WHERE id = ?1 AND diff_id IS NOT NULL
            """
        ).bind(1, layer.row).bind(2, Int64(time(nil))).run()
    }

    static func mismatch(_ computed: Digest?, _ expected: Digest?) -> String {
        "its tar has the digest \(computed?.description ?? "?"), and the image's configuration says \(expected?.description ?? "?")"
    }
}
