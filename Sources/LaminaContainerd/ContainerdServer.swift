import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Glibc
public import LaminaOCI
public import LaminaSnapshotter
public import LaminaSystem
public import Logging

/// Answers containerd, and kubelet if that is wanted, at a listening socket.
public struct ContainerdServer: Sendable {
    /// CRI's image service beside the snapshotter's: the path to pass it on to, and where to keep credentials on the way.
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
    /// Keeps the socket: the transport closes only its own descriptor.
    private let socket: File

    /// - Parameters:
    ///   - socket: listens; a client that may write to it may connect.
    ///   - images: nil: only a snapshotter.
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

    /// Answers until `stop`; then until the running calls have their answers.
    public func run() async throws {
        guard let forwarder else { return try await server.serve() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await forwarder.run() }
            // No caller is left by then.
            defer { forwarder.stop() }
            try await server.serve()
        }
    }

    /// Takes no more calls. Later callers find the next process, if the socket is kept for it.
    public func stop() { server.beginGracefulShutdown() }
}
