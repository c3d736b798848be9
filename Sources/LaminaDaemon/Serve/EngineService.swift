import LaminaSystem
import Logging
import ServiceLifecycle

/// Keeps the engine as long as the other services run, and ends it after them.
struct EngineService: Service {
    let engine: any ControlledEngine
    let notifier: Notifier
    let ending: Ending
    let log: Logger

    func run() async throws {
        // Cancelled if another service fails: the engine must be ended then too.
        try? await gracefulShutdown()
        if !notifier.stopping(), !ending.unmounts {
            log.warning("whoever held the mounts is gone, so they end with this server")
            ending.unmount()
        }
        let unmount = ending.unmounts
        log.info(unmount ? "the server ends" : "the server ends, and leaves its mounts to the next one")
        let engine = engine
        try await onThread("shutdown") { engine.shutdown(unmount: unmount) }
    }
}
