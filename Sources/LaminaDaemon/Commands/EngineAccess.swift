import Glibc
import LaminaStore
import LaminaSystem

/// How a command reaches the store: through the server that has it, or by opening it itself.
enum EngineAccess {
    case server(ControlClient)
    case local(Engine)

    /// How long to wait for a server that is just starting or ending, in seconds: between its lock and its socket there
    /// is a time in which it cannot be asked. One that ends gives its last clients 5 s, and has mounts and merges to end.
    static let patience = 20.0

    /// Asks for a server first; opens the store where none listens.
    ///
    /// - Throws: `busy` when something holds the store that cannot be asked.
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

    /// Runs `body` with the way to the store, and closes that behind it.
    ///
    /// A server that a command has left behind ends after its last mount, perhaps between two questions to it. Who finds nobody then has
    /// not been heard, and takes the other way: `body` is run again when it throws `noServer` of a server.
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
