import CLinux
import Glibc

/// A separate thread for work that blocks, which must never run on Swift's cooperative pool.
public final class Thread: Sendable {
    /// The name for errors of `init`.
    static let startOperation = "start thread"

    private let handle: pthread_t

    // The box goes from the creating to the created thread exactly once.
    private final class Start: Sendable {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    /// Starts a thread.
    ///
    /// - Parameters:
    ///   - name: at most 15 bytes are kept by the kernel; shown by `ps -L` and `top -H`.
    ///   - body: the work; the thread ends when it returns.
    public init(_ name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
        let start = Unmanaged.passRetained(Start(name: String(name.prefix(15)), body: body))
        var created = pthread_t()
        let error = pthread_create(
            &created, nil,
            { argument in
                guard let argument else { return nil }
                let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                lamina_set_thread_name(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        guard error == 0 else {
            start.release()
            throw SystemError(code: error, operation: Self.startOperation, subject: name)
        }
        handle = created
    }

    /// Lets the calling thread use only the processor time that all others leave: nice 19, for the thread and not for the
    /// process.
    public static func yieldToOthers() { setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 19) }

    /// Waits until the thread has ended. Call it once, and never from the thread itself.
    public func join() { pthread_join(handle, nil) }
}
