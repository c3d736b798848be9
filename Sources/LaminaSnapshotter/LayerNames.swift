import LaminaDigest
import LaminaStore

enum LayerNames {
    /// The name of a lazy layer's committed snapshot: one for each layer and parent. Two namespaces may have different snapshots
    /// below one chain ID, and a snapshot has one parent.
    static func committed(chain: String, parent: SnapshotKey?) -> SnapshotKey {
        let below = parent.map { "/" + SHA256.hash($0.bytes).hex } ?? ""
        return SnapshotKey(prefix + chain + below)
    }

    private static let prefix = "lamina-layer/"

    /// The chain ID in the name of a lazy layer's snapshot; nil in other names.
    static func chain(of name: SnapshotKey) -> String? {
        guard name.bytes.starts(with: prefix.utf8) else { return nil }
        return String(
            decoding: name.bytes.dropFirst(prefix.utf8.count).prefix { $0 != UInt8(ascii: "/") }, as: UTF8.self)
    }

    /// The chain IDs of layers, from the bottom
    /// (https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid).
    static func chains(_ diffIDs: [Digest]) -> [Digest] {
        var result: [Digest] = []
        for diffID in diffIDs {
            result.append(result.last.map { SHA256.hash(Array("\($0) \(diffID)".utf8)) } ?? diffID)
        }
        return result
    }
}
