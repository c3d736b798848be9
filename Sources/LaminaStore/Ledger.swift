import Glibc
public import LaminaDigest
import LaminaSQLite

/// What ties a layer's table of contents to the manifest that names the layer. Raw values are stored.
public enum TOCProof: Int64, Sendable {
    /// Nothing yet.
    case none = 0
    /// The manifest names its digest.
    case manifest = 1
    /// The blob that it stands in was hashed as a whole.
    case blob = 2
    /// There is none: the index was made of the blob itself while it was hashed.
    case whole = 3
}

/// What is known of a layer's diff ID. Raw values are stored.
public enum DiffIDState: Int64, Sendable {
    case unknown = 0
    /// The tar was hashed, or put together again from what was fetched, and has the digest.
    case proven = 1
    /// It has another one.
    case mismatch = 2
    /// Not everything that the tar was made of was fetched, and nothing is fetched twice.
    case notProvable = 3
}

/// The ledger of a layer: what has been proven of it.
public struct LayerLedger: Sendable {
    public var digest: Digest
    public var format: Int
    public var tocDigest: Digest?
    public var tocChecksum: Digest?
    public var tocProof: TOCProof
    public var diffID: Digest?
    public var diffIDState: DiffIDState
    /// What the tar's digest really is, where it is not the diff ID.
    public var computedDiffID: Digest?
    public var areChunksProven: Bool
    public var areFilesProven: Bool
}

extension Index {
    /// What has been proven of a layer.
    public func ledger(of layer: LayerID) throws -> LayerLedger {
        let ledger = try read { database in
            try database.cached(
                """
                SELECT digest, format, toc_digest, toc_checksum, toc_proof, diff_id, diff_id_state, computed_diff_id,
                       chunks_proven_at IS NOT NULL, files_proven_at IS NOT NULL
                FROM layer WHERE id = ?
                """
            ).bind(1, layer.row).first { row -> LayerLedger in
                guard let digest = row.digest(0), let tocProof = TOCProof(rawValue: row.integer(4)),
                    let diffIDState = DiffIDState(rawValue: row.integer(6))
                else { throw StoreError(.damaged, "\(layer) of the index makes no sense") }
                return LayerLedger(
                    digest: digest, format: Int(row.integer(1)), tocDigest: row.digest(2), tocChecksum: row.digest(3),
                    tocProof: tocProof, diffID: row.digest(5), diffIDState: diffIDState,
                    computedDiffID: row.digest(7), areChunksProven: row.integer(8) != 0,
                    areFilesProven: row.integer(9) != 0)
            }
        }
        guard let ledger else { throw StoreError(.notFound, "\(layer) is not in the index") }
        return ledger
    }
}
