import LaminaDigest
import LaminaOCI

/// A layer as the image store shows it.
struct ShownLayer: Hashable {
    var id: Digest
    var parent: Digest?
    /// Of the links of the layers below, the nearest first.
    var lowers: [String]
    /// Where its files are, absolute.
    var directory: String
    var diffID: Digest
    /// Of the tar, in bytes.
    var tarSize: Int64
    /// The blob's own, where all of it was hashed: what podman has it from then on need not be downloaded.
    var blob: Digest?
    var blobSize: Int64
    /// containers/storage's number for it: 0 none, 2 gzip, 4 zstd (`pkg/archive`, `Compression`).
    var compression: Int64
    /// The tar-split, absolute.
    var tarSplit: String?

    var link: String { StorageNames.link(id) }
}

/// An image as the image store shows it.
struct ShownImage: Hashable {
    var id: Digest
    /// `host/name:tag` or `host/name@digest`, sorted.
    var names: [String]
    var top: Digest
    var manifest: [UInt8]
    var config: [UInt8]
    /// RFC 3339.
    var created: String

    var manifestDigest: Digest { manifest.withUnsafeBytes { SHA256.hash($0) } }

    /// What belongs to it, by the keys that containers/image gives.
    var bigData: [(key: String, bytes: [UInt8])] {
        [("\(id)", config), ("manifest", manifest), ("manifest-\(manifestDigest)", manifest)]
    }
}

/// `layers.json` and `images.json`, as containers/storage reads them (`layers.go`, `images.go`).
enum StorageDocuments {
    static func layers(_ layers: [ShownLayer]) -> [UInt8] {
        JSON.array(
            layers.map { layer in
                var members: [JSON.Member] = [
                    .init("id", .string(layer.id.hex)), .init("created", .string(StorageTime.unknown)),
                    .init("diff-digest", .string("\(layer.diffID)")), .init("diff-size", .integer(layer.tarSize)),
                    .init("compressed-size", .integer(layer.blobSize)),
                    .init("compression", .integer(layer.compression)),
                ]
                if let parent = layer.parent { members.append(.init("parent", .string(parent.hex))) }
                if let blob = layer.blob { members.append(.init("compressed-diff-digest", .string("\(blob)"))) }
                return .object(members)
            }
        ).sortedBytes()
    }

    static func images(_ images: [ShownImage]) -> [UInt8] {
        JSON.array(
            images.map { image in
                let data = image.bigData
                return .object([
                    .init("id", .string(image.id.hex)), .init("digest", .string("\(image.manifestDigest)")),
                    .init("names", .array(image.names.map { .string($0) })),
                    .init("layer", .string(image.top.hex)), .init("metadata", .string("{}")),
                    .init("created", .string(image.created)),
                    .init("big-data-names", .array(data.map { .string($0.key) })),
                    .init(
                        "big-data-sizes", .object(data.map { .init($0.key, .integer(Int64($0.bytes.count))) })),
                    .init(
                        "big-data-digests",
                        .object(
                            data.map { item in
                                .init(item.key, .string("\(item.bytes.withUnsafeBytes { SHA256.hash($0) })"))
                            })),
                ])
            }
        ).sortedBytes()
    }

    /// What `podman images` calls the time of an image: the configuration's, where it is one.
    static func created(_ config: [UInt8]) -> String {
        guard let document = try? JSON.parse(config), case .string(let text)? = document["created"] else {
            return StorageTime.unknown
        }
        return StorageTime.valid(text) ?? StorageTime.unknown
    }
}
