public import LaminaDigest
public import LaminaOCI
import LaminaSystem

extension RegistryFixture {
    /// Pushes an image of an OCI layout directory, with everything below its manifest or index.
    ///
    /// - Parameters:
    ///   - source: the tag in the layout; by default its only manifest.
    ///   - name: the repository.
    /// - Returns: the digest of the manifest or index.
    @discardableResult
    public func push(layout: String, sourceTag: String? = nil, name: String, tag: String) throws -> Digest {
        let source = OCILayoutSource(directory: layout)
        let root = try source.manifest(sourceTag.map { .tag($0) } ?? .only, shouldStop: { false })
        try pushParts(of: root, from: source, name: name)
        try pushManifest(root, name: name, reference: tag)
        return root.digest
    }

    /// Pushes one blob.
    public func pushBlob(_ bytes: [UInt8], name: String) throws -> Digest {
        let digest = SHA256.hash(bytes)
        try upload(digest, size: Int64(bytes.count), name: name) { send in bytes.withUnsafeBytes { _ = send($0) } }
        return digest
    }

    /// Pushes a manifest by its bytes.
    public func pushManifest(_ manifest: ManifestBytes, name: String, reference: String) throws {
        let (status, text) = try request(
            "PUT", "/v2/\(name)/manifests/\(reference)", ["Content-Type": manifest.mediaType],
            size: Int64(manifest.bytes.count)
        ) { send in manifest.bytes.withUnsafeBytes { _ = send($0) } }
        guard status.status == 201 else {
            throw Unavailable(description: "the registry refuses \(name):\(reference): \(text)")
        }
    }

    private func pushParts(of document: ManifestBytes, from source: OCILayoutSource, name: String) throws {
        switch try ImageDocument(parsing: document.bytes, mediaType: document.mediaType, name: "\(document.digest)") {
        case .index(let index):
            for descriptor in index.manifests {
                let part = try source.manifest(.digest(descriptor.digest), shouldStop: { false })
                try pushParts(of: part, from: source, name: name)
                try pushManifest(part, name: name, reference: "\(part.digest)")
            }
        case .manifest(let manifest):
            for descriptor in [manifest.config] + manifest.layers {
                try upload(descriptor.digest, size: descriptor.size, name: name) { send in
                    try source.read(
                        descriptor.digest, size: descriptor.size, range: 0..<descriptor.size, shouldStop: { false }
                    ) { _ = send($0) }
                }
            }
        }
    }

    private func upload(
        _ digest: Digest, size: Int64, name: String, body: ((UnsafeRawBufferPointer) -> Bool) throws -> Void
    ) throws {
        if try request("HEAD", "/v2/\(name)/blobs/\(digest)").0.status == 200 { return }
        let (begun, text) = try request("POST", "/v2/\(name)/blobs/uploads/")
        guard begun.status == 202, let location = begun["Location"] else {
            throw Unavailable(description: "the registry begins no upload: \(text)")
        }
        let target = location + (location.contains("?") ? "&" : "?") + "digest=\(digest)"
        let (done, problem) = try request(
            "PUT", target, ["Content-Type": "application/octet-stream"], size: size, body: body)
        guard done.status == 201 else { throw Unavailable(description: "the registry refuses \(digest): \(problem)") }
    }

    /// One request on its own connection.
    private func request(
        _ method: String, _ target: String, _ fields: [String: String] = [:], size: Int64 = 0,
        body: ((UnsafeRawBufferPointer) -> Bool) throws -> Void = { _ in }
    ) throws -> (MessageHead, String) {
        let socket = try LoopbackSocket.connected(to: port)
        var head = "\(method) \(target) HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\nContent-Length: \(size)\r\n"
        for field in fields { head += "\(field.key): \(field.value)\r\n" }
        _ = socket.send(head + "\r\n")
        try body { socket.send($0) }
        guard let response = socket.receiveHead() else {
            throw Unavailable(description: "the registry does not answer \(method) \(target)")
        }
        var text: [UInt8] = []
        while true {
            let more = socket.receive(atMost: 1 << 16)
            if more.isEmpty { return (response, String(decoding: text, as: UTF8.self)) }
            text += more
        }
    }
}
