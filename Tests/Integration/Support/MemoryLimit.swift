import Glibc
import LaminaSystem

/// A control group whose processes may have this much memory; a process that needs more is killed.
final class MemoryLimit {
    private let directory: String

    init(bytes: Int) throws {
        let unified = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0
        let parent = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory"
        directory = "\(parent)/lamina-test-\(getpid())"
        guard mkdir(directory, 0o755) == 0 || errno == EEXIST else { throw SystemError.last("make", directory) }
        let file = directory + (unified ? "/memory.max" : "/memory.limit_in_bytes")
        try Array("\(bytes)".utf8).withUnsafeBytes { try File(file, O_WRONLY).write($0, at: 0) }
    }

    deinit { rmdir(directory) }

    func start(_ words: [String], in sandbox: Sandbox) throws -> Child {
        let join = "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\""
        return try sandbox.startProgram(["/bin/sh", "-c", join, "sh", directory] + words)
    }

    func run(_ words: [String], in sandbox: Sandbox, seconds: Double) throws -> Outcome {
        try start(words, in: sandbox).wait(seconds: seconds)
    }
}
