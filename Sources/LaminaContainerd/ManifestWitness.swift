import GRPCCore
import GRPCNIOTransportHTTP2Posix
import LaminaOCI
import LaminaSystem
import SwiftProtobuf

/// Asks containerd what its manifests say of a layer.
///
/// containerd hands annotations of a layer's descriptor on to its snapshotter where they begin like its own labels, and nobody can tell
/// them from those of a client. So a label that names an image is believed when containerd has a manifest with the layer, and none
/// that says such a thing itself.
public struct ManifestWitness: Sendable {
    /// Why the labels are not believed.
    public struct Doubt: Error, CustomStringConvertible {
        public var description: String
    }

    /// The layers of an image by number, as containerd labels its manifest: more have no image.
    private static let layerLimit = 256
    /// What a manifest may have, in bytes.
    private static let manifestLimit = 4 << 20
    private static let patience = 10.0

    private let socket: String

    public init(socket: String) { self.socket = socket }

    /// Blocks until containerd has answered.
    ///
    /// - Throws: `Doubt`.
    public func vouch(for layer: String, in namespace: String, prefix: String) throws {
        let outcome = Monitor<Result<Void, any Error>?>(nil)
        let task = Task {
            do {
                try await ask(layer, namespace, prefix)
                outcome.withLock(notify: true) { $0 = .success(()) }
            } catch {
                outcome.withLock(notify: true) { $0 = .failure(error) }
            }
        }
        guard let result = outcome.wait(seconds: Self.patience, { $0 }) else {
            task.cancel()
            throw Doubt(description: "containerd does not answer at \(socket)")
        }
        do { try result.get() } catch let error as RPCError {
            throw Doubt(
                description:
                    "containerd at \(socket) cannot be asked whether the image says it itself ([snapshotter] containerd_address): "
                    + "\(error.code): \(error.message)")
        }
    }

    private func ask(_ layer: String, _ namespace: String, _ prefix: String) async throws {
        let transport = try HTTP2ClientTransport.Posix(
            target: .unixDomainSocket(path: socket, authority: "localhost"), transportSecurity: .plaintext)
        try await withGRPCClient(transport: transport) { client in
            let calls = ContainerdCalls(client: client)
            // containerd/images/image.go, ChildGCLabels: what a manifest refers to is on record with its blob.
            let filters = (0..<Self.layerLimit).map { "labels.\"containerd.io/gc.ref.content.l.\($0)\"==\"\(layer)\"" }
            let manifests: [String] = try await calls.list(
                "containerd.services.content.v1.Content/List",
                Lamina_Containerd_ListRequest.with { $0.filters = filters }, in: namespace
            ) { (page: Lamina_Containerd_ListContentResponse) in page.info.map(\.digest) }
            guard !manifests.isEmpty else { throw Doubt(description: "containerd has no manifest with the layer") }
            for text in manifests {
                let bytes = try await calls.blob(text, in: namespace, limit: Self.manifestLimit)
                guard case .manifest(let manifest)? = try? ImageDocument(parsing: bytes, mediaType: nil, name: text)
                else {
                    continue
                }
                let says = manifest.layers.contains { descriptor in
                    "\(descriptor.digest)" == layer && descriptor.annotations.keys.contains { $0.hasPrefix(prefix) }
                }
                if says {
                    throw Doubt(description: "the manifest \(text) has annotations \(prefix)*, which only clients set")
                }
            }
        }
    }
}

extension ContainerdCalls {
    /// Reads a blob of containerd's: ReadContentRequest has the digest as its field 1, each ReadContentResponse a piece as its field 2.
    func blob(_ digest: String, in namespace: String, limit: Int) async throws -> [UInt8] {
        let name = Array(digest.utf8)
        // Shorter than 128 bytes, as a length of one byte says it.
        let request = [0x0a, UInt8(truncatingIfNeeded: name.count)] + name
        return try await client.serverStreaming(
            request: ClientRequest(message: request, metadata: ["containerd-namespace": .string(namespace)]),
            descriptor: MethodDescriptor(
                fullyQualifiedService: "containerd.services.content.v1.Content", method: "Read"),
            serializer: RawMessages(), deserializer: RawMessages(), options: .defaults
        ) { response in
            var bytes: [UInt8] = []
            for try await message in response.messages {
                bytes += try Self.data(of: message)
                guard bytes.count <= limit else {
                    throw ManifestWitness.Doubt(
                        description: "\(digest) is no manifest: it has more than \(limit) bytes")
                }
            }
            return bytes
        }
    }

    /// The field 2 of a message, which is of bytes.
    private static func data(of message: [UInt8]) throws -> ArraySlice<UInt8> {
        var rest = message[...]
        func varint() throws -> UInt64 {
            var (value, shift): (UInt64, UInt64) = (0, 0)
            while let byte = rest.popFirst() {
                value |= UInt64(byte & 0x7f) << shift
                if byte < 0x80 { return value }
                shift += 7
                if shift > 63 { break }
            }
            throw ManifestWitness.Doubt(description: "containerd's answer cannot be read")
        }
        var data = message[..<0]
        while !rest.isEmpty {
            let key = try varint()
            switch key & 7 {
            case 0: _ = try varint()
            case 2:
                let count = try varint()
                guard count <= UInt64(rest.count) else {
                    throw ManifestWitness.Doubt(description: "containerd's answer cannot be read")
                }
                let field = rest.prefix(Int(count))
                rest = rest.dropFirst(Int(count))
                if key >> 3 == 2 { data = field }
            default: throw ManifestWitness.Doubt(description: "containerd's answer cannot be read")
            }
        }
        return data
    }
}
