import Logging
import ServiceLifecycle
import Synchronization
import UnixSignals

/// How the server should end: with its mounts, or leaving them to the next process.
final class Ending: Sendable {
    private let state: Mutex<Bool>

    /// - Parameter unmounts: whether SIGTERM also ends the mounts, as it must if they are not held.
    init(unmounts: Bool) { state = Mutex(unmounts) }

    /// Whether the mounts end with the server.
    var unmounts: Bool { state.withLock { $0 } }

    /// A request to end the mounts.
    func unmount() { state.withLock { $0 = true } }
}

/// Ends the server at SIGTERM and SIGINT. SIGINT ends the mounts too: it comes from a terminal, or from the supervisor, which
/// holds the mounts and is about to end itself.
struct SignalWatch: Service {
    /// Trapped before any client is told that the server is ready.
    let signals: UnixSignalsSequence
    let ending: Ending
    let log: Logger

    func run() async throws {
        for await signal in signals.cancelOnGracefulShutdown() {
            if signal == .sigint { ending.unmount() }
            log.debug("a signal asks the server to end", metadata: ["signal": "\(signal)"])
            return
        }
    }
}
