/// What went wrong between a command, its configuration and a server: a code to act on, and a sentence with the way out.
public struct DaemonError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// What the user typed cannot be done.
        case usage
        /// The configuration file cannot be read, or has something that lamina does not understand.
        case configuration
        /// It needs root, or a right that this user lacks.
        case permission
        /// No server listens.
        case noServer
        /// Another process holds the store.
        case busy
        /// The server ended, or sent something that is not an answer.
        case serverFailed
        /// The user, or the end of the server, stopped it.
        case interrupted
        /// The named thing does not exist.
        case notFound
        /// The server refused or failed; the number is its exit code.
        case remote(exitCode: Int32)
    }

    public var code: Code
    /// A sentence without a full stop.
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String { cause.map { "\(message): \($0)" } ?? message }
}
