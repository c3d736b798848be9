import Foundation

/// The machine of the measurement.
enum Machine {
    static func facts(_ options: Options, seconds: Double) -> [(String, String)] {
        func first(_ arguments: String...) -> String {
            guard let output = try? run(arguments).output else { return "not installed" }
            return output.split(separator: "\n").first.map { $0.trimmingCharacters(in: .whitespaces) } ?? ""
        }
        func text(_ path: String) -> String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
        func field(_ file: String, _ name: String) -> String {
            text(file).split(separator: "\n").first { $0.hasPrefix(name) }?.split(separator: ":").last
                .map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown"
        }
        let formatter = ISO8601DateFormatter()
        let load = text("/proc/loadavg").split(separator: " ").prefix(3).joined(separator: " ")
        return [
            ("date", formatter.string(from: Date())),
            (
                "processor",
                "\(field("/proc/cpuinfo", "model name")), \(ProcessInfo.processInfo.activeProcessorCount) cores"
            ),
            ("memory", field("/proc/meminfo", "MemTotal")),
            ("kernel", first("uname", "-sr")),
            ("file system of the store", first("findmnt", "-no", "FSTYPE,SOURCE,OPTIONS", "-T", options.directory)),
            ("lamina", "\(first(options.lamina, "version")), \(first("git", "describe", "--always", "--dirty"))"),
            ("gzip, tar", "\(first("gzip", "--version")); \(first("tar", "--version"))"),
            ("pigz", first("bash", "-c", "pigz --version 2>&1")),
            ("docker-registry", first("docker-registry", "--version")),
            ("erofs", first("dpkg-query", "-W", "erofs-utils")),
            ("squashfs", first("bash", "-c", "mksquashfs -version || true")),
            ("load at the end", load), ("rounds", options.quick ? "few (--quick)" : "all"),
            ("the run took", "\(Int(seconds.rounded())) s, inputs included where they were not there yet"),
        ]
    }
}
