import GRPCCore
import GRPCNIOTransportHTTP2Posix
import LaminaSnapshotter
import LaminaSystem
import SwiftProtobuf

/// Asks containerd what its manifests say of a layer: see ``ManifestTestimony``.
public struct ManifestWitness: Sendable {
    /// Why the labels are not believed.
    public struct Doubt: Error, CustomStringConvertible {
        public var description: String
    }

    /// A manifest of containerd's content.
    private struct Listed: Hashable, Sendable {
        var manifest: String
        /// What containerd takes for its configurations.
        var configurations: [String]
    }

    private struct Known {
        var testimonies: [Listed: ManifestTestimony] = [:]
        var byteCount = 0
    }

    /// containerd/images/image.go, ChildGCLabels: a manifest's configuration is on record with its blob, as containerd has read it. (Its
    /// layers are not if CRI is to discard them.) With a number behind it, more of them.
    private static let label = "containerd.io/gc.ref.content.config"
    /// What a manifest or a configuration may have, in bytes.
    private static let documentLimit = 4 << 20
    /// How much is remembered: a manifest never changes.
    private static let memoryLimit = 32 << 20
    private static let patience = 10.0

    private let socket: String
    private let known = Monitor(Known())

    public init(socket: String) { self.socket = socket }

    /// Blocks until containerd has answered.
    ///
    /// - Parameter chain: the layer's chain ID.
    /// - Throws: `Doubt`.
    public func vouch(for chain: String, in namespace: String) throws {
        let outcome = Monitor<Result<Void, any Error>?>(nil)
        let task = Task {
            do {
                try await ask(chain, namespace)
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

    private func ask(_ chain: String, _ namespace: String) async throws {
        let transport = try HTTP2ClientTransport.Posix(
            target: .unixDomainSocket(path: socket, authority: "localhost"), transportSecurity: .plaintext)
        try await withGRPCClient(transport: transport) { client in
            let calls = ContainerdCalls(client: client)
            let listed: [Listed] = try await calls.list(
                "containerd.services.content.v1.Content/List",
                Lamina_Containerd_ListRequest.with { $0.filters = ["labels.\"\(Self.label)\""] }, in: namespace
            ) { (page: Lamina_Containerd_ListContentResponse) in
                page.info.map { blob in
                    let configurations = blob.labels.filter { $0.key.hasPrefix(Self.label) }.map(\.value)
                    return Listed(manifest: blob.digest, configurations: configurations.sorted())
                }
            }
            var manifests: [(name: String, says: ManifestTestimony)] = []
            for one in listed {
                if let says = try await testimony(of: one, calls, namespace) { manifests.append((one.manifest, says)) }
            }
            if let doubt = ManifestTestimony.doubt(about: chain, manifests) { throw Doubt(description: doubt) }
        }
    }

    /// nil for a manifest that went meanwhile, or whose configuration has not come: then none of its layers is asked for.
    private func testimony(
        of listed: Listed, _ calls: ContainerdCalls, _ namespace: String
    ) async throws -> ManifestTestimony? {
        if let says = known.withLock({ $0.testimonies[listed] }) { return says }
        func document(_ digest: String) async throws -> [UInt8]? {
            try await calls.blob(digest, in: namespace, limit: Self.documentLimit)
        }
        do {
            let manifest = try await document(listed.manifest)
            var configurations: [[UInt8]?] = []
            for digest in listed.configurations { configurations.append(try await document(digest)) }
            let says = ManifestTestimony(manifest: manifest, configurations: configurations)
            known.withLock { known in
                // Some of the others go: one large document must not have all of them read again.
                while known.byteCount + says.byteCount > Self.memoryLimit, let other = known.testimonies.popFirst() {
                    known.byteCount -= other.value.byteCount
                }
                if known.testimonies.updateValue(says, forKey: listed) == nil { known.byteCount += says.byteCount }
            }
            return says
        } catch let error as RPCError where error.code == .notFound {
            return nil
        }
    }
}

extension ContainerdCalls {
    /// Reads a blob of containerd's: ReadContentRequest has the digest as its field 1, each ReadContentResponse a piece as its field 2.
    ///
    /// - Returns: nil if it has more bytes than `limit`.
    func blob(_ digest: String, in namespace: String, limit: Int) async throws -> [UInt8]? {
        let name = Array(digest.utf8)
        // Shorter than 128 bytes, as a length of one byte says it.
        let request = [0x0a, UInt8(truncatingIfNeeded: name.count)] + name
        return try await client.serverStreaming(
            request: ClientRequest(message: request, metadata: ["containerd-namespace": .string(namespace)]),
            descriptor: MethodDescriptor(
                fullyQualifiedService: "containerd.services.content.v1.Content", method: "Read"),
            serializer: RawMessages(), deserializer: RawMessages(), options: .defaults
        ) { response -> [UInt8]? in
            var bytes: [UInt8] = []
            for try await message in response.messages {
                bytes += try Self.data(of: message)
                if bytes.count > limit { return nil }
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
