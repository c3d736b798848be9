import LaminaSystem

/// `lamina serve`: the server of a store, in the foreground.
public struct ServeCommand: Sendable {
    public var exitWhenIdle: Bool
    /// The writing end of a pipe; its reader learns from it when the server is ready.
    public var readyDescriptor: Int32?

    /// Whether SIGTERM also ends the mounts, even if they are held for the next server.
    public var unmountOnExit: Bool

    /// The socket where containerd is answered; by default `[snapshotter] address`.
    public var address: String?

    public init(
        exitWhenIdle: Bool, unmountOnExit: Bool = false, address: String? = nil, readyDescriptor: Int32?
    ) {
        self.exitWhenIdle = exitWhenIdle
        self.address = address
        self.unmountOnExit = unmountOnExit
        self.readyDescriptor = readyDescriptor
    }

    public func run(_ context: CommandContext) throws {
        let signal = ReadySignal(descriptor: readyDescriptor)
        do {
            try context.requireRoot(for: "serving a store")
            try requireContainerd(context)
        } catch {
            signal.failed(error)
            throw error
        }
        let address = (address ?? context.configuration.snapshotter.address).map(absolutePath)
        let server = Server(
            root: context.root, configuration: context.configuration, endsWhenIdle: exitWhenIdle,
            unmountsOnExit: unmountOnExit, containerdAddress: address, log: context.log)
        try server.run(signal)
    }

    private func requireContainerd(_ context: CommandContext) throws(DaemonError) {
        #if !Containerd
            guard address == nil, context.configuration.snapshotter.address == nil else {
                throw DaemonError(
                    .configuration,
                    "this lamina was built without the snapshotter for containerd: build it by 'make build'")
            }
        #endif
    }
}

/// `lamina serve --supervise`: a parent of servers, in the foreground.
public struct SuperviseCommand: Sendable {
    public var readyDescriptor: Int32?
    public var watchdogSeconds: Double

    /// What is started in place of this program.
    public var program: String?

    public init(readyDescriptor: Int32?, watchdogSeconds: Double, program: String? = nil) {
        self.readyDescriptor = readyDescriptor
        self.watchdogSeconds = watchdogSeconds
        self.program = program
    }

    /// - Parameter words: the command line; everything except the supervisor's own options is for the server.
    /// - Returns: the code to exit with.
    public func run(_ words: [String], _ context: CommandContext) throws -> Int32 {
        do {
            return try supervise(words, context)
        } catch {
            ReadySignal(descriptor: readyDescriptor).failed(error)
            throw error
        }
    }

    private func supervise(_ words: [String], _ context: CommandContext) throws -> Int32 {
        try context.requireRoot(for: "serving a store")
        ProcessStart.setServerMask()
        let own = realPath("/proc/self/exe") ?? words[0]
        let supervisor = try Supervisor(
            options: Supervisor.Options(
                program: program ?? own, running: program ?? "/proc/self/exe", root: context.root,
                words: Self.serverWords(words), readyDescriptor: readyDescriptor, watchdogSeconds: watchdogSeconds),
            log: context.log)
        return try supervisor.run()
    }

    /// The supervisor's own options, and whether a value follows.
    private static let own = ["--supervise": false, "--ready-fd": true, "--watchdog-seconds": true, "--program": true]

    static func serverWords(_ words: [String]) -> [String] {
        var result: [String] = []
        var rest = words[...]
        while let word = rest.popFirst() {
            if let takesValue = own[word] {
                if takesValue { rest = rest.dropFirst() }
            } else if !own.keys.contains(where: { word.hasPrefix($0 + "=") }) {
                result.append(word)
            }
        }
        return result
    }
}
