/// `lamina serve`: the server of a store, in the foreground.
public struct ServeCommand: Sendable {
    public var exitWhenIdle: Bool
    /// The writing end of a pipe that somebody reads to learn when the server is ready.
    public var readyDescriptor: Int32?

    public init(exitWhenIdle: Bool, readyDescriptor: Int32?) {
        self.exitWhenIdle = exitWhenIdle
        self.readyDescriptor = readyDescriptor
    }

    public func run(_ context: CommandContext) throws {
        let signal = ReadySignal(descriptor: readyDescriptor)
        do {
            try context.requireRoot(for: "serving a store")
        } catch {
            signal.failed(error)
            throw error
        }
        let server = Server(
            root: context.root, configuration: context.configuration, endsWhenIdle: exitWhenIdle, log: context.log)
        try server.run(signal)
    }
}
