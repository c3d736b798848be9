import CLinux
import Glibc
import Synchronization

/// Looks a path up from a separate process.
///
/// A process that waits for its own FUSE mount and is killed never ends: the request waits for an answer that only that process
/// could give, and no signal ends the wait once the request was read (request_wait_answer in fs/fuse/dev.c). So a process that
/// serves a mount must not ask it.
public final class Prober: Sendable {
    private let commands: File
    private let answers: File
    private let process: Int32

    /// Starts the process.
    public init(path: String) throws(SystemError) {
        let (commandsIn, commandsOut) = try BackgroundProcess.makePipe()
        let (answersIn, answersOut) = try BackgroundProcess.makePipe()
        Self.ended.withLock { waiting in waiting = waiting.filter { waitpid($0, nil, WNOHANG) == 0 } }
        process = lamina_start_prober(path, commandsIn.descriptor, answersOut.descriptor)
        guard process > 0 else { throw SystemError.last("start a process that probes", path) }
        (commands, answers) = (commandsOut, answersIn)
    }

    /// Has the path looked up.
    ///
    /// - Returns: 0 or an errno value; nil if there was no answer in time. Then this prober is still waiting, and gives no
    ///   answer later either: make another one.
    public func probe(milliseconds: Int32) -> Int32? {
        var byte: UInt8 = 0
        guard write(commands.descriptor, &byte, 1) == 1 else { return nil }
        var entry = pollfd(fd: answers.descriptor, events: Int16(POLLIN), revents: 0)
        var result: Int32
        repeat { result = poll(&entry, 1, milliseconds) } while result < 0 && errno == EINTR
        guard result > 0, read(answers.descriptor, &byte, 1) == 1 else { return nil }
        return Int32(byte)
    }

    deinit {
        // It ends when it gets no more commands, or when its request is answered: that may be later, and then its status must
        // be collected.
        kill(process, SIGKILL)
        Self.reap(process)
    }

    private static let ended = Mutex<Set<pid_t>>([])

    /// Collects the status of this process and of earlier ones, if they have ended; the others are tried again next time.
    private static func reap(_ process: pid_t) {
        ended.withLock { waiting in
            waiting.insert(process)
            waiting = waiting.filter { waitpid($0, nil, WNOHANG) == 0 }
        }
    }

    /// How many processes were told to end and may still run; for tests.
    static var unreapedCount: Int { ended.withLock { $0.count } }
}
