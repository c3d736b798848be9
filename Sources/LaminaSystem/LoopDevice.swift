import CLinux
import Glibc

/// A block device whose blocks are those of a file, read-only. It ends when it is neither open nor mounted any more.
public struct LoopDevice: ~Copyable, Sendable {
    /// `/dev/loop0`.
    public let path: String
    private let descriptor: Int32

    /// - Throws: ENOENT and EPERM if this process may have none, as in many containers.
    public init(of file: File) throws(SystemError) {
        var buffer = [CChar](repeating: 0, count: 64)
        descriptor = lamina_attach_loop(file.descriptor, &buffer, buffer.count)
        path = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        guard descriptor >= 0 else { throw SystemError.last("make a loop device of", "a file") }
    }

    deinit { close(descriptor) }
}
