import Logging
import ServiceLifecycle

/// Keeps the engine for as long as the other services run, and ends it after them.
struct EngineService: Service {
    let engine: any ControlledEngine
    let notifier: Notifier
    let log: Logger

    func run() async throws {
        // Cancelled when another service fails: the engine has to be ended then too.
        try? await gracefulShutdown()
        notifier.stopping()
        log.info("the server ends")
        let engine = engine
        try await onThread("shutdown") { engine.shutdown(unmount: true) }
    }
}
