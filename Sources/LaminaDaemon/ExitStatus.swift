import Glibc
import LaminaConvert
import LaminaFUSE
import LaminaFormats
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem

/// The exit codes of `lamina`: an interface, because scripts depend on them. Above 63 they are those of sysexits.h.
public enum ExitStatus: Int32, Sendable, CaseIterable {
    case success = 0
    /// It failed, for a reason that the message gives.
    case failure = 1
    /// Something in the store is damaged.
    case damaged = 2
    /// The command line is wrong.
    case usage = 64
    /// There is no server, and the command needs one.
    case noServer = 69
    /// The same command may succeed later: the store is in use, or the network or the registry is not there.
    case tryAgain = 75
    /// A right is missing.
    case permission = 77
    /// The configuration is wrong, or the store belongs to a newer lamina.
    case configuration = 78
    /// Stopped by SIGINT or SIGTERM.
    case interrupted = 130

    /// Only this code maps errors to exit codes.
    public static func code(of error: any Error) -> Int32 {
        switch error {
        case let error as DaemonError: code(of: error)
        case let error as StoreError: status(of: error).rawValue
        case let error as OCIError: status(of: error).rawValue
        case let error as MergeError: status(of: error).rawValue
        case let error as ConvertError: status(of: error).rawValue
        case let error as SystemError: status(ofErrno: error.code).rawValue
        case let error as FUSEError: error.cause.map { status(ofErrno: $0.code).rawValue } ?? failure.rawValue
        default: failure.rawValue
        }
    }

    private static func code(of error: DaemonError) -> Int32 {
        switch error.code {
        case .usage: usage.rawValue
        case .configuration: configuration.rawValue
        case .permission: permission.rawValue
        case .noServer: noServer.rawValue
        case .busy: tryAgain.rawValue
        case .serverFailed, .notFound: failure.rawValue
        case .interrupted: interrupted.rawValue
        case .remote(let exitCode): exitCode
        }
    }

    private static func status(of error: StoreError) -> ExitStatus {
        switch error.code {
        case .locked: tryAgain
        case .incompatible: configuration
        case .damaged: damaged
        case .foreign: permission
        case .system(let number): status(ofErrno: number)
        case .missing, .notFound, .conflict, .database: failure
        }
    }

    private static func status(of error: OCIError) -> ExitStatus {
        switch error.code {
        case .badReference: usage
        case .unauthorized: permission
        case .badConfiguration, .tls: configuration
        case .unavailable, .network, .stalled, .slow: tryAgain
        case .interrupted: interrupted
        case .notFound, .badManifest, .badLayout, .unsupported, .noPlatform, .http, .sizeMismatch, .digestMismatch, .io:
            failure
        }
    }

    private static func status(of error: MergeError) -> ExitStatus {
        switch error.code {
        case .interrupted: interrupted
        // The registry's error is general; its cause is more exact.
        default: error.cause.flatMap { ExitStatus(rawValue: code(of: $0)) } ?? failure
        }
    }

    private static func status(of error: ConvertError) -> ExitStatus {
        switch error.code {
        case .interrupted: interrupted
        // A text that is not a reference; a reference that leads nowhere has a cause.
        case .badReference: error.cause.flatMap { ExitStatus(rawValue: code(of: $0)) } ?? usage
        case .badSource, .noSuchFile, .changed, .io:
            error.cause.flatMap { ExitStatus(rawValue: code(of: $0)) } ?? failure
        }
    }

    private static func status(ofErrno number: Int32) -> ExitStatus {
        switch number {
        case EPERM, EACCES: permission
        // A call that a signal interrupted is not Ctrl-C.
        case EINTR: Interrupts.requested ? interrupted : tryAgain
        default: failure
        }
    }
}
