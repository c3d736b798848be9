import LaminaDigest

/// A value and the path to it, for error messages: `layers[3].size`.
struct JSONField {
    /// The document's name for errors.
    let document: String
    let path: String
    let value: JSON

    init(parsing bytes: [UInt8], as document: String) throws(OCIError) {
        guard bytes.count <= ImageLimits.manifestByteCount else {
            throw OCIError(
                .badManifest,
                "\(document) has \(bytes.count) bytes; at most \(ImageLimits.manifestByteCount) are allowed")
        }
        do {
            self.init(document: document, path: "", value: try JSON.parse(bytes))
        } catch {
            throw OCIError(.badManifest, "\(document) is not valid JSON", cause: error)
        }
        guard case .object = value else { throw wrong("an object") }
    }

    private init(document: String, path: String, value: JSON) {
        self.document = document
        self.path = path
        self.value = value
    }

    /// The error for a value that should have been `expected`.
    func wrong(_ expected: String) -> OCIError {
        OCIError(
            .badManifest, path.isEmpty ? "\(document) is not \(expected)" : "\(document): \(path) is not \(expected)")
    }

    /// A member, unless it is missing or null.
    func optional(_ name: String) throws(OCIError) -> JSONField? {
        guard case .object = value else { throw wrong("an object") }
        guard let member = value[name], member != .null else { return nil }
        return JSONField(document: document, path: path.isEmpty ? name : "\(path).\(name)", value: member)
    }

    /// A member that must exist.
    func required(_ name: String) throws(OCIError) -> JSONField {
        guard let member = try optional(name) else {
            throw OCIError(.badManifest, "\(document): \(path.isEmpty ? name : "\(path).\(name)") is missing")
        }
        return member
    }

    func string() throws(OCIError) -> String {
        guard case .string(let text) = value else { throw wrong("a string") }
        return text
    }

    func integer() throws(OCIError) -> Int64 {
        guard case .number(let text) = value, let number = Int64(text) else { throw wrong("a whole number of 64 bits") }
        return number
    }

    func elements(atMost limit: Int) throws(OCIError) -> [JSONField] {
        guard case .array(let elements) = value else { throw wrong("an array") }
        guard elements.count <= limit else { throw wrong("within the limit of \(limit) elements") }
        return elements.enumerated().map { JSONField(document: document, path: "\(path)[\($0)]", value: $1) }
    }

    func strings(atMost limit: Int) throws(OCIError) -> [String: String] {
        guard case .object(let members) = value else { throw wrong("an object") }
        guard members.count <= limit else { throw wrong("within the limit of \(limit) members") }
        var map: [String: String] = [:]
        for member in members {
            // For Go, null and an empty string are the same, in writing and in reading.
            if member.value == .null { continue }
            guard case .string(let text) = member.value else {
                throw JSONField(document: document, path: "\(path).\(member.name)", value: member.value).wrong(
                    "a string")
            }
            map[member.name] = text
        }
        return map
    }

    func digest() throws(OCIError) -> Digest {
        let text = try string()
        if let digest = Digest(parsing: text) { return digest }
        if text.hasPrefix("sha512:") || text.hasPrefix("blake3:") {
            throw OCIError(
                .unsupported, "\(document): \(path) is '\(text.prefix(20))…': lamina reads sha256 digests only")
        }
        throw wrong("a sha256 digest")
    }
}

/// How much of an image's documents lamina holds in memory, whatever they claim.
public enum ImageLimits {
    /// For a manifest, index or config: 4 MiB, which is also the limit of registries.
    public static let manifestByteCount = 4 << 20
    /// How deep indexes may refer to indexes.
    public static let indexDepth = 3
    /// Layers of an image; overlayfs takes at most 500.
    public static let layerCount = 1_000
    /// Manifests in an index.
    public static let indexCount = 10_000
    /// Annotations of one descriptor or manifest.
    public static let annotationCount = 1_000
    /// URLs of one descriptor.
    public static let urlCount = 100
}
