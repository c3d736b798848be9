import LaminaSystem

/// An HTTP server on this machine that answers as told: what registries and proxies have been seen to answer.
public final class ScriptedServer: Sendable {
    /// What is requested.
    public struct Request: Sendable {
        public var method: String
        /// With its query.
        public var path: String
        public var authorization: String?
        /// Whom the client means.
        public var host: String?
    }

    /// What it answers.
    public struct Answer: Sendable {
        public var status: Int
        public var fields: [String: String]
        public var body: String
        /// Whether it gives the body's length.
        public var hasLength: Bool

        public init(_ status: Int, _ fields: [String: String] = [:], _ body: String = "", hasLength: Bool = true) {
            self.status = status
            self.fields = fields
            self.body = body
            self.hasLength = hasLength
        }
    }

    public let port: UInt16
    /// The beginning of references.
    public var host: String { "127.0.0.1:\(port)" }
    private let listener: LoopbackSocket
    private let log = Monitor<[Request]>([])

    /// Every request that came.
    public var requests: [Request] { log.withLock { $0 } }

    /// - Parameter answer: called on the server's thread, for one request after the other.
    public init(_ answer: @escaping @Sendable (Request) -> Answer) throws {
        (listener, port) = try LoopbackSocket.listening()
        let log = log
        try listener.serve("scripted") { client in
            guard let head = client.receiveHead() else { return }
            let words = head.firstLine.split(separator: " ").map(String.init)
            guard words.count == 3 else { return }
            // A form's body.
            if let length = head["Content-Length"].flatMap({ Int($0) }), length > 0, length < 1 << 16 {
                var left = length
                while left > 0 {
                    let more = client.receive(atMost: left)
                    if more.isEmpty { return }
                    left -= more.count
                }
            }
            let request = Request(
                method: words[0], path: words[1], authorization: head["Authorization"], host: head["Host"])
            log.withLock { $0.append(request) }
            let answer = answer(request)
            var text = "HTTP/1.1 \(answer.status) As Told\r\nConnection: close\r\n"
            for field in answer.fields.sorted(by: { $0.key < $1.key }) { text += "\(field.key): \(field.value)\r\n" }
            if answer.hasLength { text += "Content-Length: \(answer.body.utf8.count)\r\n" }
            _ = client.send(text + "\r\n" + answer.body)
        }
    }

    deinit { listener.hangUp() }

    public func stop() { listener.hangUp() }
}
