import LaminaOCI
import LaminaStore

/// `lamina inspect`: one thing of the store, with all that the index says about it. It always reads the index itself.
public struct InspectCommand: Sendable {
    /// An image, or `sha256:` with the beginning of a layer's or a content's digest.
    public var thing: String
    /// A path in the image.
    public var path: String?
    /// Of the image; by default this machine's.
    public var platform: String?

    public init(thing: String, path: String? = nil, platform: String? = nil) {
        self.thing = thing
        self.path = path
        self.platform = platform
    }

    /// With fewer digits than these, too many digests would match.
    static let shortestPrefix = 6

    /// What is shown for a digest: the layers and contents that have it.
    struct Found: Encodable {
        var layers: [LayerInspection]
        var contents: [ContentInspection]
    }

    public func run(_ context: CommandContext) throws {
        if thing.hasPrefix("sha256:") {
            guard path == nil, platform == nil else {
                throw DaemonError(.usage, "a path or a platform is one of an image, not of a digest")
            }
            let found = try find(context.root)
            return try context.output.show(found) { InspectionText.text(of: found.layers, found.contents) }
        }
        let reference = try ImageReference(parsing: thing).description
        let index = try Index(root: context.root)
        let image = try index.requireImage(reference, platform: platform, root: context.root)
        guard let path else {
            guard let inspection = try index.inspect(image: image) else {
                throw DaemonError(.notFound, "\(reference) was removed from the store meanwhile")
            }
            return try context.output.show(inspection) { InspectionText.text(of: inspection) }
        }
        let full = "/" + path.split(separator: "/").filter { $0 != "." }.joined(separator: "/")
        let files = try index.inspect(path: full, of: image)
        guard !files.isEmpty else {
            throw DaemonError(
                .notFound, "no layer of \(reference) has \(full); 'lamina ls \(reference)' shows what they have")
        }
        try context.output.show(files) { InspectionText.text(of: files) }
    }

    private func find(_ root: String) throws -> Found {
        let digits = thing.dropFirst("sha256:".count)
        guard (Self.shortestPrefix...64).contains(digits.count), digits.allSatisfy(\.isHexDigit) else {
            throw DaemonError(.usage, "a digest has \(Self.shortestPrefix) to 64 hexadecimal digits behind 'sha256:'")
        }
        let prefix = thing.lowercased()
        let index = try Index(root: root)
        let found = Found(
            layers: try index.inspect(layersWithPrefix: prefix),
            contents: try index.inspect(contentsWithPrefix: prefix, limit: 2))
        // The contents of one digest are shown as one, even if layers disagree about their chunks.
        let digests = Set(found.layers.map(\.digest) + found.contents.map(\.digest))
        if digests.isEmpty {
            throw DaemonError(.notFound, "the store \(root) has neither a layer nor a content \(thing)")
        }
        guard digests.count == 1 else {
            throw DaemonError(
                .usage, "several digests begin with \(thing): \(digests.sorted().joined(separator: ", "))")
        }
        return found
    }
}
