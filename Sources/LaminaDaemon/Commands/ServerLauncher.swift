import Glibc
import LaminaStore
import LaminaSystem
import Logging

/// Leaves a server behind: `lamina serve --supervise --exit-when-idle` as a process in its own session, whose output goes to
/// `<root>/server.log`.
struct ServerLauncher {
    let context: CommandContext

    /// Above this size the log is started again.
    private static let logLimit: Int64 = 1 << 20
    /// The descriptor at which the server finds the pipe.
    private static let readyDescriptor: Int32 = 3

    /// The program: this one.
    var executable = "/proc/self/exe"

    /// Starts a server and waits until it is ready.
    ///
    /// - Throws: the server's error, or that it gave none.
    func launch() throws {
        let logPath = context.root + "/server.log"
        let directory = try StoreDirectory.prepare(context.root)
        let log = try File(
            "server.log", O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, mode: 0o600, in: directory)
        if try log.size() > Self.logLimit { try log.truncate(to: 0) }
        let reading = try start(log: log)
        switch ReadySignal.Message(try receive(reading)) {
        case .ready: return
        case .failed(let exitCode, let message): throw DaemonError(.remote(exitCode: exitCode), message)
        case .nothing:
            throw DaemonError(.serverFailed, "the server that was started has died; \(logPath) may say why")
        }
    }

    private func receive(_ reading: File) throws -> [UInt8] {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            // Ctrl-C: the server that was started stays, and ends by itself.
            if Interrupts.requested { throw DaemonError(.interrupted, "interrupted") }
            var poll = pollfd(fd: reading.descriptor, events: Int16(POLLIN), revents: 0)
            guard Glibc.poll(&poll, 1, 200) > 0 else { continue }
            let count = read(reading.descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return bytes }
            bytes += buffer.prefix(count)
            if bytes == [UInt8(ascii: "R")] { return bytes }
        }
    }

    /// The reading end of the pipe; only the server has the writing end when this returns.
    private func start(log: File) throws(SystemError) -> File {
        var words = [
            "lamina", "serve", "--supervise", "--exit-when-idle", "--ready-fd", "\(Self.readyDescriptor)", "--root",
            context.root,
        ]
        words += context.configurationOptions
        if context.log.logLevel <= .debug { words.append("--verbose") }
        let (reading, writing) = try BackgroundProcess.makePipe()
        _ = try BackgroundProcess.start(
            executable, words, output: log, ready: writing, readyDescriptor: Self.readyDescriptor)
        return reading
    }
}
