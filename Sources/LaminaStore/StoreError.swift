/// What can go wrong with a store: a code to act on, and a sentence that names the object.
public struct StoreError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// Another process writes to the store.
        case locked(holder: String)
        /// The index is newer than this program, or not an index of lamina.
        case incompatible
        /// There is no store at this path.
        case missing
        /// The store is another user's, or another user could change what it is.
        case foreign
        /// The index is damaged.
        case damaged
        /// The named image, layer or mount is not in the store.
        case notFound
        /// The call contradicts what the store holds.
        case conflict
        /// A file-system call failed; the cause says which.
        case system(Int32)
        /// SQLite reported an error.
        case database
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        cause.map { "\(message): \($0)" } ?? message
    }
}
