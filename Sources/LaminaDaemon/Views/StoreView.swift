import Glibc
import LaminaStore

/// How a command that only looks sees a store: the index itself; or, for a user who may not have that, what the server shows of it.
enum StoreView {
    case index(Index)
    case server(ControlClient)

    /// - Throws: `StoreError.foreign` for who may not look, with what to do.
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
