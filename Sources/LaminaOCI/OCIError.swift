/// What went wrong between a reference and its bytes: a code to act on, and a sentence that names the URL, file or digest.
public struct OCIError: Error, Sendable, CustomStringConvertible {
    /// The kinds of failure that a caller may want to distinguish.
    public enum Code: String, Sendable, Hashable, CaseIterable {
        /// What the user typed is not an image reference.
        case badReference
        /// There is no such tag, manifest, blob, repository or directory.
        case notFound
        /// The registry wants credentials, or refuses the ones it got.
        case unauthorized
        /// A file with the servers or the credentials of registries is wrong.
        case badConfiguration
        /// A manifest, index or config does not follow its specification.
        case badManifest
        /// A directory is not an OCI image layout, or it is damaged.
        case badLayout
        /// It is valid, but lamina does not handle it.
        case unsupported
        /// The image has nothing for the requested platform.
        case noPlatform
        /// The registry answered with a status or header that makes no sense here.
        case http
        /// The registry said "later" (429, 5xx) more often than lamina tries.
        case unavailable
        /// No connection, or a connection that broke more often than lamina tries.
        case network
        /// The server's certificate is not trusted, or only one side speaks TLS: that stays so until the configuration changes.
        case tls
        /// Nothing arrived during the time that lamina waits.
        case stalled
        /// Bytes came, but so slowly that another server was asked for the rest.
        case slow
        /// There are more or fewer bytes than the descriptor says.
        case sizeMismatch
        /// The bytes do not have the digest that names them.
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
    /// The error beneath, if there is one.
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    /// Whether the same call may succeed later although nothing changes here.
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
