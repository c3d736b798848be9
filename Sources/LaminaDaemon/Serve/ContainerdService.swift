#if Containerd
    import LaminaContainerd
    import LaminaSystem
    import Logging
    import ServiceLifecycle

    /// Answers containerd, and kubelet where that is wanted, for as long as the server runs.
    struct ContainerdService: Service {
        private let server: ContainerdServer
        private let socket: ControlSocket
        private let ending: Ending

        /// How long calls have to end when the server does: one that waits for a registry is told that it ends.
        private static let patience = Duration.seconds(5)

        /// Listens, or takes over the socket that an earlier process listened at.
        init(
            _ backend: ContainerdBackend, socket: ControlSocket, inherited: File?, notifier: Notifier, ending: Ending,
            log: Logger
        ) throws {
            let listening = try socket.listen(inherited)
            // Held outside, it is there while no server is: containerd's calls wait instead of failing.
            if listening !== inherited, notifier.holds, !notifier.hold(listening, as: .containerd) {
                log.warning("the service manager does not keep the socket for containerd")
            }
            if ControlServer.useOneThread { log.debug("containerd is answered on the control server's thread") }
            let images = backend.credentials.map {
                ContainerdServer.Images(path: backend.imageServicePath, credentials: $0, log: log)
            }
            server = try ContainerdServer(backend.snapshotter, images: images, socket: listening)
            self.socket = socket
            self.ending = ending
            log.info(
                "containerd is answered",
                metadata: [
                    "address": "\(socket.path)", "image service": "\(images.map { "for \($0.path)" } ?? "no")",
                ])
        }

        func run() async throws {
            defer { if ending.unmounts { socket.withdraw() } }
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    try await withGracefulShutdownHandler {
                        try await server.run()
                    } onGracefulShutdown: {
                        server.stop()
                    }
                }
                group.addTask {
                    try? await gracefulShutdown()
                    try? await Task.sleep(for: Self.patience)
                }
                // Whichever is first: the last call has its answer, or has had time enough.
                try await group.next()
                group.cancelAll()
            }
        }
    }
#endif
