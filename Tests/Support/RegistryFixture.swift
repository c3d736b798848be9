import Glibc
import LaminaSystem

/// Debian's docker-registry on a free port of this machine, with its own directory.
///
/// It ends with ``stop()``, with this object, and with this process, however the process ends.
public final class RegistryFixture: @unchecked Sendable {
    // @unchecked: everything is constant except `isStopped`, which is in its monitor.
    public let port: UInt16
    /// The registry's files.
    public let directory: String
    private let supervisor: pid_t
    private let lifeline: File
    private let isStopped = Monitor(false)

    /// The beginning of references: `127.0.0.1:PORT`.
    public var host: String { "127.0.0.1:\(port)" }

    /// How a registry answers, beyond anonymous HTTP.
    public struct Guard {
        /// Files of a certificate and its key: TLS, and HTTP/2 with it.
        public var certificate: TestAuthority.Certificate?
        /// A line of htpasswd(1) with bcrypt, as docker-registry takes it.
        public var htpasswd: String?
        /// A file with the authority of the certificates that clients must show.
        public var clientAuthority: String?

        public init(
            certificate: TestAuthority.Certificate? = nil, htpasswd: String? = nil, clientAuthority: String? = nil
        ) {
            self.certificate = certificate
            self.htpasswd = htpasswd
            self.clientAuthority = clientAuthority
        }
    }

    /// What a test reports if it cannot run.
    public struct Unavailable: Error, CustomStringConvertible {
        public var description: String
    }

    /// Starts a registry and waits until it answers.
    ///
    /// - Parameter other: a registry whose images this one serves too.
    /// - Throws: ``Unavailable`` without docker-registry.
    public init(guarded: Guard = Guard(), serving other: RegistryFixture? = nil) throws {
        guard access("/usr/bin/docker-registry", X_OK) == 0 else {
            throw Unavailable(
                description: "the registry tests need /usr/bin/docker-registry (apt install docker-registry)")
        }
        directory = try temporaryDirectory("registry")
        port = try LoopbackSocket.listening().port
        var http = "addr: 127.0.0.1:\(port), relativeurls: true"
        if let certificate = guarded.certificate {
            let clients = guarded.clientAuthority.map { ", clientcas: [\($0)]" } ?? ""
            http += ", tls: {certificate: \(certificate.path), key: \(certificate.key)\(clients)}"
        }
        var auth = ""
        if let line = guarded.htpasswd {
            try File(directory + "/htpasswd", O_WRONLY | O_CREAT).write(Array((line + "\n").utf8))
            auth = "auth: {htpasswd: {realm: lamina, path: \(directory)/htpasswd}}"
        }
        let configuration = """
            version: 0.1
            log: {level: error, accesslog: {disabled: true}}
            storage:
              filesystem: {rootdirectory: \(other?.directory ?? directory)/data}
              maintenance: {uploadpurging: {enabled: false}}
            http: {\(http)}
            \(auth)

            """
        try File(directory + "/config.yml", O_WRONLY | O_CREAT).write(Array(configuration.utf8))
        // The shell waits for the end of its input, which comes when this process closes the socket or dies.
        let script = """
            docker-registry serve "$1/config.yml" </dev/null >"$1/log" 2>&1 &
            read -r line; kill $!; wait $!; rm -rf "$1"
            """
        (supervisor, lifeline) = try Self.spawn(["/bin/sh", "-c", script, "sh", directory])
        for _ in 0..<200 {
            if (try? LoopbackSocket.connected(to: port)) != nil { return }
            usleep(50_000)
        }
        stop()
        throw Unavailable(description: "docker-registry does not answer on port \(port)")
    }

    deinit { stop() }

    /// Ends the registry and waits for its end; its files are removed with it.
    public func stop() {
        let wasStopped = isStopped.withLock { stopped in
            defer { stopped = true }
            return stopped
        }
        if wasStopped { return }
        // The shell sees the end of its input although the descriptor stays: the socket is shut down.
        shutdown(lifeline.descriptor, Int32(SHUT_RDWR))
        var status: Int32 = 0
        while waitpid(supervisor, &status, 0) < 0, errno == EINTR {}
    }

    /// Starts a program whose standard input is one end of a socket pair; returns its PID and the other end.
    private static func spawn(_ arguments: [String]) throws -> (pid_t, File) {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw SystemError.last("open", "a socket pair")
        }
        let lifeline = File(adopting: ends[0], path: "lifeline")
        let input = File(adopting: ends[1], path: "input")
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input.descriptor, 0)
        // A test runner waits until no process holds its output any more.
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        // Closing what is not open is no error here.
        for descriptor in 3..<Int32(256) { posix_spawn_file_actions_addclose(&actions, descriptor) }
        // The calling thread may block signals, and the shell waits for its child by SIGCHLD.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigaddset(&signals, SIGCHLD)
        sigaddset(&signals, SIGTERM)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var words = arguments.map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var child = pid_t()
        let error = posix_spawn(&child, arguments[0], &actions, &attributes, &words, environ)
        guard error == 0 else { throw SystemError(code: error, operation: "start", subject: arguments[0]) }
        return (child, lifeline)
    }
}

extension File {
    /// Writes `bytes` at the beginning.
    func write(_ bytes: [UInt8]) throws {
        try bytes.withUnsafeBytes { try write($0, at: 0) }
    }
}
