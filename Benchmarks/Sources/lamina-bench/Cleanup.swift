import Foundation
import Synchronization

/// Processes, mounts and directories that must not outlive the benchmark, however it ends.
enum Cleanup {
    private struct Held {
        var processes: Set<pid_t> = []
        var mounts: [String] = []
        var directories: Set<String> = []
        var isEnding = false
    }

    private static let held = Mutex(Held())

    /// Returns only while the benchmark goes on: a part whose process was ended must not begin anything new.
    static func hold(process: pid_t) {
        let isEnding = held.withLock { held in
            if !held.isEnding { held.processes.insert(process) }
            return held.isEnding
        }
        if isEnding {
            kill(process, SIGKILL)
            stayHere()
        }
    }

    /// Stops this thread for good if another one is ending the benchmark.
    static func stopWhenEnding() {
        if held.withLock({ $0.isEnding }) { stayHere() }
    }

    private static func stayHere() -> Never {
        while true { pause() }
    }

    static func release(process: pid_t) { held.withLock { _ = $0.processes.remove(process) } }
    static func hold(mount: String) { held.withLock { $0.mounts.append(mount) } }
    static func release(mount: String) { held.withLock { $0.mounts.removeAll { $0 == mount } } }
    static func hold(directory: String) { held.withLock { _ = $0.directories.insert(directory) } }

    /// Ctrl-C and SIGTERM end everything at once. Call it before the first thread: threads take the mask of their maker, and
    /// children are started with an empty one.
    static func installSignals() {
        var signals = sigset_t()
        sigemptyset(&signals)
        for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        Thread.detachNewThread { [signals] in
            var set = signals
            var signal: Int32 = 0
            guard sigwait(&set, &signal) == 0 else { return }
            say("ended by signal \(signal), cleaning up")
            all()
            _exit(128 + signal)
        }
    }

    /// Unmounts first, so that no process keeps waiting for a file system without a server.
    static func all() {
        let last = held.withLock { held in
            defer { held = Held(isEnding: true) }
            return held
        }
        for mount in last.mounts.reversed() { umount2(mount, Int32(MNT_DETACH)) }
        for process in last.processes { kill(process, SIGTERM) }
        for process in last.processes {
            for _ in 0..<100 where waitpid(process, nil, WNOHANG) == 0 { usleep(50_000) }
            kill(process, SIGKILL)
            waitpid(process, nil, WNOHANG)
        }
        for directory in last.directories {
            unmountBelow(directory)
            try? FileManager.default.removeItem(atPath: directory)
        }
    }

    /// Ends what a killed run has left: processes with a path below `directory` among their arguments, then mounts.
    static func sweep(_ directory: String) {
        for entry in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] {
            guard let process = pid_t(entry), process != getpid() else { continue }
            let words = (try? Data(contentsOf: URL(fileURLWithPath: "/proc/\(entry)/cmdline"))) ?? Data()
            if words.split(separator: 0).contains(where: { $0.starts(with: Data((directory + "/").utf8)) }) {
                kill(process, SIGTERM)
            }
        }
        unmountBelow(directory)
    }

    static func unmountBelow(_ directory: String) {
        let table = (try? String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)) ?? ""
        let points = table.split(separator: "\n").compactMap { line -> String? in
            let fields = line.split(separator: " ")
            return fields.count > 4 ? String(fields[4]) : nil
        }
        for point in points.reversed() where point.hasPrefix(directory + "/") {
            umount2(point, Int32(MNT_DETACH))
        }
    }
}
