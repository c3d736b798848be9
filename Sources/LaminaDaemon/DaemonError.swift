/// What went wrong between a command, its configuration and a server: a code to act on, and a sentence with the way out.
public struct DaemonError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// What the user typed cannot be done.
        case usage
        /// The configuration file is not to be read, or says something that lamina does not understand.
        case configuration
        /// It takes root, or a right that this user lacks.
        case permission
        /// No server listens.
        case noServer
        /// Somebody else holds the store.
        case busy
        /// The server ended or said something that is no answer.
        case serverFailed
        /// The user, or the end of the server, stopped it.
        case interrupted
        /// The thing named is not there.
        case notFound
        /// The server refused or failed; the number is the exit code that it gave.
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
