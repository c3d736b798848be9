import CLinux
import Glibc

extension Mount {
    /// mount(2) with a working directory of its own, which relative paths in `data` start at.
    ///
    /// The options of a mount have one page, and overlayfs takes its directories relative to the working directory: numbers
    /// instead of whole paths let a hundred layers fit. By a process of its own: overlayfs looks its directories up, and a
    /// process that asks a mount which it answers for cannot be killed while it waits (see `Prober`).
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
