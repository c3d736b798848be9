import Glibc
import LaminaSystem

/// A TCP socket on 127.0.0.1, blocking; closed with the last reference.
final class LoopbackSocket: @unchecked Sendable {
    // @unchecked: the descriptor never changes; only the one thread that reads uses `pending`.
    let descriptor: Int32
    private var pending: [UInt8] = []

    init(adopting descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    private static func open() throws -> LoopbackSocket {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemError.last("open", "a socket") }
        return LoopbackSocket(adopting: descriptor)
    }

    private static func withAddress<Result>(
        port: UInt16, _ body: (UnsafeMutablePointer<sockaddr>, inout socklen_t) -> Result
    ) -> (Result, port: UInt16) {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, &length) }
        }
        return (result, UInt16(bigEndian: address.sin_port))
    }

    /// Listens on a free port.
    static func listening() throws -> (LoopbackSocket, port: UInt16) {
        let listener = try open()
        let (bound, _) = withAddress(port: 0) { bind(listener.descriptor, $0, $1) }
        guard bound == 0, listen(listener.descriptor, 128) == 0 else { throw SystemError.last("listen", "127.0.0.1") }
        let (named, port) = withAddress(port: 0) { getsockname(listener.descriptor, $0, &$1) }
        guard named == 0 else { throw SystemError.last("name", "a socket") }
        return (listener, port)
    }

    static func connected(to port: UInt16) throws -> LoopbackSocket {
        let client = try open()
        let (connected, _) = withAddress(port: port) { connect(client.descriptor, $0, $1) }
        guard connected == 0 else { throw SystemError.last("connect to", "127.0.0.1:\(port)") }
        return client
    }

    /// The next connection; `nil` if the listener was shut down.
    func accepted() -> LoopbackSocket? {
        while true {
            let descriptor = accept(descriptor, nil, nil)
            if descriptor >= 0 {
                // If a child process starts in between, it keeps the connection, which `hangUp` still ends.
                _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
                var one: Int32 = 1
                setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
                return LoopbackSocket(adopting: descriptor)
            }
            if errno != EINTR && errno != ECONNABORTED { return nil }
        }
    }

    /// Passes every connection to `serve`, one after the other on a separate thread, until this listener hangs up.
    func serve(_ name: String, _ serve: @escaping @Sendable (LoopbackSocket) -> Void) throws {
        _ = try Thread(name) {
            while let client = self.accepted() {
                serve(client)
                client.hangUp()
            }
        }
    }

    /// Answers a request with JSON, as the last request of this connection.
    func answer(_ status: String, json: String) {
        _ = send(
            "HTTP/1.1 \(status)\r\nContent-Type: application/json\r\nConnection: close\r\n"
                + "Content-Length: \(json.utf8.count)\r\n\r\n\(json)")
    }

    /// Ends every call that waits on the socket, from any thread.
    func hangUp() { shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// Sends everything; false if the other side has gone.
    func send(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var done = 0
        while done < bytes.count {
            let count = Glibc.send(
                descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done, Int32(MSG_NOSIGNAL))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }

    func send(_ text: String) -> Bool {
        var text = text
        return text.withUTF8 { send(UnsafeRawBufferPointer($0)) }
    }

    /// Up to `limit` bytes; empty at the end.
    func receive(atMost limit: Int) -> [UInt8] {
        if !pending.isEmpty {
            let taken = Array(pending.prefix(limit))
            pending.removeFirst(taken.count)
            return taken
        }
        return [UInt8](unsafeUninitializedCapacity: limit) { buffer, filled in
            while true {
                let count = recv(descriptor, buffer.baseAddress, limit, 0)
                if count < 0, errno == EINTR { continue }
                filled = max(0, count)
                return
            }
        }
    }

    /// The head of a request or response, up to its empty line; `nil` if the other side has gone or sends nonsense.
    func receiveHead() -> MessageHead? {
        var bytes: [UInt8] = []
        while bytes.count < 1 << 16 {
            let more = receive(atMost: 1 << 14)
            if more.isEmpty { return nil }
            bytes += more
            guard let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) else { continue }
            pending = Array(bytes[end.upperBound...]) + pending
            return MessageHead(String(decoding: bytes[..<end.lowerBound], as: UTF8.self))
        }
        return nil
    }
}

/// The first line of an HTTP message and its fields.
struct MessageHead {
    var firstLine: String
    var fields: [(name: String, value: String)]

    init(_ text: String) {
        let lines = text.split(separator: "\r\n", omittingEmptySubsequences: false)
        firstLine = lines.first.map(String.init) ?? ""
        fields = lines.dropFirst().compactMap { line in
            guard let colon = line.firstIndex(of: ":") else { return nil }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            return (String(line[..<colon]), String(value))
        }
    }

    subscript(name: String) -> String? {
        get { fields.first { $0.name.lowercased() == name.lowercased() }?.value }
        set {
            fields.removeAll { $0.name.lowercased() == name.lowercased() }
            if let newValue { fields.append((name, newValue)) }
        }
    }

    /// The status of a response.
    var status: Int {
        let parts = firstLine.split(separator: " ")
        return parts.count > 1 ? Int(parts[1]) ?? 0 : 0
    }

    var text: String {
        firstLine + "\r\n" + fields.map { "\($0.name): \($0.value)\r\n" }.joined() + "\r\n"
    }
}
