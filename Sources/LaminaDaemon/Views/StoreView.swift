import Glibc
import LaminaStore

/// How a command that only reads sees a store: by the index itself, or, without the right to open it, by the server.
enum StoreView {
    case index(Index)
    case server(ControlClient)

    /// - Throws: `StoreError.foreign` for a user without the right to look; it says what to do.
    static func open(_ context: CommandContext) throws -> StoreView {
        do {
            return .index(try Index(root: context.root))
        } catch let error as StoreError where error.code == .foreign && geteuid() != 0 {
            let client = ControlClient(viewsOf: context.root) { Interrupts.requested }
            do {
                _ = try client.viewedStatus()
                return .server(client)
            } catch let failure as DaemonError where failure.code == .noServer || failure.code == .permission {
                var error = error
                error.message +=
                    failure.code == .noServer
                    ? "; where a server runs, [store] group names a group that may look"
                    : "; the server answers the members of its [store] group, and this user is none of them"
                throw error
            }
        }
    }
}
