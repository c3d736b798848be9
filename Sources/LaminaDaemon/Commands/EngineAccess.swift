import Glibc
import LaminaStore
import LaminaSystem

/// How a command reaches the store: through the server that has it, or by opening it itself.
enum EngineAccess {
    case server(ControlClient)
    case local(Engine)

    /// How long to wait for a server that is just starting or ending, in seconds: between its lock and its socket there
    /// is a moment in which it cannot be asked.
    static let patience = 5.0

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

    static func isServer(_ holder: String) -> Bool { holder.hasPrefix("lamina serve") }

    static func busy(_ root: String, _ holder: String) -> DaemonError {
        let way =
            isServer(holder)
            ? "it does not answer at \(root)/control.sock; stop it, or wait until it has started"
            : "wait until it has ended, or choose another store with --root"
        return DaemonError(.busy, "the store \(root) is in use by \(holder): \(way)")
    }
}
