import Glibc
import LaminaStore
import LaminaSystem
public import Logging

/// `lamina serve --supervise`: a parent process that keeps the server's descriptors while it restarts the server, as systemd
/// does for its services and by the same protocol (sd_notify(3), sd_listen_fds(3)), so that the server sees no difference.
///
/// It has one thread and waits in one place, and it opens no file of the store but the socket that its servers speak to it by: there is
/// little that could make it fail.
public final class Supervisor {
    /// What the server is started with.
    public struct Options: Sendable {
        /// The program on disk: what an upgrade starts.
        public var program: String
        /// The running program, even if another one has its place on disk now: what is started otherwise.
        public var running: String
        /// The store's directory, absolute.
        public var root: String
        /// The server's name and arguments.
        public var words: [String]
        /// A descriptor that only the first server gets, and its option.
        public var readyDescriptor: Int32?
        /// After how many seconds without a sign of life the server is killed.
        public var watchdogSeconds: Double

        public init(
            program: String, running: String = "/proc/self/exe", root: String, words: [String],
            readyDescriptor: Int32?, watchdogSeconds: Double
        ) {
            self.root = root
            self.program = program
            self.running = running
            self.words = words
            self.readyDescriptor = readyDescriptor
            self.watchdogSeconds = watchdogSeconds
        }
    }

    let options: Options
    let log: Logger
    private let socket: ServiceProtocol.Socket
    private let signals: SignalDescriptor
    var held = DescriptorShelf()
    var server: ServerProcess?
    /// When to start the next server, while none runs.
    private var startsAt: Double?
    private var failures = 0
    private var wasEverReady = false
    private var previousEnd: Double?
    /// The exit code after the server has ended, if that is wanted.
    var isEnding = false
    /// How many servers died with the mounts that they should have ended.
    private var endAttempts = 0
    /// Whether the program on disk has proven that it can take over.
    var usesDisk = false
    /// The check of a new program before the old one ends.
    var check: ServerProcess?

    /// How many servers may die like that before the mounts are given up.
    private static let endAttemptLimit = 3
    /// How long a server may take to get ready, and to end, in seconds. systemd's defaults are the same (TimeoutStartSec,
    /// TimeoutStopSec); after a power cut, hashing may take minutes.
    static let startLimit = 600.0
    static let endLimit = 90.0
    /// The shortest and the longest time from one start to the next, in seconds, while none gets ready.
    private static let shortestPause = 0.05
    private static let longestPause = 10.0

    public init(options: Options, log: Logger) throws {
        self.options = options
        self.log = log
        signals = try SignalDescriptor([SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR2])
        socket = try ServiceProtocol.Socket(in: StoreDirectory.prepare(options.root))
    }

    /// Runs until the server has ended and should not be started again.
    ///
    /// - Returns: the code to exit with.
    public func run() throws -> Int32 {
        defer { socket.withdraw() }
        // Whoever waits for the first server's word learns of its end by the end of the pipe.
        try start(first: true)
        while true {
            wait()
            while let signal = signals.next() { handle(signal) }
            while let message = try socket.receive() { handle(message) }
            if let code = reap() { return code }
            act(monotonicSeconds())
        }
    }

    /// Waits for a signal, a message, or the next deadline.
    private func wait() {
        let deadlines = [startsAt, server?.deadline, check?.deadline].compactMap { $0 }
        let seconds = deadlines.min().map { max(0, $0 - monotonicSeconds()) }
        var entries = [signals.file, socket.file].map {
            pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0)
        }
        _ = poll(&entries, nfds_t(entries.count), seconds.map { Int32(clamping: Int($0 * 1000) + 1) } ?? -1)
    }

    // MARK: The server

    private func start(first: Bool = false) throws {
        startsAt = nil
        var words = options.words
        if first, let descriptor = options.readyDescriptor { words += ["--ready-fd", "\(descriptor)"] }
        var environment = Environment.inherited(without: Environment.ours)
        environment += [
            "NOTIFY_SOCKET=\(socket.name)", "FDSTORE=\(ServiceProtocol.descriptorLimit)",
            "WATCHDOG_USEC=\(UInt64(options.watchdogSeconds * 1e6))",
        ]
        if let previousEnd { environment.append("LAMINA_PREDECESSOR_ENDED=\(previousEnd)") }
        let pid = try ServiceProtocol.start(
            usesDisk ? options.program : options.running, words, environment: environment, held.files.map(\.descriptor),
            names: held.names,
            keeping: first ? options.readyDescriptor : nil)
        if first, let descriptor = options.readyDescriptor { close(descriptor) }
        let limit = isEnding ? Self.endLimit : Self.startLimit
        server = ServerProcess(pid: pid, deadline: monotonicSeconds() + limit)
        log.debug("a server is started", metadata: ["pid": "\(pid)", "held": "\(held.files.count)"])
    }

    /// Handles processes that have ended.
    ///
    /// - Returns: the code to exit with, if this is the end.
    private func reap() -> Int32? {
        if var ended = check, ended.reap() {
            check = nil
            finishCheck(ended)
        }
        guard var ended = server, ended.reap() else { return nil }
        server = nil
        previousEnd = monotonicSeconds()
        // Its last messages are still in the socket, with descriptors to keep among them.
        while let message = try? socket.receive() { handle(message, from: ended.pid) }
        if isEnding {
            // A server that has ended its mounts leaves nothing held. After one that was killed, another may do better.
            if held.files.isEmpty || ended.exitStatus == 0 { return ended.exitCode }
            endAttempts += 1
            if ended.exitStatus == nil, endAttempts < Self.endAttemptLimit {
                startsAt = monotonicSeconds()
                return nil
            }
            log.error("the mounts are left without anybody behind them; the next server takes them away")
            return ended.exitCode
        }
        wasEverReady = wasEverReady || ended.wasReady
        if let code = ended.exitStatus, held.files.isEmpty, code == 0 || !ended.wasReady {
            // It ended by itself and left nothing, or never started: trying again would change nothing.
            return code
        }
        // The command that waits for the first one's message has learnt that it is dead.
        if options.readyDescriptor != nil, !wasEverReady { return ended.exitCode }
        failures = ended.hadFailed ? failures + 1 : 0
        if usesDisk, !ended.wasReady {
            log.error("the new program cannot go on with the mounts; the one before it does")
            usesDisk = false
        }
        let pause = pauseAfter(ended)
        startsAt = monotonicSeconds() + pause
        log.warning(
            "the server has ended; another takes over", metadata: ["how": "\(ended.how)", "pause": "\(pause) s"])
        return nil
    }

    /// How long nothing is started, in seconds. The starts are kept apart from each other: a caller that waits for a server
    /// does not wait longer because the last one took long.
    private func pauseAfter(_ ended: ServerProcess) -> Double {
        guard failures > 0 else { return 0 }
        let interval = min(Self.longestPause, Self.shortestPause * Double(1 << min(failures - 1, 10)))
        return max(0, ended.startedAt + interval - monotonicSeconds())
    }

    private func act(_ now: Double) {
        if let startsAt, startsAt <= now {
            do {
                try start()
            } catch {
                failures += 1
                self.startsAt = now + Self.longestPause
                log.error("the server cannot be started", metadata: ["error": "\(error)"])
                if isEnding { end(ExitStatus.code(of: error)) }
            }
        }
        if let server, let deadline = server.deadline, deadline <= now {
            log.error("the server gives no sign of life and is killed", metadata: ["pid": "\(server.pid)"])
            kill(server.pid, SIGKILL)
            self.server?.deadline = nil
        }
        if let check, let deadline = check.deadline, deadline <= now {
            kill(check.pid, SIGKILL)
            self.check?.deadline = nil
        }
    }

    /// Ends at once.
    private func end(_ code: Int32) -> Never {
        socket.withdraw()
        exit(code)
    }

    // MARK: What comes in

    private func handle(_ signal: Int32) {
        switch signal {
        case SIGCHLD: break
        case SIGTERM, SIGINT: beginEnd()
        case SIGUSR2: beginUpgrade()
        default: if let server { kill(server.pid, signal) }
        }
    }

    /// What this process holds ends with it, so a server must end the mounts first: the running one, as soon as it can, or one
    /// more.
    private func beginEnd() {
        isEnding = true
        guard let server else {
            if held.files.isEmpty { end(0) }
            startsAt = monotonicSeconds()
            return
        }
        self.server?.deadline = monotonicSeconds() + Self.endLimit
        if server.wasReady || held.files.isEmpty { kill(server.pid, SIGINT) }
    }

    private func handle(_ message: ServiceProtocol.Message, from ended: Int32? = nil) {
        // Only the server speaks for itself. A message of a dead server has its process number.
        guard message.process == ended ?? server?.pid else { return }
        for (name, value) in message.assignments {
            switch (name, value) {
            case ("READY", "1"):
                server?.wasReady = true
                failures = 0
                if !isEnding {
                    server?.deadline = monotonicSeconds() + options.watchdogSeconds
                } else if let server {
                    kill(server.pid, SIGINT)
                }
            case ("WATCHDOG", "1"):
                server?.wasAlive = true
                if server?.wasReady == true, !isEnding, server?.isStopping == false {
                    server?.deadline = monotonicSeconds() + options.watchdogSeconds
                }
            case ("WATCHDOG", "trigger"): server?.deadline = 0
            case ("STOPPING", "1"):
                server?.isStopping = true
                server?.deadline = monotonicSeconds() + Self.endLimit
            case ("STATUS", _): log.debug("the server says: \(value)")
            // READY's neighbours, and BARRIER, whose descriptor is closed with the message.
            default: break
            }
        }
        held.apply(message)
    }
}
