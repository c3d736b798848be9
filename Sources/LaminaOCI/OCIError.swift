/// What went wrong between a reference and its bytes: a code to act on, and a sentence that names the URL, file or digest.
public struct OCIError: Error, Sendable, CustomStringConvertible {
    /// The kinds of failure that a caller may want to tell apart.
    public enum Code: String, Sendable, Hashable, CaseIterable {
        /// What the user typed is no image reference.
        case badReference
        /// There is no such tag, manifest, blob, repository or directory.
        case notFound
        /// The registry wants credentials, or refuses the ones it got.
        case unauthorized
        /// A file that says how registries are reached, or with which credentials, is not what it should be.
        case badConfiguration
        /// A manifest, index or config is not what its specification says.
        case badManifest
        /// A directory is no OCI image layout, or a damaged one.
        case badLayout
        /// It is right, but lamina does not handle it.
        case unsupported
        /// The image has nothing for the platform that was asked for.
        case noPlatform
        /// The registry answered with a status or header that makes no sense here.
        case http
        /// The registry said "later" (429, 5xx) more often than lamina tries.
        case unavailable
        /// No connection, or a connection that broke more often than lamina tries.
        case network
        /// The server's certificate is not trusted, or only one side speaks TLS: until somebody says otherwise, that stays so.
        case tls
        /// Nothing arrived for as long as lamina waits.
        case stalled
        /// Bytes came, but so few that another server was asked for the rest.
        case slow
        /// There are more or fewer bytes than the descriptor says.
        case sizeMismatch
        /// The bytes are not those that the digest names.
        case digestMismatch
        /// The caller asked to stop.
        case interrupted
        /// The local file system failed.
        case io
    }

    /// The kind of failure.
    public var code: Code
    /// A sentence without a full stop that names the URL, file or digest.
    public var message: String
    /// The error beneath, where there is one.
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    /// Whether the same call may succeed later although nothing is changed here.
    public var isTransient: Bool {
        switch code {
        case .unavailable, .network, .stalled, .slow: true
        default: false
        }
    }

    public var description: String {
        guard let cause else { return message }
        return "\(message): \(cause)"
    }
}
