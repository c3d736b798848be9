import CLinux
import Glibc
import Synchronization

extension Mount {
    /// mount(2) with a working directory of its own, which relative paths in `data` start at.
    ///
    /// The options of a mount have one page, and overlayfs takes its directories relative to the working directory: numbers
    /// instead of whole paths let a hundred layers fit. On a thread of its own, whose working directory is unshared, so
    /// that nobody else's changes.
    ///
    /// - Parameter base: the working directory. `directory` must be absolute.
    public static func mount(
        type: String, source: String, at directory: String, flags: Flags = [], data: String, relativeTo base: String
    ) throws(SystemError) {
        let box = Failure()
        let thread = try Thread("mount") {
            guard lamina_enter_directory(base) == 0 else { return box.set(SystemError.last("enter", base)) }
            do throws(SystemError) {
                try mount(type: type, source: source, at: directory, flags: flags, data: data)
            } catch {
                box.set(error)
            }
        }
        thread.join()
        if let error = box.value.withLock({ $0 }) { throw error }
    }

    private final class Failure: Sendable {
        let value = Mutex<SystemError?>(nil)
        func set(_ error: SystemError) { value.withLock { $0 = error } }
    }
}
