/// A conversion that failed: what could not be done with which source, and why.
///
/// What the rooms beneath say (`FormatError` of an entry, `OCIError` of a blob, `SystemError` of a file) is the cause.
public struct ConvertError: Error, Sendable, CustomStringConvertible {
    /// The kind of failure: what a caller decides by.
    public enum Code: String, Sendable, Hashable {
        /// The text names no source or destination.
        case badReference
        /// The source is not what it should be: damaged, hostile, or not what its digest says.
        case badSource
        /// A prioritized file is not in the image.
        case noSuchFile
        /// A file changed or vanished while it was read.
        case changed
        /// A file, the network or the disk failed.
        case io
        /// The caller asked to stop.
        case interrupted
    }

    public var code: Code
    /// A sentence without a full stop that names source and entry.
    public var message: String
    /// The error beneath, where there is one.
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        guard let cause else { return message }
        return "\(message): \(cause)"
    }
}
