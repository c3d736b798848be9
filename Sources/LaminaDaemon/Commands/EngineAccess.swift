import Glibc
import LaminaStore
import LaminaSystem

/// How a command reaches the store: through the server that has it, or by opening it itself.
enum EngineAccess {
    case server(ControlClient)
    case local(Engine)

    /// How long to wait for a server that is starting or ending, in seconds: between its lock and its socket there is a time in
    /// which it cannot be asked. A server that ends gives its last clients 5 s, and has to end mounts and merges.
    static let patience = 20.0

    /// Asks for a server first; opens the store if none listens.
    ///
    /// - Throws: `busy` if a process that cannot be asked holds the store.
    static func open(_ context: CommandContext) throws -> EngineAccess {
        let deadline = monotonicSeconds() + patience
        while true {
            if try context.client.isServed() { return .server(context.client) }
            do {
                return .local(try Engine(root: context.root, configuration: context.configuration, log: context.log))
            } catch let error as StoreError {
                guard case .locked(let holder) = error.code else { throw error }
                guard isServer(holder), monotonicSeconds() < deadline, !Interrupts.requested else {
                    throw busy(context.root, holder)
                }
                usleep(50_000)
            }
        }
    }

    /// Runs `body` with the access to the store, and closes the access afterwards.
    ///
    /// A server that a command has left behind ends after its last mount, perhaps between two requests. A request that then
    /// finds no server has not been handled, so the other way is taken: if `body` throws `noServer` with a server, it runs
    /// again.
    static func use<Result>(_ context: CommandContext, _ body: (EngineAccess) throws -> Result) throws -> Result {
        let deadline = monotonicSeconds() + patience
        while true {
            let access = try open(context)
            defer { access.close() }
            do {
                return try body(access)
            } catch let error as DaemonError where error.code == .noServer {
                guard case .server = access, monotonicSeconds() < deadline else { throw error }
                usleep(50_000)
            }
        }
    }

    /// Ends an engine that was opened for one command.
    private func close() {
        if case .local(let engine) = self { engine.shutdown(unmount: false) }
    }

    static func isServer(_ holder: String) -> Bool { holder.hasPrefix("lamina serve") }

    static func busy(_ root: String, _ holder: String) -> DaemonError {
        let way =
            isServer(holder)
            ? "it does not answer at \(root)/control.sock; stop it, or wait until it has started"
            : "wait until it has ended, or choose another store with --root"
        return DaemonError(.busy, "the store \(root) is in use by \(holder): \(way)")
    }
}
