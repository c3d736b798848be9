public import LaminaDigest

/// The config of an image: its platform, and the diff IDs of its layers. The rest is kept unchanged.
///
/// https://github.com/opencontainers/image-spec/blob/main/config.md
public struct ImageConfig: Sendable, Hashable {
    /// The document as it came.
    public let bytes: [UInt8]
    public let platform: Platform
    /// The digests of the uncompressed layers, the lowest first.
    public let diffIDs: [Digest]
    /// The `history` array as separate JSON, names sorted; empty if there is none.
    public let historyBytes: [UInt8]

    private let document: JSON

    /// Reads a config.
    ///
    /// - Parameter name: the name for errors.
    /// - Throws: `badManifest`, `unsupported` for diff IDs that are not SHA-256.
    public init(parsing bytes: [UInt8], name: String) throws(OCIError) {
        let field = try JSONField(parsing: bytes, as: "config \(name)")
        self.bytes = bytes
        document = field.value
        platform = try Platform(field)
        let filesystem = try field.required("rootfs")
        if let type = try filesystem.optional("type"), try type.string() != "layers" { throw type.wrong("'layers'") }
        var digests: [Digest] = []
        for digest in try filesystem.optional("diff_ids")?.elements(atMost: ImageLimits.layerCount) ?? [] {
            digests.append(try digest.digest())
        }
        diffIDs = digests
        historyBytes = try field.optional("history")?.value.sortedBytes() ?? []
    }

    /// The same config for layers with other diff IDs, as after a conversion; everything else stays, with names sorted.
    public func replacingDiffIDs(_ diffIDs: [Digest]) -> [UInt8] {
        var changed = document
        var filesystem = changed["rootfs"] ?? .object([])
        filesystem["type"] = .string("layers")
        filesystem["diff_ids"] = .array(diffIDs.map { .string($0.description) })
        changed["rootfs"] = filesystem
        return changed.sortedBytes()
    }
}
