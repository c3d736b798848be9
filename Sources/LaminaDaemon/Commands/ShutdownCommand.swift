import Glibc
import LaminaSystem

/// `lamina shutdown`: the server ends, and its mounts with it.
public struct ShutdownCommand: Sendable {
    /// What it did.
    struct Report: Encodable {
        var root: String
        var state = "ended"
    }

    public init() {}

    /// How long merges and unmounts may take, in seconds.
    private static let patience = 90.0

    public func run(_ context: CommandContext) throws {
        Interrupts.install()
        let status = try context.client.status()
        do {
            try context.client.shutdown()
        } catch let error as DaemonError where error.code == .noServer {
            // It has ended by itself in this moment.
        }
        let deadline = monotonicSeconds() + Self.patience
        while kill(status.pid, 0) == 0 || errno == EPERM {
            if Interrupts.requested { throw DaemonError(.interrupted, "interrupted") }
            guard monotonicSeconds() < deadline else {
                throw DaemonError(.serverFailed, "the server (process \(status.pid)) has not ended")
            }
            usleep(20_000)
        }
        try context.output.show(Report(root: context.root)) { "\(context.root): the server has ended, and its mounts" }
    }
}
