import Glibc
import LaminaSystem

/// A supervisor and its current server.
struct Supervised {
    let child: Child
    let sandbox: Sandbox

    /// The server's process; nil between two servers.
    var server: pid_t? {
        let path = "/proc/\(child.pid)/task/\(child.pid)/children"
        return (try? readFile(path)).flatMap { bytes in
            String(decoding: bytes, as: UTF8.self).split(separator: " ").first.flatMap { pid_t($0) }
        }
    }

    /// Whether the server that runs now answers.
    func isReady() throws -> Bool {
        guard let server, access(sandbox.root + "/control.sock", F_OK) == 0 else { return false }
        return try sandbox.status().server?.pid == server
    }

    /// Kills the server, and waits until another has replaced it, ready or not.
    func killServer(_ signal: Int32 = SIGKILL) throws {
        guard let old = server else { return }
        kill(old, signal)
        guard eventually(seconds: 30, { server.map { $0 != old } ?? false }) else {
            throw Outcome.Failed(description: "no other server is started\n\(child.errorsSoFar)")
        }
    }

    /// How many times a server took over, as it says itself.
    var takeovers: Int { child.errorsSoFar.split(separator: "\n").count { $0.contains("the mounts go on") } }
}
