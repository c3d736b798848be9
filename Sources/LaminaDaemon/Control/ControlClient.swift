import Glibc
public import LaminaMerge
public import LaminaStore
import LaminaSystem

/// Makes requests to the server of a store, blocking the calling thread.
public struct ControlClient: Sendable {
    private let socket: ControlSocket
    private let shouldStop: @Sendable () -> Bool

    /// - Parameters:
    ///   - root: the directory of the store.
    ///   - shouldStop: asked several times a second; a call that stops closes its connection, and that ends what the server
    ///     does for it.
    public init(root: String, shouldStop: @escaping @Sendable () -> Bool = { false }) {
        socket = ControlSocket(root: root)
        self.shouldStop = shouldStop
    }

    /// For who may look at a store and no more.
    init(viewsOf root: String, shouldStop: @escaping @Sendable () -> Bool) {
        socket = ControlSocket(path: ViewServer.path(root: root))
        self.shouldStop = shouldStop
    }

    func viewedStatus() throws -> StatusReport { try ask("GET", "/v1/views/status") }

    func viewedImages() throws -> [ImageStatus] { try ask("GET", "/v1/views/images") }

    func viewedFiles(_ request: FilesRequest) throws -> [FileStatus] { try ask("POST", "/v1/views/files", request) }

    func viewScript(_ request: ScriptRequest) throws -> [UInt8] {
        var exchange = try begin("POST", "/v1/views/script", body: try JSONText.line(request))
        let status = exchange.status
        let body = try exchange.connection.receiveBody(limit: 2 * viewScriptLimit)
        guard status != 200 else { return body }
        return try read(status, body)
    }

    /// Whether a server listens.
    ///
    /// - Throws: `permission` if one does, but not for this user.
    public func isServed() throws -> Bool {
        do {
            _ = try status()
            return true
        } catch let error as DaemonError where error.code == .noServer {
            return false
        }
    }

    public func status() throws -> ServerStatus { try ask("GET", "/v1/status") }

    public func mounts() throws -> [MountListing] { try ask("GET", "/v1/mounts") }

    /// Asks the server to end.
    public func shutdown() throws { let _: [String: String] = try ask("POST", "/v1/shutdown") }

    public func pull(_ request: PullRequest, progress: (PullProgress) -> Void) throws -> PullResult {
        try askStreaming("POST", "/v1/pull", request, progress: progress)
    }

    public func check(_ options: CheckOptions, progress: (PullProgress) -> Void) throws -> CheckReport {
        try askStreaming("POST", "/v1/check", options, progress: progress)
    }

    public func mount(
        _ request: MountRequest, progress: (PullProgress) -> Void = { _ in }
    ) throws -> MountResult {
        try askStreaming("POST", "/v1/mounts", request, progress: progress)
    }

    public func unmount(_ request: UnmountRequest) throws -> MountListing {
        try askStreaming("DELETE", "/v1/mounts", request) { _ in }
    }

    public func remove(_ request: RemoveRequest) throws -> RemoveResult {
        try askStreaming("DELETE", "/v1/images", request) { _ in }
    }

    public func collectGarbage(_ request: GarbageRequest) throws -> GarbageReport {
        try askStreaming("POST", "/v1/gc", request) { _ in }
    }

    public func pin(_ request: PinRequest) throws -> PinResult {
        try askStreaming("POST", "/v1/pins", request) { _ in }
    }

    public func seal(_ request: SealRequest, progress: (PullProgress) -> Void) throws -> SealResult {
        try askStreaming("POST", "/v1/seals", request, progress: progress)
    }

    private func open() throws -> ControlConnection {
        do {
            return try ControlConnection(socket, shouldStop: shouldStop)
        } catch let error as SystemError where error.code == EACCES || error.code == EPERM {
            throw DaemonError(
                .permission, "this user may not talk to the lamina server at \(socket.path): try it with sudo",
                cause: error)
        }
    }

    /// Sends a request; if a server ended without an answer, sends it to the next one.
    ///
    /// - Throws: `noServer` if none listens any more.
    private func begin(_ method: String, _ target: String, body: [UInt8]) throws -> BegunExchange {
        let deadline = monotonicSeconds() + Self.patience
        while true {
            do {
                var connection = try open()
                try connection.send(method, target, body: body)
                let status = try connection.receiveHead()
                return BegunExchange(status: status, connection: connection)
            } catch let unanswered as ControlConnection.Unanswered {
                guard monotonicSeconds() < deadline else { throw unanswered.error }
                usleep(20_000)
            }
        }
    }

    /// How long servers may end one after the other before one of them answers, in seconds.
    private static let patience = 10.0

    private struct BegunExchange: ~Copyable {
        let status: Int
        var connection: ControlConnection
    }

    private func ask<Answer: Codable & Sendable>(_ method: String, _ target: String) throws -> Answer {
        var exchange = try begin(method, target, body: [])
        let status = exchange.status
        let body = try exchange.connection.receiveBody()
        return try read(status, body)
    }

    private func ask<Answer: Codable & Sendable>(
        _ method: String, _ target: String, _ request: some Encodable
    ) throws -> Answer {
        var exchange = try begin(method, target, body: try JSONText.line(request))
        let status = exchange.status
        let body = try exchange.connection.receiveBody(limit: 2 * viewScriptLimit)
        return try read(status, body)
    }

    private func askStreaming<Request: Encodable, Answer: Codable & Sendable>(
        _ method: String, _ target: String, _ request: Request, progress: (PullProgress) -> Void
    ) throws -> Answer {
        var exchange = try begin(method, target, body: try JSONText.line(request))
        let status = exchange.status
        guard status == 200 else {
            let body = try exchange.connection.receiveBody()
            return try read(status, body)
        }
        var pending: [UInt8] = []
        while let part = try exchange.connection.receivePart() {
            for byte in part {
                guard byte == UInt8(ascii: "\n") else {
                    pending.append(byte)
                    continue
                }
                defer { pending.removeAll(keepingCapacity: true) }
                if pending.isEmpty { continue }
                let line = try decode(ControlLine<Answer>.self, pending)
                if let error = line.error {
                    // A server that ends has not begun with it.
                    throw Self.failure(error)
                }
                if let result = line.result { return result }
                if let state = line.progress { progress(state) }
            }
            guard pending.count <= Self.lineLimit else {
                throw DaemonError(
                    .serverFailed, "the lamina server at \(socket.path) sent a line of over \(Self.lineLimit) bytes")
            }
        }
        throw DaemonError(.serverFailed, "the lamina server at \(socket.path) ended its answer before the result")
    }

    /// The report of a check names each damaged file, with a few hundred bytes.
    private static var lineLimit: Int { 256 << 20 }

    /// A server that is ending has done nothing: the next one is asked, as if none listened.
    private static func failure(_ error: ControlFailure) -> DaemonError {
        let isEnding = error.exitCode == ExitStatus.noServer.rawValue
        return DaemonError(isEnding ? .noServer : .remote(exitCode: error.exitCode), error.message)
    }

    private func read<Answer: Codable & Sendable>(_ status: Int, _ body: [UInt8]) throws -> Answer {
        if status == 200 { return try decode(Answer.self, body) }
        if let line = try? JSONText.decode(ControlLine<Answer>.self, body), let error = line.error {
            throw Self.failure(error)
        }
        throw DaemonError(.serverFailed, "the lamina server at \(socket.path) answered with status \(status)")
    }

    private func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws -> Value {
        do {
            return try JSONText.decode(type, bytes)
        } catch {
            throw DaemonError(
                .serverFailed,
                "the lamina server at \(socket.path) answered with what this lamina does not understand: is it another version?"
            )
        }
    }
}
