import Glibc
import LaminaSystem

/// How a program ended, and what it printed.
struct Outcome: CustomStringConvertible {
    var command: String
    /// nil if a signal ended it.
    var exitCode: Int32?
    var signal: Int32?
    var output: String
    var errors: String
    var seconds: Double
    /// The most memory that it had at a time (VmHWM), as far as was seen.
    var peakBytes: Int64
    var isTimedOut: Bool

    var description: String {
        let end =
            isTimedOut ? "did not end in time" : signal.map { "ended by signal \($0)" } ?? "exit code \(exitCode ?? -1)"
        return "\(command.prefix(400)): \(end) after \(seconds) s\n\(output.prefix(2000))\n\(errors.suffix(4000))"
    }

    /// What a test throws if something that must succeed failed.
    struct Failed: Error, CustomStringConvertible {
        var description: String
    }

    @discardableResult
    func orThrow() throws -> Outcome {
        guard exitCode == 0 else { throw Failed(description: description) }
        return self
    }
}

/// A program that a test started. For one thread.
final class Child {
    let pid: pid_t
    let command: String
    private let output: File
    private let errors: File
    private let started = now()
    private var peakBytes: Int64 = 0
    private(set) var outcome: Outcome?

    /// Starts a program with empty input; what it prints goes to unlinked files.
    ///
    /// - Parameter environment: in addition to this process's own.
    init(_ arguments: [String], environment: [String: String] = [:]) throws {
        command = arguments.joined(separator: " ")
        output = try Self.namelessFile()
        errors = try Self.namelessFile()
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output.descriptor, 1)
        posix_spawn_file_actions_adddup2(&actions, errors.descriptor, 2)
        closeOthers(&actions)
        // If the tests run in the background, SIGINT is ignored, which a child would inherit.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        for signal in [SIGINT, SIGTERM, SIGQUIT, SIGPIPE, SIGCHLD] { sigaddset(&signals, signal) }
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var words = arguments.map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var variables = Self.environment(adding: environment).map { strdup($0) } + [nil]
        defer { variables.forEach { free($0) } }
        var child = pid_t()
        let error = posix_spawnp(&child, arguments[0], &actions, &attributes, &words, &variables)
        guard error == 0 else { throw SystemError(code: error, operation: "start", subject: arguments[0]) }
        pid = child
    }

    private static func environment(adding given: [String: String]) -> [String] {
        var result: [String] = []
        // Tests of sealed images set it themselves.
        let more = given.merging(["LAMINA_SEAL_MODE": "off"]) { given, _ in given }
        var place = environ
        while let variable = place.pointee {
            let text = String(cString: variable)
            let name = text.prefix { $0 != "=" }
            if more[String(name)] == nil, name != "LAMINA_ROOT" { result.append(text) }
            place += 1
        }
        return result + more.map { "\($0.key)=\($0.value)" }
    }

    private static func namelessFile() throws -> File {
        var template = Array("/tmp/lamina-output-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        guard descriptor >= 0 else { throw SystemError.last("make", "/tmp/lamina-output-XXXXXX") }
        unlink(template)
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        return File(adopting: descriptor, path: "output")
    }

    var isRunning: Bool {
        reap()
        return outcome == nil
    }

    /// The most memory that it had so far.
    var peakResidentBytes: Int64 {
        sampleMemory()
        return peakBytes
    }

    func send(_ signal: Int32) { if isRunning { kill(pid, signal) } }

    /// Waits for its end; ends it if it takes too long.
    @discardableResult
    func wait(seconds limit: Double = 120) -> Outcome {
        let deadline = now() + limit
        while true {
            sampleMemory()
            reap()
            if let outcome { return outcome }
            if now() > deadline {
                kill(pid, SIGKILL)
                reap(isTimedOut: true, blocking: true)
            }
            usleep(2000)
        }
    }

    /// What it printed so far.
    var outputSoFar: String { Self.text(output) }
    var errorsSoFar: String { Self.text(errors) }

    private static func text(_ file: File) -> String {
        let bytes = (try? file.read(Int((try? file.size()) ?? 0), at: 0)) ?? []
        return String(decoding: bytes, as: UTF8.self)
    }

    private func sampleMemory() { if outcome == nil { peakBytes = max(peakBytes, processPeakBytes(pid) ?? 0) } }

    private func reap(isTimedOut: Bool = false, blocking: Bool = false) {
        guard outcome == nil else { return }
        var status: Int32 = 0
        var result = waitpid(pid, &status, blocking ? 0 : WNOHANG)
        while result < 0, errno == EINTR { result = waitpid(pid, &status, blocking ? 0 : WNOHANG) }
        guard result == pid else { return }
        // WIFEXITED and similar are macros.
        let signal = status & 0x7F
        outcome = Outcome(
            command: command, exitCode: signal == 0 ? status >> 8 & 0xFF : nil, signal: signal == 0 ? nil : signal,
            output: outputSoFar, errors: errorsSoFar, seconds: now() - started, peakBytes: peakBytes,
            isTimedOut: isTimedOut)
    }
}

/// Closes in a child what another thread of this process may have opened without O_CLOEXEC.
func closeOthers(_ actions: inout posix_spawn_file_actions_t) {
    // Closing what is not open is no error here.
    for descriptor in 3..<Int32(1024) { posix_spawn_file_actions_addclose(&actions, descriptor) }
}

/// Runs a program to its end.
func run(_ arguments: [String], seconds: Double = 120) throws -> Outcome {
    try Child(arguments).wait(seconds: seconds)
}

/// A clock that cannot be set, in seconds.
func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Checks every few milliseconds until `condition` holds; false if it does not in time.
func eventually(seconds: Double = 30, _ condition: () throws -> Bool) rethrows -> Bool {
    let deadline = now() + seconds
    while true {
        if try condition() { return true }
        if now() > deadline { return false }
        usleep(5000)
    }
}
