import LaminaOCI

/// `lamina seal`: an image comes into the store as a whole, and gets what the kernel needs to show it without lamina.
public struct SealCommand: Sendable {
    public var reference: String
    public var platform: String?
    public var plainHTTP: Bool
    public var credentialsFile: String?

    public init(reference: String, platform: String?, plainHTTP: Bool, credentialsFile: String? = nil) {
        self.reference = reference
        self.platform = platform
        self.plainHTTP = plainHTTP
        self.credentialsFile = credentialsFile
    }

    public func run(_ context: CommandContext) throws {
        let request = SealRequest(
            reference: try ImageReference(parsing: reference).description,
            platform: try platform.map { try Platform(parsing: $0).description },
            plainHTTP: plainHTTP || context.configuration.speaksPlainHTTP(reference),
            credentialsFile: credentialsFile.map(absolutePath))
        Interrupts.install()
        let display = ProgressDisplay(output: context.output)
        let result = try stoppable("seal") {
            defer { display.end() }
            return try EngineAccess.use(context) { access in
                switch access {
                case .server(let client):
                    return try client.seal(request) { display.show($0) }
                case .local(let engine):
                    try request.credentialsFile.map { try engine.use(credentialsFile: $0, for: request.reference) }
                    return try engine.seal(
                        request.reference, platform: request.platform, plainHTTP: request.plainHTTP,
                        progress: { display.show($0) }, shouldStop: { Interrupts.requested })
                }
            }
        }
        if let warning = result.warning { context.output.warn(warning) }
        try context.output.show(result) {
            "\(result.reference): sealed, \(counted(Int(result.inodes), "file")) in \(Units.bytes(result.bytes))\n\(result.path)"
        }
    }
}
