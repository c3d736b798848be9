#if Containerd
    import LaminaContainerd
    import LaminaSystem
    import Logging
    import ServiceLifecycle

    /// Answers containerd, and kubelet if that is wanted, as long as the server runs.
    struct ContainerdService: Service {
        private let server: ContainerdServer
        private let socket: ControlSocket
        private let ending: Ending

        /// How long calls have to end when the server does: a call that waits for a registry is told that the server ends.
        private static let patience = Duration.seconds(5)

        /// Listens, or takes over the socket that an earlier process listened at.
        init(
            _ backend: ContainerdBackend, socket: ControlSocket, inherited: File?, notifier: Notifier, ending: Ending,
            log: Logger
        ) throws {
            let listening = try socket.listen(inherited)
            // If it is held outside, it exists while no server runs: containerd's calls wait instead of failing.
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
                // Whichever comes first: the last call has its answer, or its time is over.
                try await group.next()
                group.cancelAll()
            }
        }
    }
#endif
