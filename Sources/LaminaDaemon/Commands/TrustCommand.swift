import LaminaOCI
import LaminaStore

/// `lamina trust show`: which layers of an image are claimed, proven or in quarantine, and why. Reads the index; no server is needed.
public struct TrustCommand: Sendable {
    public var reference: String
    public var platform: String?

    public init(reference: String, platform: String? = nil) {
        self.reference = reference
        self.platform = platform
    }

    /// What is shown of an image.
    struct Report: Encodable {
        var image: String
        /// Whether its chains are committed only when they are proven.
        var requiresProof: Bool
        var layers: [ChainStatus]
    }

    public func run(_ context: CommandContext) throws {
        let name = try ImageReference(parsing: reference).description
        let index = try Index(root: context.root)
        // Those of containerd, by the name that they were first asked for; else those of an image that was pulled.
        var layers = try index.chainStatus(ofImage: name)
        if layers.isEmpty {
            let image = try index.requireImage(name, platform: platform, root: context.root)
            layers = try index.chainStatus(of: image)
        }
        let report = Report(image: name, requiresProof: context.configuration.requiresProof(name), layers: layers)
        try context.output.show(report) { Self.text(report) }
    }

    static func text(_ report: Report) -> String {
        var lines = [
            "\(report.image): chains are "
                + (report.requiresProof
                    ? "committed only when they are proven" : "committed as claimed, and proven behind that")
        ]
        for layer in report.layers {
            lines.append("\(layer.layer)  \(layer.state)")
            lines.append("  diff ID    \(layer.diffID ?? "not said by any image")")
            lines.append("  contents   \(layer.tocDigest ?? "none: the layer was read as a whole")")
            lines.append("  from       \(layer.repository)")
            if let chain = layer.chain { lines.append("  chain      \(chain)") }
            lines.append("  why        \(words(layer))")
        }
        return lines.joined(separator: "\n")
    }

    private static func words(_ layer: ChainStatus) -> String {
        switch ChainState(rawValue: layer.state) {
        case .proven: "its tar was hashed, and has the diff ID"
        case .quarantined: layer.reason ?? "it is another layer than was said"
        case .claimed, nil:
            layer.reason
                ?? "whoever wrote the image says so; each file is verified by the table of contents, the tar was not hashed yet"
        }
    }
}
