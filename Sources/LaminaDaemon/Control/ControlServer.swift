import Hummingbird
import LaminaSystem
import Logging
import NIOCore
import ServiceLifecycle

/// The control server as a service: binds, says that it is ready, and answers until it is asked to end.
struct ControlServer: Service {
    let socket: ControlSocket
    let routes: ControlRoutes
    let log: Logger
    /// Called once clients can find the server.
    let ready: @Sendable () -> Void

    func run() async throws {
        // One thread is plenty for a socket that a handful of commands talk to; by default there is one a core.
        if Self.useOneThread { log.debug("the control server runs on one thread") }
        let (path, directory) = try socket.provisionalPath()
        var quiet = log
        // Hummingbird greets with the provisional path, which nobody needs to know.
        quiet.logLevel = max(log.logLevel, .warning)
        let (socket, ready, log) = (socket, ready, log)
        let application = Application(
            router: routes.router(),
            configuration: ApplicationConfiguration(
                address: .unixDomainSocket(path: path), serverName: "lamina", backlog: 64),
            onServerRunning: { _ in
                do {
                    try socket.publish()
                    ready()
                } catch {
                    log.error("the control socket cannot be published", metadata: ["error": "\(error)"])
                }
            },
            logger: quiet)
        defer { socket.withdraw() }
        try await application.run()
        withExtendedLifetime(directory) {}
    }

    /// Set before the process's first event loop starts, and never twice.
    private static let useOneThread: Bool = {
        NIOSingletons.groupLoopCountSuggestion = 1
        return true
    }()
}
