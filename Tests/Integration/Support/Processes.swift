import Glibc
import LaminaSystem

/// VmHWM: the most memory that a process had at a time, by proc_pid_status(5). Not getrusage(2)'s, which begins with what the
/// parent had.
func processPeakBytes(_ pid: pid_t) -> Int64? {
    guard let status = try? readFile("/proc/\(pid)/status") else { return nil }
    let line = String(decoding: status, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
    return line.flatMap { $0.split(separator: " ").dropFirst().first }.flatMap { Int64($0) }.map { $0 * 1024 }
}

/// Whether a process exists and has not ended; a zombie does not count.
func isAlive(_ pid: pid_t) -> Bool {
    guard let stat = try? readFile("/proc/\(pid)/stat") else { return false }
    // The name in parentheses may contain anything; the state follows the last parenthesis (proc_pid_stat(5)).
    guard let end = stat.lastIndex(of: UInt8(ascii: ")")), end + 2 < stat.count else { return false }
    return stat[end + 2] != UInt8(ascii: "Z") && stat[end + 2] != UInt8(ascii: "X")
}

/// A number of proc_pid_stat(5), by its place there; 0 if there is no such process. Only numbers after the name.
private func statField(_ field: Int, of pid: pid_t) -> Int {
    guard let stat = try? readFile("/proc/\(pid)/stat"), let end = stat.lastIndex(of: UInt8(ascii: ")")) else {
        return 0
    }
    let fields = String(decoding: stat[(end + 1)...], as: UTF8.self).split(separator: " ")
    // The state, the third of all fields, is the first of these.
    return fields.count > field - 3 ? Int(fields[field - 3]) ?? 0 : 0
}

/// The page faults of a process for which something had to be read (majflt).
func majorFaults(_ pid: pid_t) -> Int { statField(12, of: pid) }

/// The time that the threads of a process have had of the processors, in nanoseconds. That of threads which have ended is not in it: it is
/// for what rests. (The clock ticks of `stat` go to the process that runs when the clock ticks. On a busy machine that is another one.)
func processorTime(_ pid: pid_t) -> Int64 {
    names(in: "/proc/\(pid)/task").reduce(0) { sum, thread in
        let line = (try? readFile("/proc/\(pid)/task/\(thread)/schedstat")).map { String(decoding: $0, as: UTF8.self) }
        return sum + (line?.split(separator: " ").first.flatMap { Int64($0) } ?? 0)
    }
}

/// What a process has in memory now (rss), in bytes.
func residentBytes(_ pid: pid_t) -> Int64 { Int64(statField(24, of: pid)) * Int64(sysconf(Int32(_SC_PAGESIZE))) }

/// The processes that have `text` in their command line, except this one.
func processes(withArgumentContaining text: String) -> [pid_t] {
    names(in: "/proc").compactMap { pid_t($0) }.filter { pid in
        guard pid != getpid(), let line = try? readFile("/proc/\(pid)/cmdline") else { return false }
        return String(decoding: line, as: UTF8.self).contains(text) && isAlive(pid)
    }
}

/// The names in a directory; none if it cannot be read.
func names(in path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var result: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        if name != ".", name != ".." { result.append(name) }
    }
    return result.sorted()
}

/// Writes a file, replacing its contents.
func write(_ bytes: some Sequence<UInt8>, to path: String) throws {
    let file = try File(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
    try Array(bytes).withUnsafeBytes { try file.write($0, at: 0) }
}
