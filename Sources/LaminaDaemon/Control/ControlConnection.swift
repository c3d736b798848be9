import Glibc
import LaminaSystem

/// One HTTP/1.1 exchange with a control server over its unix socket; blocking, with a bound on everything that it reads.
///
/// It speaks only to lamina's own server, so it knows only the parts of RFC 9112 that this server uses: a length or chunks.
struct ControlConnection: ~Copyable {
    private let descriptor: Int32
    private let path: String
    private let shouldStop: @Sendable () -> Bool
    /// Bytes received and not used yet: `buffer[start...]`.
    private var buffer: [UInt8] = []
    private var start = 0
    private var framing = Framing.ended
    /// Whether any part of an answer has come.
    private var isAnswered = false

    private enum Framing: Equatable {
        case length(Int)
        case chunked(left: Int)
        case ended
    }

    /// lamina's heads have some 200 bytes; a line of a streamed answer has some 600 and a long path.
    private static let headLimit = 16 << 10
    /// A document: the mounts of a machine, at some 300 bytes each.
    static let bodyLimit = 16 << 20
    /// The server sends something at least every second; after a silence of this length it is stuck.
    private static let silenceLimit = 30.0
    private static let pollMilliseconds: Int32 = 200

    /// Connects.
    ///
    /// - Throws: `noServer` if none listens.
    init(_ socket: ControlSocket, shouldStop: @escaping @Sendable () -> Bool) throws {
        guard let descriptor = try socket.connect() else {
            throw DaemonError(.noServer, "no lamina server listens at \(socket.path)")
        }
        self.descriptor = descriptor
        self.path = socket.path
        self.shouldStop = shouldStop
    }

    deinit { close(descriptor) }

    /// Sends a request.
    func send(_ method: String, _ target: String, body: [UInt8]) throws {
        var head = "\(method) \(target) HTTP/1.1\r\nHost: lamina\r\nConnection: close\r\n"
        if !body.isEmpty { head += "Content-Type: application/json\r\n" }
        let request = Array((head + "Content-Length: \(body.count)\r\n\r\n").utf8) + body
        var sent = 0
        while sent < request.count {
            let count = request.withUnsafeBytes { bytes in
                Glibc.send(descriptor, bytes.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw lost(SystemError.last("send to", path))
            }
            sent += count
        }
    }

    /// Receives the head of the answer: its status.
    mutating func receiveHead() throws -> Int {
        var lines: [String] = []
        var size = 0
        while true {
            let line = try receiveLine(limit: Self.headLimit)
            size += line.utf8.count
            if line.isEmpty { break }
            guard size <= Self.headLimit else { throw strange("a head of more than \(Self.headLimit) bytes") }
            lines.append(line)
        }
        let status = lines.first?.split(separator: " ")
        guard let status, status.count >= 2, status[0].hasPrefix("HTTP/1."), let code = Int(status[1]),
            (100...599).contains(code)
        else { throw strange("no HTTP answer") }
        framing = .length(0)
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { throw strange("a header without a colon") }
            let value = parts[1].filter { $0 != " " }
            switch parts[0].lowercased() {
            case "content-length":
                guard let length = Int(value), length >= 0 else { throw strange("a length of '\(value.prefix(40))'") }
                framing = .length(length)
            case "transfer-encoding":
                guard value.lowercased() == "chunked" else { throw strange("an encoding '\(value.prefix(40))'") }
                framing = .chunked(left: 0)
            default: break
            }
        }
        return code
    }

    /// The whole rest of the body.
    mutating func receiveBody(limit: Int = bodyLimit) throws -> [UInt8] {
        var body: [UInt8] = []
        while let part = try receivePart() {
            body += part
            guard body.count <= limit else { throw strange("more than \(limit) bytes") }
        }
        return body
    }

    /// Some bytes of the body, as they come; nil at its end.
    mutating func receivePart() throws -> [UInt8]? {
        switch framing {
        case .ended: return nil
        case .length(let left):
            guard left > 0 else {
                framing = .ended
                return nil
            }
            let part = try take(atMost: left)
            framing = .length(left - part.count)
            return part
        case .chunked(var left):
            if left == 0 {
                let size = try receiveLine(limit: 64).prefix { $0 != ";" }
                guard let count = Int(size, radix: 16), (0...Self.bodyLimit).contains(count) else {
                    throw strange("a chunk of size '\(size)'")
                }
                guard count > 0 else {
                    framing = .ended
                    return nil
                }
                left = count
            }
            let part = try take(atMost: left)
            left -= part.count
            if left == 0 {
                guard try receiveLine(limit: 2).isEmpty else { throw strange("a chunk without its end") }
            }
            framing = .chunked(left: left)
            return part
        }
    }

    private mutating func take(atMost count: Int) throws -> [UInt8] {
        if start == buffer.count { try fill() }
        let part = Array(buffer[start...].prefix(count))
        start += part.count
        return part
    }

    private mutating func receiveLine(limit: Int) throws -> String {
        var line: [UInt8] = []
        while true {
            if start == buffer.count { try fill() }
            let byte = buffer[start]
            start += 1
            if byte == UInt8(ascii: "\n") { break }
            line.append(byte)
            guard line.count <= limit else { throw strange("a line of more than \(limit) bytes") }
        }
        if line.last == UInt8(ascii: "\r") { line.removeLast() }
        return String(decoding: line, as: UTF8.self)
    }

    /// Waits for bytes. The buffer must be empty.
    private mutating func fill() throws {
        var silence = 0.0
        while true {
            if shouldStop() { throw DaemonError(.interrupted, "interrupted") }
            var poll = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = Glibc.poll(&poll, 1, Self.pollMilliseconds)
            if ready < 0, errno != EINTR { throw lost(SystemError.last("wait for", path)) }
            if ready > 0 { break }
            silence += Double(Self.pollMilliseconds) / 1000
            guard silence < Self.silenceLimit else {
                throw DaemonError(
                    .serverFailed, "the lamina server at \(path) has not answered for \(Int(Self.silenceLimit)) seconds"
                )
            }
        }
        buffer = try [UInt8](unsafeUninitializedCapacity: 16 << 10) { room, filled in
            var count: Int
            repeat { count = recv(descriptor, room.baseAddress, room.count, 0) } while count < 0 && errno == EINTR
            if count < 0 { throw lost(SystemError.last("receive from", path)) }
            filled = count
        }
        start = 0
        if buffer.isEmpty { throw lost(nil) }
        isAnswered = true
    }

    private func lost(_ cause: SystemError?) -> any Error {
        let error = DaemonError(
            .serverFailed, "the lamina server at \(path) ended before it had answered", cause: cause)
        return isAnswered ? error : Unanswered(error: error)
    }

    /// The connection ended before any part of an answer came. A server begins its answer before it begins the work, so nothing
    /// was done, and the next server can be asked.
    struct Unanswered: Error {
        var error: DaemonError
    }

    private func strange(_ what: String) -> DaemonError {
        DaemonError(.serverFailed, "what listens at \(path) answered with \(what): it is no lamina server")
    }
}
