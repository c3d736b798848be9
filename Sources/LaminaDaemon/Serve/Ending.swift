import Logging
import ServiceLifecycle
import Synchronization
import UnixSignals

/// How the server is to end: with its mounts, or leaving them to the next process.
final class Ending: Sendable {
    private let state: Mutex<Bool>

    /// - Parameter unmounts: whether SIGTERM ends the mounts too, as it must where nobody holds them.
    init(unmounts: Bool) { state = Mutex(unmounts) }

    /// Whether the mounts end with the server.
    var unmounts: Bool { state.withLock { $0 } }

    /// Somebody asked for the end of the mounts.
    func unmount() { state.withLock { $0 = true } }
}

/// Ends the server at SIGTERM and SIGINT. SIGINT is for the mounts too: it comes from a terminal, or from the supervisor
/// that holds them and is to end itself.
struct SignalWatch: Service {
    /// Trapped before anybody is told that the server is ready.
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
