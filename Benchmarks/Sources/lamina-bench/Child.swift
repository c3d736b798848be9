import CBench
import Foundation

/// How much a process used, including the children that it waited for.
struct Usage {
    var wall = 0.0
    /// User and system time, seconds.
    var cpu = 0.0
    /// VmHWM in MiB, of the process itself.
    var peak = 0.0
    /// `write_bytes` of `/proc/PID/io`.
    var written = 0.0
}

/// A program that the benchmark started.
final class Child {
    let pid: pid_t
    let name: String
    private let started = now()
    private var isReaped = false

    /// - Parameters:
    ///   - output: the file that takes standard output and error; without it nothing is kept.
    init(_ arguments: [String], output: String = "/dev/null") throws {
        Cleanup.stopWhenEnding()
        name = arguments.joined(separator: " ")
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_addopen(
            &actions, 2, output == "/dev/null" ? output : output + ".err",
            O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        // Its own group: Ctrl-C on the terminal comes to the benchmark, which ends it in order.
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP))
        var words = arguments.map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var child = pid_t()
        let error = posix_spawnp(&child, arguments[0], &actions, &attributes, &words, environ)
        guard error == 0 else { throw Failure("cannot start \(arguments[0]): \(String(cString: strerror(error)))") }
        pid = child
        Cleanup.hold(process: child)
    }

    /// User and system time of the process until now, seconds.
    var cpu: Double { Double(max(0, bench_process_cpu(pid))) / 1e9 }
    /// VmHWM in MiB.
    var peak: Double { Double(field("status", "VmHWM:") ?? 0) / 1024 }
    /// Bytes that it made dirty in the page cache, or wrote past it.
    var written: Double { Double(field("io", "write_bytes:") ?? 0) }
    /// Bytes that it passed to write calls: how much a registry sent.
    var sent: Double { Double(field("io", "wchar:") ?? 0) }

    /// Waits for the end. The peak is read every 20 ms, because it is gone after the end.
    func wait() throws -> (status: Int32, usage: Usage) {
        let ended = bench_pidfd_open(pid)
        guard ended >= 0 else { throw Failure.system("pidfd_open") }
        defer { close(ended) }
        var usage = Usage()
        var poll = pollfd(fd: ended, events: Int16(POLLIN), revents: 0)
        while Glibc.poll(&poll, 1, 20) == 0 { usage.peak = max(usage.peak, peak) }
        usage.wall = now() - started
        // The process is still in the table, and so are its counters.
        usage.written = written
        var status: Int32 = 0
        var resources = rusage()
        guard wait4(pid, &status, 0, &resources) == pid else { throw Failure.system("wait4") }
        isReaped = true
        Cleanup.release(process: pid)
        usage.cpu = resources.ru_utime.seconds + resources.ru_stime.seconds
        return (status, usage)
    }

    /// Ends it by SIGTERM and, if that takes too long, by SIGKILL.
    func end() {
        guard !isReaped else { return }
        kill(pid, SIGTERM)
        for _ in 0..<2000 {
            if waitpid(pid, nil, WNOHANG) != 0 {
                isReaped = true
                break
            }
            usleep(10_000)
        }
        if !isReaped {
            say("\(name) does not end, it is killed")
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
            isReaped = true
        }
        Cleanup.release(process: pid)
    }

    private func field(_ file: String, _ name: String) -> Int? {
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/\(file)", encoding: .utf8) else { return nil }
        guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix(name) }) else { return nil }
        return Int(line.dropFirst(name.count).split(whereSeparator: { $0 == " " || $0 == "\t" }).first ?? "")
    }
}

extension timeval {
    fileprivate var seconds: Double { Double(tv_sec) + Double(tv_usec) / 1e6 }
}

/// Runs a program to its end.
@discardableResult
func run(_ arguments: String...) throws -> Usage { try run(arguments).usage }

/// Runs a shell's pipeline; the usage is that of all its processes.
@discardableResult
func shell(_ script: String, _ arguments: String...) throws -> Usage {
    try run(["bash", "-c", "set -o pipefail; " + script, "bench"] + arguments).usage
}

/// - Returns: what it used, and what it wrote to standard output.
/// - Throws: ``Failure`` with what it printed on standard error, if it ends with a status other than 0.
@discardableResult
func run(_ arguments: [String]) throws -> (usage: Usage, output: String) {
    let output = NSTemporaryDirectory() + "/lamina-bench-\(getpid()).out"
    defer {
        unlink(output)
        unlink(output + ".err")
    }
    let (status, usage) = try Child(arguments, output: output).wait()
    guard status == 0 else {
        let how = status & 0x7f == 0 ? "with status \(status >> 8)" : "by signal \(status & 0x7f)"
        let said = (try? String(contentsOfFile: output + ".err", encoding: .utf8)) ?? ""
        throw Failure("\(arguments.joined(separator: " ")) ended \(how): \(said.suffix(600))")
    }
    return (usage, (try? String(contentsOfFile: output, encoding: .utf8)) ?? "")
}

/// Whether a program can be found.
func isInstalled(_ program: String) -> Bool {
    let places = (ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin").split(separator: ":")
    return (places + ["/usr/sbin", "/sbin"]).contains { access("\($0)/\(program)", X_OK) == 0 }
}
