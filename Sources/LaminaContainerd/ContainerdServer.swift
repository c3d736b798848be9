import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Glibc
public import LaminaSnapshotter
public import LaminaSystem

/// Answers containerd at a listening socket.
public struct ContainerdServer: Sendable {
    private let server: GRPCServer<HTTP2ServerTransport.Posix>
    /// Keeps the socket: the transport closes only its own descriptor of it.
    private let socket: File

    /// - Parameter socket: listens; who may connect is who may write to it.
    public init(_ snapshotter: Snapshotter, socket: File) throws(SystemError) {
        self.socket = socket
        let descriptor = fcntl(socket.descriptor, F_DUPFD_CLOEXEC, 3)
        guard descriptor >= 0 else { throw SystemError.last("take a descriptor of", socket.path) }
        let transport = HTTP2ServerTransport.Posix(
            listeningSocketDescriptor: Int(descriptor), transportSecurity: .plaintext)
        server = GRPCServer(transport: transport, services: [SnapshotsService(snapshotter: snapshotter)])
    }

    /// Answers until `stop`; then until those that are being answered have their answer.
    public func run() async throws { try await server.serve() }

    /// Takes no more calls. Those who come find the next process, where the socket is kept for it.
    public func stop() { server.beginGracefulShutdown() }
}
