import LaminaOCI
import LaminaStore

/// `lamina rm`: an image leaves the store.
public struct RemoveCommand: Sendable {
    public var references: [String]
    /// Whether what nothing holds any more is deleted at once.
    public var collects: Bool

    public init(references: [String], collects: Bool) {
        self.references = references
        self.collects = collects
    }

    public func run(_ context: CommandContext) throws {
        let names = try references.map { try ImageReference(parsing: $0).description }
        var results: [RemoveResult] = []
        try EngineAccess.use(context) { access in
            for (number, name) in names.enumerated().dropFirst(results.count) {
                // Once for all of them.
                let request = RemoveRequest(reference: name, collects: collects && number == names.count - 1)
                switch access {
                case .server(let client): results.append(try client.remove(request))
                case .local(let engine): results.append(try engine.removeImage(name, collects: request.collects))
                }
            }
        }
        try context.output.show(results) {
            results.map { result in
                "\(result.reference): removed"
                    + (result.garbage.map { "; " + GarbageCommand.text($0, dryRun: false) } ?? "")
            }.joined(separator: "\n")
        }
    }
}

/// `lamina gc`: deletes what nothing holds.
public struct GarbageCommand: Sendable {
    public var dryRun: Bool

    public init(dryRun: Bool) { self.dryRun = dryRun }

    public func run(_ context: CommandContext) throws {
        let report = try EngineAccess.use(context) { access in
            switch access {
            case .server(let client): try client.collectGarbage(GarbageRequest(dryRun: dryRun))
            case .local(let engine): try engine.collectGarbage(dryRun: dryRun)
            }
        }
        try context.output.show(report) { Self.text(report, dryRun: dryRun) }
    }

    static func text(_ report: GarbageReport, dryRun: Bool) -> String {
        let what =
            "\(counted(report.layers, "layer")), \(counted(report.contents, "content")), \(counted(report.files, "file"))"
        return dryRun
            ? "would free \(Units.bytes(report.bytes)): \(what)" : "\(Units.bytes(report.bytes)) freed: \(what)"
    }
}

/// `lamina pin` and `lamina unpin`: whether an image's files stay, however full the store is.
public struct PinCommand: Sendable {
    public var reference: String
    public var pinned: Bool

    public init(reference: String, pinned: Bool) {
        self.reference = reference
        self.pinned = pinned
    }

    public func run(_ context: CommandContext) throws {
        let request = PinRequest(reference: try ImageReference(parsing: reference).description, pinned: pinned)
        let result = try EngineAccess.use(context) { access in
            switch access {
            case .server(let client): try client.pin(request)
            case .local(let engine): try engine.pin(request.reference, pinned)
            }
        }
        try context.output.show(result) { "\(result.reference): " + (result.pinned ? "pinned" : "not pinned any more") }
    }
}

/// `lamina inspect --opened`: the files of an image that were opened first, in their order.
public struct OpenedCommand: Sendable {
    public var reference: String
    public var platform: String?

    public init(reference: String, platform: String? = nil) { (self.reference, self.platform) = (reference, platform) }

    public func run(_ context: CommandContext) throws {
        let index = try Index(root: context.root)
        let reference = try ImageReference(parsing: reference).description
        let image = try index.requireImage(reference, platform: platform, root: context.root)
        // What the server has not recorded yet is missing here; JSON cannot express bytes that are not UTF-8.
        let paths = try index.opened(of: image)
        if context.output.json {
            return try context.output.show(paths.map { String(decoding: $0, as: UTF8.self) }) { "" }
        }
        try context.output.write(paths.flatMap { $0 + [UInt8(ascii: "\n")] })
    }
}
