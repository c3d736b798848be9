import GRPCCore
import GRPCNIOTransportHTTP2Posix
import GRPCProtobuf
import SwiftProtobuf

/// Calls of containerd's services by their names, `SERVICE/METHOD`.
struct ContainerdCalls: Sendable {
    let client: GRPCClient<HTTP2ClientTransport.Posix>

    /// A call that takes longer will not be answered; each message is a page of a list.
    private static var options: CallOptions {
        var options = CallOptions.defaults
        options.timeout = .seconds(60)
        options.maxResponseMessageBytes = 16 << 20
        return options
    }

    /// Asks for one answer.
    func ask<Request: Message, Response: Message>(
        _ method: String, _ request: Request, in namespace: String? = nil
    ) async throws -> Response {
        try await client.unary(
            request: ClientRequest(message: request, metadata: Self.metadata(namespace)),
            descriptor: Self.descriptor(method), serializer: ProtobufSerializer<Request>(),
            deserializer: ProtobufDeserializer<Response>(), options: Self.options
        ) { try $0.message }
    }

    /// Asks for a list, of which each answer is a part.
    func list<Request: Message, Response: Message, Element: Sendable>(
        _ method: String, _ request: Request, in namespace: String,
        _ elements: @escaping @Sendable (Response) throws -> [Element]
    ) async throws -> [Element] {
        try await client.serverStreaming(
            request: ClientRequest(message: request, metadata: Self.metadata(namespace)),
            descriptor: Self.descriptor(method), serializer: ProtobufSerializer<Request>(),
            deserializer: ProtobufDeserializer<Response>(), options: Self.options
        ) { response in
            var all: [Element] = []
            for try await page in response.messages { all += try elements(page) }
            return all
        }
    }

    private static func metadata(_ namespace: String?) -> Metadata {
        namespace.map { ["containerd-namespace": .string($0)] } ?? [:]
    }

    private static func descriptor(_ method: String) -> MethodDescriptor {
        let parts = method.split(separator: "/", maxSplits: 1)
        return MethodDescriptor(
            fullyQualifiedService: String(parts.first ?? ""), method: String(parts.last ?? ""))
    }
}
