/// A conversion that failed: what could not be done with which source, and why.
///
/// The error of the room beneath (`FormatError` for an entry, `OCIError` for a blob, `SystemError` for a file) is the cause.
public struct ConvertError: Error, Sendable, CustomStringConvertible {
    /// The kind of failure, on which a caller decides.
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
    /// The error beneath, if there is one.
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
