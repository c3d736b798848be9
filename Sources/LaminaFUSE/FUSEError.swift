public import LaminaSystem

/// Why a session could not start or ended.
public struct FUSEError: Error, Sendable, Equatable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// `/dev/fuse` cannot be opened: no kernel module, or no right to.
        case deviceUnavailable
        /// mount(2) failed, or the mount cannot be found.
        case mountFailed
        /// The kernel and libfuse could not agree on a protocol.
        case handshakeFailed
        /// The system refused a thread or its memory.
        case outOfResources
        /// The session was started before, or is over.
        case wrongState
        /// The loop ended for another reason than the end of the mount.
        case connectionFailed
        /// The mount could not be ended.
        case unmountFailed
    }

    public var code: Code
    /// What happened, with the directory.
    public var message: String
    public var cause: SystemError?

    public init(_ code: Code, _ message: String, cause: SystemError? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        guard let cause else { return message }
        return "\(message): \(cause)"
    }
}
