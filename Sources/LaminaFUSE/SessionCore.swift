import CFuse
import LaminaSystem
import Synchronization

/// What replies, threads and backing IDs share: libfuse's session and the handler. It lives until the last of them is gone.
final class SessionCore: Sendable {
    // Libfuse's session locks itself; it is freed in deinit, when there is no reference to this object any more.
    nonisolated(unsafe) let fuse: OpaquePointer
    let link: SessionLink
    let configuration: FUSEConfiguration
    let handler: any FUSEHandler
    let interrupts = InterruptRegistry()
    let droppedReplies = Atomic<UInt64>(0)

    init(device: File, configuration: FUSEConfiguration, handler: any FUSEHandler) throws(FUSEError) {
        var settings = lamina_fuse_settings(
            wants_passthrough: configuration.wantsPassthrough, busy_wait: configuration.busyWait,
            max_background: configuration.backgroundRequestLimit,
            max_readahead: UInt32(clamping: configuration.readAhead))
        var callbacks = lamina_fuse_callbacks.dispatching
        guard let fuse = lamina_fuse_new(device.descriptor, &settings, &callbacks) else {
            throw FUSEError(
                .outOfResources, "no FUSE session could be made",
                cause: .last("set up libfuse on", device.path))
        }
        self.fuse = fuse
        link = SessionLink(fuse)
        self.configuration = configuration
        self.handler = handler
    }

    deinit {
        link.cut()
        lamina_fuse_free(fuse)
    }
}

/// The way to libfuse's session for objects that may outlive it.
///
/// There is no weak reference to the `SessionCore`: an object that ever had one counts its references in a separate table, and
/// each request counts two.
final class SessionLink: @unchecked Sendable {
    // @unchecked: the pointer is used with the lock held only, and libfuse's session locks itself.
    private var fuse: OpaquePointer?
    private let lock = Mutex<Void>(())

    init(_ fuse: OpaquePointer) { self.fuse = fuse }

    /// nil if the session is gone; it stays while `body` runs.
    func withSession<Result: Sendable>(_ body: (OpaquePointer) -> Result) -> Result? {
        lock.withLock { _ in fuse.map(body) }
    }

    /// The session is about to go.
    fileprivate func cut() { lock.withLock { _ in fuse = nil } }
}

/// What a thread of the session takes requests with.
final class Worker: @unchecked Sendable {
    // @unchecked: the thread that starts the session makes it and gives it to one other thread, which alone uses it from then
    // on.
    let core: SessionCore
    let thread: FUSEThread
    private var handle: OpaquePointer?

    init(core: SessionCore, index: Int) throws(FUSEError) {
        self.core = core
        thread = FUSEThread(index: index)
        handle = lamina_fuse_worker_new(core.fuse, Unmanaged.passUnretained(self).toOpaque())
        guard handle != nil else { throw FUSEError(.outOfResources, "no memory for a FUSE thread") }
    }

    deinit { if let handle { lamina_fuse_worker_free(handle) } }

    /// Takes over what another process began, and asks for what that left unanswered. Requests that come before the replay stay
    /// in the kernel, because no thread reads them yet.
    func replay(_ initRequest: [UInt8], _ mount: Mount) throws(FUSEError) {
        var result = lamina_fuse_replay(handle, initRequest, initRequest.count)
        if result == 0, lamina_fuse_can_resend(core.fuse) { result = lamina_fuse_resend(core.fuse) }
        guard result == 0 else {
            throw FUSEError(
                .handshakeFailed, "the connection of \(mount.directory) cannot be taken up",
                cause: SystemError(code: -result, operation: "replay INIT of", subject: mount.directory))
        }
    }

    /// Takes one request and has it answered or parked: above 0, 0 at the end of the connection, or -errno.
    func step() -> Int32 {
        let result = lamina_fuse_step(handle)
        while true {
            let token = lamina_fuse_take_interrupted()
            if token == 0 { return result }
            core.interrupts.deliver(token)
        }
    }
}
