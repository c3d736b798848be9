public import LaminaOCI

/// What an eStargz image is made from.
public enum ConversionSource: Sendable, Equatable, CustomStringConvertible {
    /// An image of a registry or an OCI layout; each of its layers is converted.
    case image(ImageReference)
    /// A tar file, plain, gzip or zstd, as the one layer; it may be a pipe.
    case tar(path: String)
    /// A directory tree as the one layer.
    case directory(path: String)

    static let standardInput = "/dev/stdin"

    /// Reads `oci:DIR[:TAG]`, `tar:FILE` (`tar:-` is standard input), `dir:PATH` or a registry's reference.
    ///
    /// - Throws: `ConvertError` `badReference`.
    public init(parsing text: String) throws(ConvertError) {
        func path(_ prefix: String) throws(ConvertError) -> String? {
            guard text.hasPrefix(prefix) else { return nil }
            let path = String(text.dropFirst(prefix.count))
            guard !path.isEmpty, !path.utf8.contains(0) else {
                throw ConvertError(.badReference, "'\(text.prefix(200))' names no file")
            }
            return path
        }
        if let path = try path("tar:") {
            self = .tar(path: path == "-" ? Self.standardInput : path)
        } else if let path = try path("dir:") {
            self = .directory(path: path)
        } else {
            do {
                self = .image(try ImageReference(parsing: text))
            } catch {
                throw ConvertError(.badReference, "'\(text.prefix(200))' cannot be converted", cause: error)
            }
        }
    }

    public var description: String {
        switch self {
        case .image(let reference): reference.description
        case .tar(let path): "tar:" + path
        case .directory(let path): "dir:" + path
        }
    }
}

/// Where the converted image goes: a layout directory, made if it is missing, and a tag in it.
public struct ConversionDestination: Sendable, Equatable, CustomStringConvertible {
    public let directory: String
    public let tag: String

    /// Reads `oci:DIR:TAG`.
    ///
    /// - Throws: `ConvertError` `badReference`.
    public init(parsing text: String) throws(ConvertError) {
        let reference: ImageReference
        do {
            reference = try ImageReference(parsing: text)
        } catch {
            throw ConvertError(.badReference, "'\(text.prefix(200))' is no destination", cause: error)
        }
        guard case .layout(let directory) = reference.place, let tag = reference.tag, reference.digest == nil else {
            throw ConvertError(
                .badReference, "'\(text.prefix(200))' is no destination: images are written to oci:DIR:TAG")
        }
        self.directory = directory
        self.tag = tag
    }

    public var description: String { "oci:\(directory):\(tag)" }
}
