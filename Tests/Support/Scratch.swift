import Glibc
import LaminaSystem

/// A directory of its own for one test, gone with the last reference.
public final class Scratch: Sendable {
    public let path: String

    /// - Parameter base: where it is made; `/dev/shm` where what is tested is not how long a disk takes for fsync.
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
