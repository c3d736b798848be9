import Glibc
import Hummingbird
import HummingbirdCore
import LaminaSystem
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle

/// Answers the members of `[store] group` at a socket outside of the store, which they may not enter. It only reads, and its queries are
/// fixed: a client's SQL never runs in the server.
struct ViewServer: Service {
    let root: String
    /// The group that may look.
    let group: gid_t
    let viewed: any ViewedStore
    let log: Logger

    /// Where the socket of a store is: in a directory that only root may write to, by a name that who knows the store's can tell.
    static func path(root: String) -> String {
        // The store's directory is no secret. FNV-1a tells a machine's stores apart; one that is made to collide is its operator's own.
        let hash = root.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
        return "\(directory)/views-\(String(hash, radix: 16)).sock"
    }

    private static let directory = "/run/lamina"
    /// As for the metrics' port: a member may connect often.
    private static let connectionLimit = 32
    private static let idleLimit = TimeAmount.seconds(5)
    private static let lifetime = TimeAmount.seconds(60)

    func run() async throws {
        do {
            try await serve()
        } catch {
            // Commands of others say that they have no right, as without a group; nothing else hangs on it.
            log.error("the group that may look is not answered", metadata: ["error": "\(describe(error))"])
            try? await gracefulShutdown()
        }
    }

    private func serve() async throws {
        let socket = ControlSocket(path: Self.path(root: root))
        if mkdir(Self.directory, 0o711) == 0 { chmod(Self.directory, 0o711) }
        let listening = try socket.listen(nil, for: group)
        defer { socket.withdraw() }
        let logger = log.quiet
        let http = HTTP1Channel(
            answering: ViewRoutes(viewed: viewed).router(), log: logger,
            HTTP1Channel.Configuration(
                additionalChannelHandlers: [ConnectionLifetime(Self.lifetime)], idleTimeout: Self.idleLimit))
        let accepted = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        AvailableConnectionsChannelHandler(maxConnections: Self.connectionLimit))
                }
            }
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .bind(fcntl(listening.descriptor, F_DUPFD_CLOEXEC, 3)) { child in
                http.setup(channel: child, logger: logger)
            }
        log.info("a group may look", metadata: ["socket": "\(socket.path)", "group": "\(group)"])
        try await withGracefulShutdownHandler {
            try await accepted.executeThenClose { inbound in
                try await withThrowingDiscardingTaskGroup { connections in
                    for try await connection in inbound {
                        connections.addTask { await http.handle(value: connection, logger: logger) }
                    }
                }
            }
        } onGracefulShutdown: {
            accepted.channel.close(promise: nil)
        }
        withExtendedLifetime(listening) {}
    }
}

/// `GET /v1/views/status`, `GET /v1/views/images`, `POST /v1/views/files`, `POST /v1/views/script`.
struct ViewRoutes: Sendable {
    let viewed: any ViewedStore
    /// One at a time: each may take as much memory as `viewScriptLimit` says.
    private let turn = Monitor(())

    init(viewed: any ViewedStore) { self.viewed = viewed }

    private static let requestLimit = 64 << 10

    func router() -> Router<BasicRequestContext> {
        let router = Router(context: BasicRequestContext.self)
        router.get("/v1/views/status") { [self] _, _ in try await answer { try viewed.viewedStatus() } }
        router.get("/v1/views/images") { [self] _, _ in try await answer { try viewed.viewedImages() } }
        router.post("/v1/views/files") { [self] request, _ in
            let wanted = try await ControlRoutes.body(FilesRequest.self, of: request, limit: Self.requestLimit)
            return try await answer { try viewed.viewedFiles(wanted) }
        }
        router.post("/v1/views/script") { [self] request, _ in
            let wanted = try await ControlRoutes.body(ScriptRequest.self, of: request, limit: Self.requestLimit)
            return try await answer(encoded: { try viewed.viewScript(of: wanted.names) })
        }
        return router
    }

    private func answer(_ body: @escaping @Sendable () throws -> some Encodable & Sendable) async throws -> Response {
        try await answer(encoded: { try JSONText.line(try body()) + [UInt8(ascii: "\n")] })
    }

    private func answer(encoded body: @escaping @Sendable () throws -> [UInt8]) async throws -> Response {
        let turn = turn
        do {
            let bytes = try await onThread("views") { try turn.withLock { _ in try body() } }
            return ControlRoutes.response(.ok, bytes)
        } catch {
            return ControlRoutes.response(.internalServerError, ControlFailure(error).line + [UInt8(ascii: "\n")])
        }
    }
}
