import Glibc
import LaminaSystem
import Logging

// SIGUSR2: the program on disk takes over from the running one. It is first asked whether it can, while the old one still
// answers. If it then cannot after all, the old program, which this process also runs, goes on.

extension Supervisor {
    func beginUpgrade() {
        guard check == nil, !isEnding, server != nil else { return }
        let words = options.words + ["--check-takeover"]
        do throws(SystemError) {
            let pid = try ServiceProtocol.start(
                options.program, words, environment: Environment.inherited(without: Environment.ours), [], names: [],
                keeping: nil)
            check = ServerProcess(pid: pid, deadline: monotonicSeconds() + Self.endLimit)
            log.info("an upgrade is asked for; the new program is checked", metadata: ["program": "\(options.program)"])
        } catch {
            log.error("the upgrade is refused: the new program cannot be started", metadata: ["error": "\(error)"])
        }
    }

    func finishCheck(_ ended: ServerProcess) {
        guard ended.exitStatus == 0 else {
            log.error("the upgrade is refused: the new program cannot take over", metadata: ["how": "\(ended.how)"])
            return
        }
        usesDisk = true
        guard let server else { return }
        log.info("the new program takes over")
        kill(server.pid, SIGTERM)
        self.server?.deadline = monotonicSeconds() + Self.endLimit
    }
}

/// A child of the supervisor.
struct ServerProcess {
    let pid: Int32
    let startedAt = monotonicSeconds()
    /// When it will be killed, unless it sends something before.
    var deadline: Double?
    /// Whether it gave a sign of life; it does so before it is ready, when it answers for the mounts.
    var wasAlive = false
    var wasReady = false
    var isStopping = false
    private var status: Int32 = 0

    init(pid: Int32, deadline: Double) {
        self.pid = pid
        self.deadline = deadline
    }

    /// Whether it has ended.
    mutating func reap() -> Bool {
        var result: Int32
        repeat { result = waitpid(pid, &status, WNOHANG) } while result < 0 && errno == EINTR
        return result == pid
    }

    // WIFEXITED and similar are macros (wait(2)).
    /// The code that it exited with; nil if a signal ended it.
    var exitStatus: Int32? { status & 0x7f == 0 ? status >> 8 & 0xff : nil }
    var exitCode: Int32 { exitStatus ?? 128 + status & 0x7f }
    /// Whether its replacement will probably fail too: it never got ready. A server that already answered and was killed does
    /// not count.
    var hadFailed: Bool { !wasReady && !(wasAlive && exitStatus == nil) }
    var how: String { exitStatus.map { "exit code \($0)" } ?? "signal \(status & 0x7f)" }
}

/// The descriptors that the server gave to keep: as with systemd, each has a name that others may have too.
struct DescriptorShelf {
    private(set) var entries: [(name: String, file: File)] = []

    var files: [File] { entries.map(\.file) }
    var names: [String] { entries.map(\.name) }

    /// FDSTORE=1, FDSTOREREMOVE=1 and FDNAME= of a message (sd_pid_notify_with_fds(3)). Descriptors that do not fit are closed.
    mutating func apply(_ message: ServiceProtocol.Message) {
        func value(_ name: String) -> String? { message.assignments.last { $0.name == name }?.value }
        let name = value("FDNAME").flatMap { Self.isName($0) ? $0 : nil }
        if value("FDSTOREREMOVE") == "1", let name { entries.removeAll { $0.name == name } }
        guard value("FDSTORE") == "1" else { return }
        for file in message.descriptors where entries.count < ServiceProtocol.descriptorLimit {
            entries.append((name ?? "stored", file))
        }
    }

    /// Printable ASCII without a colon, because colons separate LISTEN_FDNAMES; at most 255 (fdname_is_valid of systemd).
    static func isName(_ text: String) -> Bool {
        (1...255).contains(text.utf8.count) && text.utf8.allSatisfy { (0x20..<0x7f).contains($0) && $0 != 0x3a }
    }
}

/// The environment that servers are started with.
enum Environment {
    /// What the supervisor's own manager told it, and is not for the server.
    static let ours: Set<String> = [
        "NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
        "LAMINA_PREDECESSOR_ENDED",
    ]

    static func inherited(without names: Set<String>) -> [String] {
        var result: [String] = []
        var place = environ
        while let variable = place.pointee {
            let text = String(cString: variable)
            if !names.contains(String(text.prefix { $0 != "=" })) { result.append(text) }
            place += 1
        }
        return result
    }
}
