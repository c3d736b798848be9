import CLinux
import Glibc

/// Starts a process that outlives the one that starts it.
public enum BackgroundProcess {
    /// A pipe that no other process inherits: the reading and the writing end.
    public static func makePipe() throws(SystemError) -> (reading: File, writing: File) {
        var ends: [Int32] = [-1, -1]
        guard lamina_pipe(&ends) == 0 else { throw SystemError.last("make", "a pipe") }
        return (File(adopting: ends[0], path: "pipe"), File(adopting: ends[1], path: "pipe"))
    }

    /// Starts a program in its own session, so that Ctrl-C and the end of the terminal do not reach it. It runs in `/`, so that
    /// it keeps no file system busy, and reads nothing.
    ///
    /// - Parameters:
    ///   - words: its name and arguments.
    ///   - output: where standard output and error go.
    ///   - ready: an open file that it finds as descriptor `readyDescriptor`.
    /// - Returns: its process ID.
    public static func start(
        _ program: String, _ words: [String], output: File, ready: File, readyDescriptor: Int32
    ) throws(SystemError) -> Int32 {
        let arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process: Int32 = 0
        let error = lamina_spawn_session(
            program, arguments, output.descriptor, ready.descriptor, readyDescriptor, &process)
        guard error == 0 else {
            throw SystemError(code: error, operation: "start", subject: words.joined(separator: " "))
        }
        return process
    }
}

extension File {
    /// Opens a directory only as a place where paths start (O_PATH).
    public static func place(_ directory: String) throws(SystemError) -> File {
        try File(directory, lamina_o_path | O_DIRECTORY)
    }

    /// Whether every process has closed the other end of this pipe in time. Nothing may be written to it.
    public func waitForEnd(milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: descriptor, events: 0, revents: 0)
        var result: Int32
        repeat { result = poll(&entry, 1, milliseconds) } while result < 0 && errno == EINTR
        return result > 0
    }
}
