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
    public var log: Logger

    public init(root: String, configuration: Configuration, endsWhenIdle: Bool = false, log: Logger) {
        self.root = root
        self.configuration = configuration
        self.endsWhenIdle = endsWhenIdle
        self.log = log
    }

    /// Serves until SIGTERM, SIGINT, a client's word or (where that is wanted) the last unmount. Blocks the calling thread, which
    /// must not be one of the cooperative pool.
    ///
    /// - Parameter signal: told when clients can come, or why they cannot.
    public func run(_ signal: ReadySignal) throws {
        Interrupts.install()
        // A client that has gone is no reason to die.
        _ = Glibc.signal(SIGPIPE, SIG_IGN)
        let notifier = Notifier.fromEnvironment()
        do {
            notifier.status("opening the store")
            let engine = try open()
            do {
                notifier.status("mounting the file system")
                try engine.startFilesystem()
                if Interrupts.requested { throw DaemonError(.interrupted, "interrupted while starting") }
                try serve(engine, notifier, signal)
            } catch {
                // Ending it twice does nothing.
                engine.shutdown(unmount: true)
                throw error
            }
        } catch {
            signal.failed(error)
            throw error
        }
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
    func serve(_ engine: any ControlledEngine, _ notifier: Notifier, _ signal: ReadySignal) throws {
        let outcome = Monitor<Result<Void, any Error>?>(nil)
        Task { [self] in
            do {
                try await runServices(engine, notifier, signal)
                outcome.withLock(notify: true) { $0 = .success(()) }
            } catch {
                outcome.withLock(notify: true) { $0 = .failure(error) }
            }
        }
        try outcome.wait { $0 }.get()
    }

    private func runServices(_ engine: any ControlledEngine, _ notifier: Notifier, _ signal: ReadySignal) async throws {
        let activity = Activity()
        let (requests, request) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let (log, root) = (log, root)
        let routes = ControlRoutes(
            engine: engine, configuration: configuration, activity: activity, log: log,
            requestShutdown: { request.yield() })
        let control = ControlServer(socket: ControlSocket(root: root), routes: routes, log: log) {
            log.info("the server is ready", metadata: ["root": "\(root)", "pid": "\(getpid())"])
            notifier.ready("serving \(root)")
            signal.ready()
        }
        let watch = EndWatch(
            engine: engine, activity: activity, endsWhenIdle: endsWhenIdle, requests: requests, request: request,
            log: log)
        var quiet = log
        quiet.logLevel = max(log.logLevel, .warning)
        // Ended from the last to the first: no new clients, then the engine.
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(service: EngineService(engine: engine, notifier: notifier, log: log)),
                    .init(service: control),
                    .init(service: watch, successTerminationBehavior: .gracefullyShutdownGroup),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint], logger: quiet))
        try await group.run()
    }
}
