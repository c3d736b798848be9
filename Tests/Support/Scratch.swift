import Glibc
import LaminaSystem

/// A separate directory for one test, removed with the last reference.
public final class Scratch: Sendable {
    public let path: String

    /// - Parameter base: where it is made; `/dev/shm` if the speed of a disk's fsync is not tested.
    public init(in base: String? = nil) {
        do {
            path = try temporaryDirectory("test", in: base)
        } catch {
            preconditionFailure("no directory for a test: \(error)")
        }
    }

    deinit { removeTree(path) }

    /// Writes a file.
    ///
    /// - Returns: its path.
    @discardableResult
    public func write(_ bytes: [UInt8], to name: String) throws -> String {
        let file = "\(path)/\(name)"
        let handle = try File(file, O_WRONLY | O_CREAT | O_TRUNC)
        try bytes.withUnsafeBytes { try handle.write($0, at: 0) }
        return file
    }
}
