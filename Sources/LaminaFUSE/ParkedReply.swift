import CFuse
import Glibc
import Synchronization

/// A reply that waits for what it needs. The thread that has it takes the reply.
///
/// If the caller is interrupted first (a signal; SIGKILL always), the session answers EINTR and then calls `onInterrupt`, so
/// that the thread that would have answered learns that there is one waiter less. Only one of the two gets the reply.
///
/// `onInterrupt` is called on one of the session's threads, after the handler's method that parked has returned; if the reply
/// is parked on a thread that is not the session's, it may be called before `park` returns. Parked replies that are dropped
/// answer EIO.
///
/// The kernel interrupts what it can: opens, and reads with O_DIRECT. A cached read is read-ahead, which belongs to no process:
/// a reader that is killed leaves at once, without a message, and the request stays until it is answered.
public final class ParkedReply<Reply: ~Copyable & Sendable>: Sendable {
    private let reply: Mutex<Reply?>
    private let core: SessionCore
    private let token: UInt64
    private let onInterrupt: @Sendable () -> Void
    private let refuse: @Sendable (consuming Reply, Int32) -> Void

    init(
        _ reply: consuming Reply, core: SessionCore, onInterrupt: @escaping @Sendable () -> Void,
        refuse: @escaping @Sendable (consuming Reply, Int32) -> Void
    ) {
        self.reply = Mutex(reply)
        self.core = core
        self.onInterrupt = onInterrupt
        self.refuse = refuse
        token = core.interrupts.next()
    }

    deinit { core.interrupts.remove(token) }

    /// The reply, to be answered; nil if it was taken before, or answered because of an interrupt.
    public func take() -> Reply? {
        let taken = reply.withLock { reply in reply.take() }
        if taken != nil { core.interrupts.remove(token) }
        return taken
    }

    /// Whether it was taken, or answered because of an interrupt.
    public var isTaken: Bool { reply.withLock { reply in reply == nil } }

    /// Asks libfuse to report an interrupt. The token stands for this object, because libfuse may report it while, or after,
    /// another thread answers.
    func watch(_ request: OpaquePointer) {
        core.interrupts.insert(token) { [weak self] in self?.interrupt() }
        if lamina_fuse_watch_interrupt(request, token) { core.interrupts.deliver(token) }
    }

    private func interrupt() {
        guard let reply = take() else { return }
        refuse(reply, EINTR)
        onInterrupt()
    }
}

/// The parked replies by token, for interrupts.
final class InterruptRegistry: Sendable {
    private struct State {
        var last: UInt64 = 0
        var parked: [UInt64: @Sendable () -> Void] = [:]
    }

    private let state = Mutex(State())

    /// A token that was never used; not 0.
    func next() -> UInt64 {
        state.withLock { state in
            state.last += 1
            return state.last
        }
    }

    func insert(_ token: UInt64, _ interrupt: @escaping @Sendable () -> Void) {
        state.withLock { state in state.parked[token] = interrupt }
    }

    func remove(_ token: UInt64) {
        // Taken out under the lock and released outside it: the end of a closure may run code that comes back here.
        _ = state.withLock { state in state.parked.removeValue(forKey: token) }
    }

    /// Calls the waiter with this token, if it still waits.
    func deliver(_ token: UInt64) {
        state.withLock { state in state.parked.removeValue(forKey: token) }?()
    }
}
