/// Why a chain cannot be written as an EROFS image.
public struct SealError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// The chain has something that an EROFS image cannot show unchanged: the chain stays on FUSE.
        case unsupported
        /// The rows contradict themselves.
        case damaged
    }

    public var code: Code
    /// A sentence without a full stop.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
