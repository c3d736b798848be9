import LaminaSystem

/// The part of a Kubernetes API that lists secrets, on this machine: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/
public final class ClusterAPI: Sendable {
    private struct State {
        var secrets: [(name: String, config: String)] = []
        var status = 200
        var body: String?
        var requests: [String] = []
    }

    public let port: UInt16
    /// What Authorization must be; nil: anything.
    private let authorization: String?
    /// Secrets in an answer, at most.
    private let pageSize: Int
    private let state = Monitor(State())
    private let listener: LoopbackSocket
    private let encode: @Sendable (String) -> String

    /// - Parameter encode: text to base64.
    public init(authorization: String?, pageSize: Int = 500, encode: @escaping @Sendable (String) -> String) throws {
        self.authorization = authorization
        self.pageSize = pageSize
        self.encode = encode
        (listener, port) = try LoopbackSocket.listening()
        try listener.serve("cluster") { [weak self] in self?.serve($0) }
    }

    deinit { listener.hangUp() }

    public func stop() { listener.hangUp() }

    public var url: String { "http://127.0.0.1:\(port)" }
    /// The first lines of the requests.
    public var requests: [String] { state.withLock { $0.requests } }

    /// Has these secrets from now on; each with a `config.json` in docker's form.
    public func set(_ secrets: KeyValuePairs<String, String>) {
        state.withLock { $0.secrets = secrets.map { ($0.key, $0.value) } }
    }

    /// Answers with this from now on; a nil body: the right one.
    public func answer(_ status: Int, _ body: String? = nil) {
        state.withLock { ($0.status, $0.body) = (status, body) }
    }

    private func serve(_ client: LoopbackSocket) {
        guard let head = client.receiveHead() else { return }
        let (status, text) = state.withLock { state -> (Int, String) in
            state.requests.append(head.firstLine)
            if let authorization, head["Authorization"] != authorization { return (401, "{}") }
            if let body = state.body { return (state.status, body) }
            guard state.status == 200 else { return (state.status, "{}") }
            let query = head.firstLine.split(separator: " ").dropFirst().first?.split(separator: "?").last ?? ""
            let start =
                query.split(separator: "&").first { $0.hasPrefix("continue=") }.flatMap { Int($0.dropFirst(9)) } ?? 0
            let page = state.secrets.dropFirst(start).prefix(pageSize)
            let items = page.map { secret in
                """
                {"metadata":{"namespace":"team","name":"\(secret.name)"},"type":"kubernetes.io/dockerconfigjson",\
                "data":{".dockerconfigjson":"\(encode(secret.config))"}}
                """
            }
            let end = start + page.count
            let next = end < state.secrets.count ? "\(end)" : ""
            return (
                200,
                "{\"kind\":\"SecretList\",\"metadata\":{\"continue\":\"\(next)\"},\"items\":[\(items.joined(separator: ","))]}"
            )
        }
        client.answer("\(status) OK", json: text)
    }
}
