import CLinux
import Glibc

extension Mount {
    /// mount(2) with its own working directory, where relative paths in `data` start.
    ///
    /// The options of a mount have one page, and overlayfs takes its directories relative to the working directory: with
    /// numbers instead of whole paths a hundred layers fit. It is done by a separate process: overlayfs looks up its
    /// directories, and a process that waits for a mount that it answers for cannot be killed (see `Prober`).
    ///
    /// - Parameter base: the working directory. `directory` must be absolute.
    public static func mount(
        type: String, source: String, at directory: String, flags: Flags = [], data: String, relativeTo base: String
    ) throws(SystemError) {
        guard lamina_mount_apart(base, source, directory, type, flags.rawValue, data) == 0 else {
            throw SystemError.last("mount \(type) at", directory)
        }
    }
}
