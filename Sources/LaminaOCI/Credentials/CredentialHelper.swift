import Glibc
import LaminaSystem

/// `docker-credential-NAME get`: the registry on standard input, JSON on standard output.
///
/// https://github.com/docker/docker-credential-helpers#development
struct CredentialHelper {
    let name: String
    /// A helper may ask a service in the network; one that asks a person would never end here.
    var timeLimit: Duration = .seconds(30)

    private static let outputLimit = 64 << 10

    /// What the helper knows about a registry; `nil` if it knows nothing.
    ///
    /// - Throws: `badConfiguration` for a helper that does not work. What it printed is not repeated, because it may contain a
    ///   secret.
    func credentials(for host: String, shouldStop: () -> Bool) throws(OCIError) -> Credentials? {
        let isName = name.utf8.allSatisfy { isAlphanumeric($0) || "._-".utf8.contains($0) }
        guard isName, !name.isEmpty else {
            throw OCIError(.badConfiguration, "'\(name.prefix(60))' is no name of a credential helper")
        }
        // Docker logs in to its own registry under this name.
        let server = DockerConfig.key(host) == "docker.io" ? "https://index.docker.io/v1/" : host
        let (status, output) = try run(server, shouldStop)
        guard status == 0 else {
            // https://github.com/docker/docker-credential-helpers/blob/master/credentials/error.go
            if String(decoding: output, as: UTF8.self).contains("credentials not found") { return nil }
            throw wrong("ended with status \(status) when asked about \(server); see 'echo \(server) | \(program) get'")
        }
        guard let answer = try? JSON.parse(output), case .string(let user)? = answer["Username"],
            case .string(let secret)? = answer["Secret"]
        else { throw wrong("answered something else than JSON with Username and Secret") }
        if secret.isEmpty { return nil }
        return user == "<token>" ? .identityToken(Secret(secret)) : .basic(user: user, password: Secret(secret))
    }

    private var program: String { "docker-credential-\(name)" }

    private func wrong(_ what: String) -> OCIError { OCIError(.badConfiguration, "\(program) \(what)") }

    private func run(_ input: String, _ shouldStop: () -> Bool) throws(OCIError) -> (status: Int32, output: [UInt8]) {
        let process: pid_t
        let output: File
        do {
            (process, output) = try start(input)
        } catch {
            throw OCIError(.badConfiguration, "\(program) cannot be started", cause: error)
        }
        let clock = ContinuousClock()
        let deadline = clock.now + timeLimit
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        var problem: OCIError?
        while problem == nil {
            var poll = pollfd(fd: output.descriptor, events: Int16(POLLIN), revents: 0)
            if Glibc.poll(&poll, 1, 100) > 0 {
                let count = Glibc.read(output.descriptor, &buffer, buffer.count)
                if count == 0 { break }
                if count > 0 { bytes += buffer.prefix(count) }
            }
            if bytes.count > Self.outputLimit { problem = wrong("answered more than \(Self.outputLimit) bytes") }
            if clock.now > deadline { problem = wrong("did not answer about \(input) within \(timeLimit)") }
            if shouldStop() { problem = OCIError(.interrupted, "asking \(program) was interrupted") }
        }
        // It has closed its output. A helper that still runs is ended, with what it has started.
        var status: Int32 = 0
        while problem == nil, waitpid(process, &status, WNOHANG) == 0 {
            if clock.now > deadline { problem = wrong("did not end within \(timeLimit)") }
            usleep(5000)
        }
        if let problem {
            kill(-process, SIGKILL)
            while waitpid(process, &status, 0) < 0, errno == EINTR {}
            throw problem
        }
        return (status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + status & 0x7F, bytes)
    }

    /// Starts the helper in its own process group; returns its standard output.
    private func start(_ text: String) throws(SystemError) -> (pid_t, File) {
        let input = try BackgroundProcess.makePipe()
        let output = try BackgroundProcess.makePipe()
        // Both ends are open here and a pipe holds 64 KiB: this neither blocks nor raises SIGPIPE.
        let line = Array((text + "\n").utf8)
        guard line.count < 4096, Glibc.write(input.writing.descriptor, line, line.count) == line.count else {
            throw SystemError.last("write to", program)
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input.reading.descriptor, 0)
        posix_spawn_file_actions_adddup2(&actions, output.writing.descriptor, 1)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        for signal in [SIGCHLD, SIGTERM, SIGINT, SIGPIPE] { sigaddset(&signals, signal) }
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))
        var words = [strdup(program), strdup("get"), nil]
        defer { words.forEach { free($0) } }
        var process = pid_t()
        let error = posix_spawnp(&process, program, &actions, &attributes, &words, environ)
        guard error == 0 else { throw SystemError(code: error, operation: "start", subject: program) }
        return (process, output.reading)
    }
}
