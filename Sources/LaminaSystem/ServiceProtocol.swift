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

        /// Makes an abstract socket.
        ///
        /// - Parameter name: no other process may have it.
        public init(name: String) throws(SystemError) {
            let bytes = name.utf8.map { CChar(bitPattern: $0) }
            let descriptor = lamina_notify_socket(bytes, bytes.count)
            guard descriptor >= 0 else { throw SystemError.last("listen at", "@" + name) }
            file = File(adopting: descriptor, path: "@" + name)
            self.name = "@" + name
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
