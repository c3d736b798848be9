import GRPCCore
import GRPCNIOTransportHTTP2Posix
import LaminaSystem

/// Makes calls for other clients at containerd's socket: messages are passed on as bytes, and metadata, status and trailers go
/// through both ways unchanged.
struct Forwarder: Sendable {
    /// The result: the metadata of the answer, and either its message with the trailers, or the status.
    struct Answer: Sendable {
        struct Contents: Sendable {
            var message: [UInt8]
            var trailers: Metadata
        }

        var metadata: Metadata
        var outcome: Result<Contents, RPCError>

        var isSuccess: Bool { if case .success = outcome { true } else { false } }

        var response: StreamingServerResponse<[UInt8]> {
            StreamingServerResponse(metadata: metadata) { [outcome] writer in
                let contents = try outcome.get()
                try await writer.write(contents.message)
                return contents.trailers
            }
        }
    }

    /// The largest message, as in containerd and kubelet; gRPC's own limit is 4 MiB, which lists of images may exceed.
    static let messageLimit = 16 << 20

    /// containerd's socket.
    let path: String
    private let client: GRPCClient<HTTP2ClientTransport.Posix>

    /// Nothing is connected before the first call.
    init(path: String) throws {
        self.path = path
        let transport = try HTTP2ClientTransport.Posix(
            // Go's servers do not accept the path of a socket as an authority.
            target: .unixDomainSocket(path: path, authority: "localhost"), transportSecurity: .plaintext,
            config: .defaults {
                // containerd may be restarted at any time, and kubelet calls every few seconds.
                $0.backoff.initial = .milliseconds(100)
                $0.backoff.max = .seconds(1)
            })
        client = GRPCClient(transport: transport)
    }

    /// Keeps the connection, until `stop` and the end of the last call.
    func run() async throws { try await client.runConnections() }

    func stop() { client.beginGracefulShutdown() }

    /// Makes a call; ends it when its caller gives it up.
    func forward(
        _ message: [UInt8], _ metadata: Metadata, to method: MethodDescriptor, for caller: ServerContext
    ) async throws -> Answer {
        try await withThrowingTaskGroup(of: Answer?.self) { group in
            group.addTask { await call(method, message, metadata.passed) }
            group.addTask {
                try await caller.cancellation.cancelled
                return nil
            }
            defer { group.cancelAll() }
            guard case .some(.some(let answer)) = try await group.next() else {
                throw RPCError(code: .cancelled, message: "the caller has given up")
            }
            return answer
        }
    }

    private func call(_ method: MethodDescriptor, _ message: [UInt8], _ metadata: Metadata) async -> Answer {
        var options = CallOptions.defaults
        // The transport confuses the two (as of 2.9), so both are set.
        options.maxRequestMessageBytes = Self.messageLimit
        options.maxResponseMessageBytes = Self.messageLimit
        // A call waits while lamina connects to a restarted containerd, and fails at once if there is no containerd.
        options.waitForReady = File.isListening(at: path)
        do {
            return try await client.unary(
                request: ClientRequest(message: message, metadata: metadata), descriptor: method,
                serializer: RawMessages(), deserializer: RawMessages(), options: options
            ) { response in
                switch response.accepted {
                case .success(let contents):
                    let trailers = contents.trailingMetadata.passed
                    let outcome = contents.message.map { Answer.Contents(message: $0, trailers: trailers) }
                    return Answer(metadata: contents.metadata.passed, outcome: outcome.mapError(\.passed))
                case .failure(let error): return Answer(metadata: [:], outcome: .failure(named(error)))
                }
            }
        } catch let error as RPCError {
            return Answer(metadata: [:], outcome: .failure(named(error)))
        } catch {
            return Answer(
                metadata: [:],
                outcome: .failure(RPCError(code: .unavailable, message: "containerd cannot be asked: \(error)")))
        }
    }

    /// The status that containerd gave; if it gave none (such an error has no metadata), one that says that it was not reached.
    private func named(_ error: RPCError) -> RPCError {
        guard error.code == .unavailable, error.metadata.isEmpty else { return error.passed }
        return RPCError(code: .unavailable, message: "containerd does not answer at \(path): \(error.message)")
    }
}

/// Messages as plain bytes.
struct RawMessages: MessageSerializer, MessageDeserializer {
    func serialize<Bytes: GRPCContiguousBytes>(_ message: [UInt8]) throws -> Bytes { Bytes(message) }

    func deserialize<Bytes: GRPCContiguousBytes>(_ serializedMessageBytes: Bytes) throws -> [UInt8] {
        serializedMessageBytes.withUnsafeBytes { Array($0) }
    }
}

extension Metadata {
    /// The metadata of caller and callee, without what belongs to one connection. `grpc-timeout` is passed on, so that the
    /// callee knows how long the caller waits.
    ///
    /// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
    var passed: Metadata {
        Metadata(filter { !$0.key.hasPrefix(":") && !Self.ofConnection.contains($0.key.lowercased()) })
    }

    private static let ofConnection: Set = [
        "content-type", "content-length", "te", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message",
    ]
}

extension RPCError {
    /// The same without the metadata of the connection.
    fileprivate var passed: RPCError {
        var error = self
        error.metadata = metadata.passed
        return error
    }
}
