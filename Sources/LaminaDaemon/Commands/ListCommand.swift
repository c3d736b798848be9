import Glibc
import LaminaOCI
import LaminaStore

/// `lamina ls`: the images of the store, or the files of one. It always reads the index itself.
public struct ListCommand: Sendable {
    public var image: String?
    /// Of the image whose files are listed; by default this machine's.
    public var platform: String?
    public var long: Bool

    public init(image: String?, platform: String? = nil, long: Bool) {
        self.image = image
        self.platform = platform
        self.long = long
    }

    public func run(_ context: CommandContext) throws {
        let view = try StoreView.open(context)
        guard let image else {
            let images =
                switch view {
                case .index(let index): try index.imageStatus()
                case .server(let client): try client.viewedImages()
                }
            return try context.output.show(images) { long ? Self.longTable(images) : Self.table(images) }
        }
        let reference = try ImageReference(parsing: image).description
        let files: [FileStatus]
        switch view {
        case .index(let index):
            let record = try index.requireImage(reference, platform: platform, root: context.root)
            files = try index.files(of: record)
        case .server(let client):
            files = try client.viewedFiles(FilesRequest(reference: reference, platform: platform))
        }
        try context.output.show(files) { Self.text(files, long: long) }
    }

    static func table(_ images: [ImageStatus]) -> String {
        guard !images.isEmpty else { return "no images; 'lamina pull IMAGE' fetches one" }
        return TextTable(
            ["IMAGE", "PLATFORM", "LAYERS", "SIZE", "IN STORE", "MOUNTS"],
            rightAligned: [2, 3, 4, 5],
            images.map {
                [
                    $0.reference, $0.platform, "\($0.layers)", Units.bytes($0.bytes),
                    Units.percent($0.landedBytes, of: $0.bytes), "\($0.mounts)",
                ]
            }
        ).text
    }

    static func longTable(_ images: [ImageStatus]) -> String {
        guard !images.isEmpty else { return table(images) }
        return TextTable(
            [
                "IMAGE", "PLATFORM", "LAYERS", "COMPRESSED", "SIZE", "IN STORE", "FILES MERGED", "MOUNTS", "PULLED",
                "MANIFEST",
            ],
            rightAligned: [2, 3, 4, 5, 6, 7],
            images.map {
                [
                    $0.reference, $0.platform, "\($0.layers)", Units.bytes($0.compressedBytes), Units.bytes($0.bytes),
                    Units.percent($0.landedBytes, of: $0.bytes), "\($0.mergedContents)/\($0.contents)", "\($0.mounts)",
                    $0.pulledAt, $0.manifestDigest,
                ]
            }
        ).text
    }

    /// Layer by layer from the bottom, as in the index: a name may be in several, and the last one counts.
    static func text(_ files: [FileStatus], long: Bool) -> String {
        var blocks: [String] = []
        var rest = files[...]
        let layerCount = Set(files.map(\.layer)).count
        while let first = rest.first {
            let layer = rest.prefix { $0.layer == first.layer }
            rest = rest.dropFirst(layer.count)
            let head = layerCount > 1 ? "\(first.layer):\n" : ""
            blocks.append(head + (long ? longText(layer) : layer.map { printable($0.path) }.joined(separator: "\n")))
        }
        return blocks.joined(separator: "\n\n")
    }

    private static func longText(_ files: ArraySlice<FileStatus>) -> String {
        TextTable(
            [], rightAligned: [1, 2, 3],
            files.map {
                [
                    typeLetter($0.type) + $0.mode, "\($0.uid)", "\($0.gid)", "\($0.bytes)", $0.modifiedAt,
                    $0.state ?? "-",
                    printable($0.path) + ($0.target.map { " -> " + printable($0) } ?? ""),
                ]
            }
        ).text
    }

    /// In the form of `ls -l`.
    private static func typeLetter(_ type: String) -> String {
        switch type {
        case "directory": "d"
        case "symlink": "l"
        case "character device": "c"
        case "block device": "b"
        case "fifo": "p"
        default: "-"
        }
    }
}
