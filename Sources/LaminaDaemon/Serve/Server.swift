import Glibc
import LaminaStore
import LaminaSystem
public import Logging
import ServiceLifecycle
import UnixSignals

/// `lamina serve`: the engine, the file system and the control server in one process, until it is told to end.
public struct Server: Sendable {
    public var root: String
    public var configuration: Configuration
    /// Whether to end when the last mount is gone.
    public var endsWhenIdle = false
    /// Whether SIGTERM also ends the mounts, even if they are held for the next process.
    public var unmountsOnExit = false
    /// The socket where containerd is answered; absolute.
    public var containerdAddress: String?
    public var log: Logger

    public init(
        root: String, configuration: Configuration, endsWhenIdle: Bool = false, unmountsOnExit: Bool = false,
        containerdAddress: String? = nil, log: Logger
    ) {
        self.root = root
        self.configuration = configuration
        self.endsWhenIdle = endsWhenIdle
        self.unmountsOnExit = unmountsOnExit
        self.containerdAddress = containerdAddress
        self.log = log
    }

    /// Serves until SIGTERM, SIGINT, a client's request or (if that is wanted) the last unmount. Blocks the calling thread,
    /// which must not be one of the cooperative pool.
    ///
    /// - Parameter signal: gets the news that clients can come, or the reason why they cannot.
    public func run(_ signal: ReadySignal) throws {
        Interrupts.install()
        // A client that has gone must not end the server.
        _ = Glibc.signal(SIGPIPE, SIG_IGN)
        ProcessStart.setServerMask()
        if let limit = ProcessFacts.descriptorLimit, limit < ProcessStart.wantedDescriptors {
            log.warning(
                "few files may be open: reads fail beyond that; raise the limit by 'ulimit -Hn 65536', or LimitNOFILE= in the unit",
                metadata: ["limit": "\(limit)"])
        }
        if let limit = ProcessFacts.memoryLimit, limit < ProcessStart.wantedMemory {
            log.warning(
                "little memory may be taken: threads may not start, and pulls fail; raise the limit by 'ulimit -Hv unlimited', or LimitAS= in the unit",
                metadata: ["limit": "\(limit)"])
        }
        if let limit = ProcessFacts.addressSpaceLimit, limit < ProcessStart.leastAddressSpace {
            let error = SystemError(code: ENOMEM, operation: "start", subject: "a lamina server")
            signal.failed(error)
            throw error
        }
        let notifier = Notifier.fromEnvironment()
        let held = HeldDescriptors.fromEnvironment()
        let ending = Ending(unmounts: unmountsOnExit || !notifier.holds)
        do {
            notifier.status("opening the store")
            let engine = try open()
            do {
                notifier.status("mounting the file system")
                try engine.startFilesystem(notifier, held)
                try stopIfInterrupted(ending)
                let containerd = try containerdAddress.map { _ in try engine.makeContainerdBackend() }
                try serve(engine, notifier, signal, held: held, ending: ending, containerd: containerd)
            } catch {
                // A second end does nothing. What was taken over from another process is left to the next one.
                engine.shutdown(unmount: ending.unmounts)
                throw error
            }
            if !ending.unmounts {
                // The next process gets again whatever is still asked of this one: it must not be answered now, while things
                // are taken down.
                fflush(nil)
                _exit(0)
            }
        } catch {
            signal.failed(error)
            throw error
        }
    }

    /// A signal that came before it was waited for means the same as later (`SignalWatch`).
    private func stopIfInterrupted(_ ending: Ending) throws {
        guard let signal = Interrupts.signal else { return }
        if signal == SIGINT { ending.unmount() }
        throw DaemonError(.interrupted, "interrupted while starting")
    }

    private func open() throws -> Engine {
        do {
            return try Engine(root: root, configuration: configuration, log: log)
        } catch let error as StoreError {
            guard case .locked(let holder) = error.code else { throw error }
            if EngineAccess.isServer(holder), (try? ControlClient(root: root).isServed()) == true {
                throw DaemonError(.busy, "the store \(root) is served already, by \(holder)")
            }
            throw EngineAccess.busy(root, holder)
        }
    }

    /// Runs the services on Swift's pool, while this thread waits.
    func serve(
        _ engine: any ControlledEngine, _ notifier: Notifier, _ signal: ReadySignal, held: HeldDescriptors = .none,
        ending: Ending = Ending(unmounts: true), containerd: ContainerdBackend? = nil
    ) throws {
        let outcome = Monitor<Result<Void, any Error>?>(nil)
        Task { [self] in
            do {
                try await runServices(engine, notifier, signal, held, ending, containerd)
                outcome.withLock(notify: true) { $0 = .success(()) }
            } catch {
                outcome.withLock(notify: true) { $0 = .failure(error) }
            }
        }
        try outcome.wait { $0 }.get()
    }

    private func runServices(
        _ engine: any ControlledEngine, _ notifier: Notifier, _ signal: ReadySignal, _ held: HeldDescriptors,
        _ ending: Ending, _ containerd: ContainerdBackend?
    ) async throws {
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        // A signal that came before signals were trapped.
        try stopIfInterrupted(ending)
        let activity = Activity(wasUsed: held[.connection] != nil)
        let (requests, request) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let (log, root) = (log, root)
        let routes = ControlRoutes(
            engine: engine, configuration: configuration, activity: activity, log: log,
            requestShutdown: {
                ending.unmount()
                request.yield()
            })
        let watchdog = Watchdog.fromEnvironment(directory: root + "/fs", notifier: notifier, log: log) {
            engine.requestProgress
        }
        let control = ControlServer(
            socket: ControlSocket(root: root), routes: routes, log: log, inherited: held[.control], notifier: notifier,
            ending: ending
        ) {
            log.info("the server is ready", metadata: ["root": "\(root)", "pid": "\(getpid())"])
            notifier.ready("serving \(root)")
            signal.ready()
            watchdog?.start()
        }
        defer { watchdog?.stop() }
        let watch = EndWatch(
            engine: engine, activity: activity, endsWhenIdle: endsWhenIdle, requests: requests, request: request,
            ending: ending, log: log)
        var quiet = log
        quiet.logLevel = max(log.logLevel, .warning)
        let clients =
            [ServiceGroupConfiguration.ServiceConfiguration(service: control)]
            + (try containerdServices(containerd, notifier, held, ending))
        // Ended from the last to the first: first no new clients, finally the engine.
        var services: [ServiceGroupConfiguration.ServiceConfiguration] = [
            .init(service: EngineService(engine: engine, notifier: notifier, ending: ending, log: log))
        ]
        services += clients
        services += [
            .init(service: watch, successTerminationBehavior: .gracefullyShutdownGroup),
            .init(
                service: SignalWatch(signals: signals, ending: ending, log: log),
                successTerminationBehavior: .gracefullyShutdownGroup),
        ]
        if let name = configuration.store.group, let viewed = engine as? any ViewedStore {
            if let group = Account.group(named: name) {
                services.append(.init(service: ViewServer(root: root, group: group, viewed: viewed, log: log)))
            } else {
                log.error("nobody has the group that may look", metadata: ["[store] group": "\(name)"])
            }
        }
        if let address = configuration.metrics.address {
            services.append(.init(service: MetricsServer(address: address, engine: engine, log: log)))
        }
        let group = ServiceGroup(configuration: ServiceGroupConfiguration(services: services, logger: quiet))
        try await group.run()
    }

    /// What answers containerd, if it should be answered; it listens already, so that calls wait in the socket's queue.
    private func containerdServices(
        _ backend: ContainerdBackend?, _ notifier: Notifier, _ held: HeldDescriptors, _ ending: Ending
    ) throws -> [ServiceGroupConfiguration.ServiceConfiguration] {
        #if Containerd
            guard let backend, let containerdAddress else { return [] }
            let service = try ContainerdService(
                backend, socket: ControlSocket(path: containerdAddress), inherited: held[.containerd],
                notifier: notifier, ending: ending, log: log)
            return [.init(service: service)]
        #else
            return []
        #endif
    }
}
