import LaminaOCI

/// `lamina pull`: an image comes into the store.
public struct PullCommand: Sendable {
    public var reference: String
    public var platform: String?
    public var plainHTTP: Bool
    public var lazy: Bool
    /// Whether its files should stay, however full the store is; false changes nothing.
    public var pin: Bool
    public var credentialsFile: String?

    public init(
        reference: String, platform: String?, plainHTTP: Bool, lazy: Bool, pin: Bool = false,
        credentialsFile: String? = nil
    ) {
        self.pin = pin
        self.credentialsFile = credentialsFile
        self.reference = reference
        self.platform = platform
        self.plainHTTP = plainHTTP
        self.lazy = lazy
    }

    public func run(_ context: CommandContext) throws {
        let request = try makeRequest(context)
        Interrupts.install()
        let display = ProgressDisplay(output: context.output)
        let result = try stoppable("pull") {
            defer { display.end() }
            return try EngineAccess.use(context) { access in
                switch access {
                case .server(let client):
                    return try client.pull(request) { display.show($0) }
                case .local(let engine):
                    try request.credentialsFile.map { try engine.use(credentialsFile: $0, for: request.reference) }
                    return try engine.pull(
                        request.reference, platform: request.platform, plainHTTP: request.plainHTTP, lazy: request.lazy,
                        pin: request.pin, progress: { display.show($0) }, shouldStop: { Interrupts.requested })
                }
            }
        }
        try context.output.show(result) { Self.text(result) }
    }

    /// Checks the user's input before any request; relative paths become absolute.
    func makeRequest(_ context: CommandContext) throws -> PullRequest {
        PullRequest(
            reference: try ImageReference(parsing: reference).description,
            platform: try platform.map { try Platform(parsing: $0).description },
            plainHTTP: plainHTTP || context.configuration.speaksPlainHTTP(reference), lazy: lazy,
            pin: pin ? true : nil, credentialsFile: credentialsFile.map(absolutePath))
    }

    static func text(_ result: PullResult) -> String {
        let layers = counted(result.layers, "layer")
        let fetched = "\(Units.bytes(result.fetchedBytes)) fetched"
        let state =
            result.complete
            ? "complete, \(Units.bytes(result.bytes))"
            : "indexed, \(Units.bytes(result.landedBytes)) of \(Units.bytes(result.bytes)) in the store"
        return "\(result.reference) (\(result.platform)): \(layers), \(state), \(fetched)\n\(result.manifestDigest)"
            + (result.podman.map { "\n\($0)" } ?? "")
    }
}

/// Runs work that Ctrl-C stops; any error after that means that it was stopped.
func stoppable<Result>(_ command: String, _ body: () throws -> Result) throws -> Result {
    do {
        return try body()
    } catch  where Interrupts.requested {
        throw DaemonError(
            .interrupted, "interrupted; what has arrived is kept, and the same 'lamina \(command)' goes on from there")
    }
}
