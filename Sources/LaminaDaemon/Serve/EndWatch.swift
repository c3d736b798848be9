import LaminaSystem
import Logging
import ServiceLifecycle

/// Waits until the server should end: a client asked for it, or nothing is mounted any more and the server was told to end
/// then.
struct EndWatch: Service {
    let engine: any ControlledEngine
    let activity: Activity
    let endsWhenIdle: Bool
    let requests: AsyncStream<Void>
    let request: AsyncStream<Void>.Continuation
    let ending: Ending
    let log: Logger

    /// A server that gets no request ends after this many seconds: its starter is gone.
    static let patience = 15

    func run() async throws {
        let watch = endsWhenIdle ? Task { await watchMounts() } : nil
        defer { watch?.cancel() }
        for await _ in requests.cancelOnGracefulShutdown() { return }
    }

    /// Whether a mount needs the server.
    private static func needsServer(_ engine: any ControlledEngine) throws -> Bool {
        try engine.mounts().contains { $0.sealed != true }
    }

    private func watchMounts() async {
        var seconds = 0
        while (try? await Task.sleep(for: .seconds(1))) != nil {
            seconds += 1
            guard activity.running == 0, activity.everUsed || seconds >= Self.patience else { continue }
            let engine = engine
            do {
                guard try await onThread("mounts", { try Self.needsServer(engine) }) == false, activity.close() else {
                    continue
                }
                // Checked again after no more work may begin: a client may have come and gone in between, and have a mount. And
                // the table shows only this mount namespace: the kernel knows of mounts elsewhere.
                if try await onThread("mounts", { try !Self.needsServer(engine) && engine.release() }) {
                    log.info("the server ends: nothing is mounted any more that needs it")
                    ending.unmount()
                    request.yield()
                    return
                }
            } catch {
                log.warning("the mounts cannot be listed", metadata: ["error": "\(describe(error))"])
            }
            activity.reopen()
        }
    }
}
