import Hummingbird
import Logging
import ServiceLifecycle

/// Serves metrics and health over TCP. If it cannot, that is no reason to take mounts down: it reports it and tries again.
struct MetricsServer: Service {
    let address: ListenAddress
    let engine: any ControlledEngine
    let log: Logger

    /// Between two attempts to listen.
    private static let pause = Duration.seconds(10)

    func run() async throws {
        let router = Router(context: BasicRequestContext.self)
        Observability(engine: engine).add(to: router)
        var quiet = log
        quiet.logLevel = max(log.logLevel, .warning)
        let log = log
        let application = Application(
            router: router,
            configuration: ApplicationConfiguration(
                address: .hostname(address.host, port: address.port), serverName: "lamina"),
            onServerRunning: { channel in
                let bound = channel.localAddress.map { "\($0.ipAddress ?? "?"):\($0.port ?? 0)" } ?? "?"
                log.info("metrics are served", metadata: ["address": "\(bound)"])
            }, logger: quiet)
        while !Task.isShuttingDownGracefully, !Task.isCancelled {
            do {
                return try await application.run()
            } catch {
                log.error(
                    "metrics cannot be served", metadata: ["address": "\(address)", "error": "\(describe(error))"])
            }
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: Self.pause) }
        }
    }
}
