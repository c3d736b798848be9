import Glibc
import Hummingbird
import HummingbirdCore
import LaminaSystem
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle

/// The control server as a service: listens, says that it is ready, and answers until it is asked to end.
///
/// The listening socket may come from the previous process, and Hummingbird's own server cannot take it. So this code accepts
/// the connections, and Hummingbird's channel and router answer them.
struct ControlServer: Service {
    let socket: ControlSocket
    let routes: ControlRoutes
    let log: Logger
    /// The socket that an earlier process listened at.
    let inherited: File?
    let notifier: Notifier
    let ending: Ending
    /// Called once clients can find the server.
    let ready: @Sendable () -> Void

    func run() async throws {
        if Self.useOneThread { log.debug("the control server runs on one thread") }
        let listening = try socket.listen(inherited)
        defer { if ending.unmounts { socket.withdraw() } }
        // If it is held outside, it exists while no server runs: clients wait instead of being refused.
        if listening !== inherited, notifier.holds, !notifier.hold(listening, as: .control) {
            log.warning("the service manager does not keep the control socket")
        }
        let log = log.quiet
        let http = HTTP1Channel(answering: routes.router(), log: log)
        // NIO closes the descriptor that it gets.
        let accepted = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .bind(fcntl(listening.descriptor, F_DUPFD_CLOEXEC, 3)) { child in
                http.setup(channel: child, logger: log)
            }
        ready()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                try await withGracefulShutdownHandler {
                    try await accepted.executeThenClose { inbound in
                        try await withThrowingDiscardingTaskGroup { connections in
                            for try await connection in inbound {
                                connections.addTask { await http.handle(value: connection, logger: log) }
                            }
                        }
                    }
                } onGracefulShutdown: {
                    // A client that comes from now on finds no server, and looks for the next one.
                    if ending.unmounts { socket.withdraw() }
                    closeOnceEmpty(accepted.channel, listening)
                }
            }
            group.addTask {
                try? await gracefulShutdown()
                try? await Task.sleep(for: Self.patience)
            }
            // Whichever comes first: the last client has its answer, or its time is over.
            try await group.next()
            group.cancelAll()
        }
        withExtendedLifetime(listening) {}
    }

    /// Stops listening. If no other server will accept the clients that have connected already, they are accepted first:
    /// closing the socket would reset their connections.
    private func closeOnceEmpty(_ channel: any Channel, _ listening: File) {
        var entry = pollfd(fd: listening.descriptor, events: Int16(POLLIN), revents: 0)
        guard ending.unmounts, poll(&entry, 1, 0) > 0, channel.isActive else { return channel.close(promise: nil) }
        channel.eventLoop.scheduleTask(in: .milliseconds(1)) { closeOnceEmpty(channel, listening) }
    }

    /// How long clients have to take their last answer when the server ends. Otherwise a silent client would keep it for ever.
    private static let patience = Duration.seconds(5)

    /// One thread is enough for sockets that a handful of commands and containerd use; the default is one for each core.
    ///
    /// Set before the process's first event loop starts, and never twice.
    static let useOneThread: Bool = {
        NIOSingletons.groupLoopCountSuggestion = 1
        return true
    }()
}
