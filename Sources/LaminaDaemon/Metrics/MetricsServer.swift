import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import ServiceLifecycle

/// Serves metrics and health over TCP. That it cannot is no reason to take mounts down: it says so and tries again.
///
/// Any process that reaches the port may connect. Each connection takes a descriptor, and so does each file in passthrough mode. So
/// few connections are open at a time, and none for long. Further ones wait in the queue of the socket.
struct MetricsServer: Service {
    let address: ListenAddress
    let engine: any ControlledEngine
    let log: Logger

    /// Between two attempts to listen.
    private static let pause = Duration.seconds(10)
    /// A Prometheus or two, the probes of a kubelet, and a person with curl.
    static let connectionLimit = 32
    /// How long a connection may say nothing: a request is one packet, and the next scrape can connect again.
    private static let idleLimit = TimeAmount.seconds(5)
    /// How long it lasts at most, whatever is said by it. Prometheus gives up on an answer after 10 seconds by default.
    private static let lifetime = TimeAmount.seconds(30)

    func run() async throws {
        let router = Router(context: BasicRequestContext.self)
        Observability(engine: engine).add(to: router)
        let (quiet, log) = (log.quiet, log)
        let application = Application(
            router: router,
            server: .http1(
                configuration: HTTP1Channel.Configuration(
                    additionalChannelHandlers: [ConnectionLifetime(Self.lifetime)], idleTimeout: Self.idleLimit)),
            configuration: ApplicationConfiguration(
                address: .hostname(address.host, port: address.port), serverName: "lamina",
                availableConnectionsDelegate: MaximumAvailableConnections(Self.connectionLimit, logger: quiet)),
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

/// Closes a connection when its time is up. Silence is no measure of one that sends a byte now and then.
final class ConnectionLifetime: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = NIOAny

    private let limit: TimeAmount
    private var end: Scheduled<Void>?

    init(_ limit: TimeAmount) { self.limit = limit }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        end = context.eventLoop.scheduleTask(in: limit) { channel.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { end?.cancel() }
}
