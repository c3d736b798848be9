import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Glibc
public import LaminaOCI
public import LaminaSnapshotter
public import LaminaSystem
public import Logging

/// Answers containerd, and kubelet where that is wanted, at a listening socket.
public struct ContainerdServer: Sendable {
    /// CRI's image service beside the snapshotter's: what passes it on, and where credentials stay on the way.
    public struct Images: Sendable {
        /// containerd's socket.
        public var path: String
        public var credentials: KeptCredentials
        public var log: Logger

        public init(path: String, credentials: KeptCredentials, log: Logger) {
            self.path = path
            self.credentials = credentials
            self.log = log
        }
    }

    private let server: GRPCServer<HTTP2ServerTransport.Posix>
    private let forwarder: Forwarder?
    /// Keeps the socket: the transport closes only its own descriptor of it.
    private let socket: File

    /// - Parameters:
    ///   - socket: listens; who may connect is who may write to it.
    ///   - images: nil for a snapshotter only.
    public init(_ snapshotter: Snapshotter, images: Images? = nil, socket: File) throws {
        self.socket = socket
        let descriptor = fcntl(socket.descriptor, F_DUPFD_CLOEXEC, 3)
        guard descriptor >= 0 else { throw SystemError.last("take a descriptor of", socket.path) }
        let transport = HTTP2ServerTransport.Posix(
            listeningSocketDescriptor: Int(descriptor), transportSecurity: .plaintext,
            config: .defaults { $0.rpc.maxRequestPayloadSize = Forwarder.messageLimit })
        var services: [any RegistrableRPCService] = [SnapshotsService(snapshotter: snapshotter)]
        forwarder = try images.map { try Forwarder(path: $0.path) }
        if let images, let forwarder {
            services.append(
                ImageService(
                    containerd: forwarder, credentials: images.credentials, settle: { try snapshotter.settle($0) },
                    log: images.log))
        }
        server = GRPCServer(transport: transport, services: services)
    }

    /// Answers until `stop`; then until those that are being answered have their answer.
    public func run() async throws {
        guard let forwarder else { return try await server.serve() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await forwarder.run() }
            // Nobody is left then whose call it would be.
            defer { forwarder.stop() }
            try await server.serve()
        }
    }

    /// Takes no more calls. Those who come find the next process, where the socket is kept for it.
    public func stop() { server.beginGracefulShutdown() }
}
