/// Why a content could not be made whole, or an image could not be pulled.
public struct MergeError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// The bytes of a chunk do not have the digest that the TOC gives, twice in a row.
        case digestMismatch
        /// The whole file does not have the digest that the TOC gives: the layer lied.
        case disproven
        /// The source did not give the bytes.
        case fetch
        /// The member does not decompress.
        case corrupt
        /// The backing file could not be written.
        case write
        /// The layer's format is one that lamina cannot read.
        case unsupportedLayer
        /// The layer, its TOC or its configuration contradicts the manifest.
        case badImage
        /// All of a layer came, and its blob or its tar has another digest than the image says.
        case wrongDigest
        /// The merge was stopped before it was done.
        case interrupted
        /// The index could not be read or written.
        case index
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    /// Whether the error concerns the bytes of one content only, and others can still be fetched.
    var concernsOneContent: Bool {
        switch code {
        case .digestMismatch, .disproven, .corrupt: true
        case .fetch, .write, .unsupportedLayer, .badImage, .wrongDigest, .interrupted, .index: false
        }
    }

    /// Whether it is the place's fault that bytes were asked of: another one may have them.
    var isOfSource: Bool {
        switch code {
        case .fetch, .digestMismatch, .corrupt, .badImage, .wrongDigest: true
        case .disproven, .write, .unsupportedLayer, .interrupted, .index: false
        }
    }

    /// Whether the image or a source of it is wrong: what was read of it is of no use, and another source may be right.
    var isOfImage: Bool { code == .badImage || code == .wrongDigest }

    public var description: String { cause.map { "\(message): \($0)" } ?? message }
}
