public import LaminaDigest

/// The name of an image: a registry's, as docker and containerd read it, or `oci:DIR[:TAG]` for an OCI layout directory.
public struct ImageReference: Hashable, Sendable, CustomStringConvertible {
    /// Where the image's repository is.
    public enum Place: Hashable, Sendable {
        /// The absolute path of an OCI image layout.
        case layout(directory: String)
        /// A repository of a registry; `host` may end in a port.
        case registry(host: String, repository: String)
    }

    public let place: Place
    /// In a layout: the value of `org.opencontainers.image.ref.name`.
    public let tag: String?
    /// The manifest itself; it takes precedence over `tag` if both are given.
    public let digest: Digest?

    init(place: Place, tag: String?, digest: Digest?) {
        self.place = place
        self.tag = tag
        self.digest = digest
    }

    /// Names an image in a layout directory; relative paths start at the working directory.
    ///
    /// - Throws: `badReference` for an empty path or one with a NUL, and for a tag that cannot be an annotation's value.
    public init(layout directory: String, tag: String? = nil, digest: Digest? = nil) throws(OCIError) {
        guard !directory.isEmpty, !directory.utf8.contains(0) else {
            throw OCIError(.badReference, "an OCI layout needs a directory: oci:DIR or oci:DIR:TAG")
        }
        if let tag, !Self.isLayoutTag(tag) {
            throw OCIError(
                .badReference, "'\(tag.prefix(200))' is no tag: 1 to 255 printable ASCII characters without spaces")
        }
        self.init(place: .layout(directory: absolutePath(directory)), tag: tag, digest: digest)
    }

    /// What to ask the image's source for.
    public var target: ManifestTarget {
        if let digest { return .digest(digest) }
        if let tag { return .tag(tag) }
        return .only
    }

    /// The same repository, another manifest.
    public func with(digest: Digest) -> ImageReference { ImageReference(place: place, tag: tag, digest: digest) }

    /// The canonical form, which the index stores and which parses to the same reference: `oci:/dir:tag`,
    /// `docker.io/library/debian:latest`, `127.0.0.1:5000/a/b:tag@sha256:…`.
    public var description: String {
        var text =
            switch place {
            case .layout(let directory): "oci:" + directory
            case .registry(let host, let repository): "\(host)/\(repository)"
            }
        if let tag { text += ":" + tag }
        if let digest { text += "@\(digest)" }
        return text
    }

    /// Whether a registry is this machine, so that HTTP without TLS is no risk: 127.0.0.0/8, `localhost`, `[::1]`.
    public static func isLoopback(host: String) -> Bool {
        var name = host[...]
        if name.hasPrefix("[") {
            guard let end = name.firstIndex(of: "]") else { return false }
            return name[name.index(after: name.startIndex)..<end] == "::1"
        }
        if let colon = name.lastIndex(of: ":") { name = name[..<colon] }
        if name == "localhost" { return true }
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
    }

    // https://github.com/opencontainers/image-spec/blob/main/annotations.md gives a grammar for reference names, but writers
    // use more (`docker.io/library/debian:12`). So the only condition is that the name can be typed and printed.
    static func isLayoutTag(_ tag: String) -> Bool {
        (1...255).contains(tag.utf8.count) && tag.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F }
    }
}
