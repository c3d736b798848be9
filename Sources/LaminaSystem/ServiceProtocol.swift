import CLinux
import Glibc

/// The datagrams of sd_notify(3) and the descriptors of sd_listen_fds(3): how a service and its manager talk to each other.
public enum ServiceProtocol {
    /// Descriptors in one message; systemd takes more, lamina needs few.
    public static let descriptorLimit = 16
    /// Bytes in one message; systemd's own limit is a page (NOTIFY_BUFFER_MAX).
    static let messageLimit = 4096

    /// Sends assignments, one a line, to a manager's socket: a path, or `@` and an abstract name.
    public static func send(_ text: String, _ descriptors: [Int32] = [], to name: String) throws(SystemError) {
        let (name, text) = (Array(name.utf8), Array(text.utf8))
        let result = name.withUnsafeBytes { name in
            text.withUnsafeBytes { text in
                lamina_notify_send(
                    name.baseAddress?.assumingMemoryBound(to: CChar.self), name.count,
                    text.baseAddress?.assumingMemoryBound(to: CChar.self), text.count, descriptors,
                    Int32(descriptors.count))
            }
        }
        guard result == 0 else { throw SystemError.last("notify", String(decoding: name, as: UTF8.self)) }
    }

    /// A message that came through a manager's socket.
    public struct Message: Sendable {
        /// The sender, as the kernel says.
        public var process: Int32
        /// `READY=1` and the like.
        public var assignments: [(name: String, value: String)]
        public var descriptors: [File]
    }

    /// The manager's end.
    public final class Socket: Sendable {
        public let file: File
        /// For `NOTIFY_SOCKET`.
        public let name: String
        /// Where it is, and by what name there.
        private let directory: File
        private let entry: String

        /// The longest path that `sockaddr_un` holds, without its NUL (unix(7)).
        private static let pathLimit = 107
        private static let prefix = "notify-"

        /// Makes a socket in a directory that is this user's alone.
        ///
        /// A descriptor that comes with a message has to be closed, and closing one of somebody else's choice may take as long as he likes
        /// (SO_LINGER of socket(7)). Any user may send to an abstract socket; here only who may enter the directory can.
        ///
        /// What a process left that was killed is taken away.
        ///
        /// - Parameter directory: of mode 0700. Of one with a long path the socket's name leads through this process's descriptor.
        public init(in directory: File) throws(SystemError) {
            entry = "\(Self.prefix)\(getpid())-\(UInt32.random(in: 0 ... .max))"
            self.directory = directory
            let path = "\(directory.path)/\(entry)"
            name =
                path.utf8.count <= Self.pathLimit
                ? path : "/proc/\(getpid())/fd/\(directory.descriptor)/\(entry)"
            Self.removeAbandoned(directory)
            let place = "/proc/self/fd/\(directory.descriptor)/\(entry)"
            let descriptor = Self.withBytes(place) { lamina_notify_socket($0, $1) }
            guard descriptor >= 0 else { throw SystemError.last("listen at", path) }
            file = File(adopting: descriptor, path: path)
        }

        /// Takes the name away; for a process that ends.
        public func withdraw() { unlinkat(directory.descriptor, entry, 0) }

        private static func removeAbandoned(_ directory: File) {
            for name in (try? File.names(inDirectory: ".", of: directory)) ?? [] where name.hasPrefix(prefix) {
                let place = "/proc/self/fd/\(directory.descriptor)/\(name)"
                guard withBytes(place, { lamina_notify_answers($0, $1) }) == 0 else { continue }
                unlinkat(directory.descriptor, name, 0)
            }
        }

        private static func withBytes(_ text: String, _ body: (UnsafePointer<CChar>?, Int) -> Int32) -> Int32 {
            let bytes = text.utf8.map { CChar(bitPattern: $0) }
            return bytes.withUnsafeBufferPointer { body($0.baseAddress, $0.count) }
        }

        /// The next message; nil if there is none.
        public func receive() throws(SystemError) -> Message? {
            var text = [CChar](repeating: 0, count: messageLimit)
            var descriptors = [Int32](repeating: -1, count: descriptorLimit)
            var count = Int32(descriptors.count)
            var process: Int32 = 0
            let size = lamina_notify_receive(file.descriptor, &text, text.count, &descriptors, &count, &process)
            if size < 0 {
                if errno == EAGAIN { return nil }
                throw SystemError.last("receive from", name)
            }
            let files = descriptors.prefix(Int(count)).map { File(adopting: $0, path: "a held descriptor") }
            let lines = text.prefix(Int(size)).map { UInt8(bitPattern: $0) }.split(separator: UInt8(ascii: "\n"))
            return Message(
                process: process,
                assignments: lines.compactMap { line in
                    guard let equals = line.firstIndex(of: UInt8(ascii: "=")) else { return nil }
                    return (
                        String(decoding: line[..<equals], as: UTF8.self),
                        String(decoding: line[(equals + 1)...], as: UTF8.self)
                    )
                }, descriptors: files)
        }
    }

    /// Starts a program with descriptors from 3 on. For a process that has one thread.
    ///
    /// - Parameters:
    ///   - words: its name and arguments.
    ///   - environment: all of it; `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are added if there are descriptors.
    ///   - names: of the descriptors, without colons.
    ///   - kept: one more that it inherits under its own number.
    /// - Returns: its process ID.
    public static func start(
        _ program: String, _ words: [String], environment: [String], _ descriptors: [Int32], names: [String],
        keeping kept: Int32?
    ) throws(SystemError) -> Int32 {
        var environment = environment
        if !descriptors.isEmpty {
            // The child writes its number over the zeros.
            environment += [
                "LISTEN_PID=0000000000", "LISTEN_FDS=\(descriptors.count)",
                "LISTEN_FDNAMES=\(names.joined(separator: ":"))",
            ]
        }
        let arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        let variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
        defer { for text in arguments + variables { free(text) } }
        let process = lamina_start_listening(
            program, arguments, variables, descriptors, Int32(descriptors.count), kept ?? -1)
        guard process > 0 else { throw SystemError.last("start", program) }
        return process
    }
}

/// Signals that can be waited for with poll(2). For a process that has one thread.
public final class SignalDescriptor: Sendable {
    public let file: File

    /// Blocks the signals, so that they are reported only here.
    public init(_ signals: [Int32]) throws(SystemError) {
        let descriptor = lamina_signal_descriptor(signals, Int32(signals.count))
        guard descriptor >= 0 else { throw SystemError.last("make", "a signal descriptor") }
        file = File(adopting: descriptor, path: "signals")
    }

    /// The next signal; nil if there is none.
    public func next() -> Int32? {
        let number = lamina_next_signal(file.descriptor)
        return number > 0 ? number : nil
    }
}
