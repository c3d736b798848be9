import CFuse
import Glibc
public import LaminaSystem

/// One connection to the kernel: takes requests off `/dev/fuse` on plain threads and gives them to a handler.
///
/// `start` makes the mount, or takes one that another process has made, and returns when the session answers. The session runs
/// until the mount ends, by `stop` or from outside. Dropping the session object ends nothing: its threads go on.
///
/// All methods block, for a system call at most or as their comments say. None may be called from a handler, except those that
/// say so. Nothing here uses Swift's cooperative pool.
public final class FUSESession: Sendable {
    enum Phase: Sendable { case created, starting, running, ended }

    struct State: Sendable {
        var phase = Phase.created
        var running = 0
        var threads: [Thread] = []
        var mount: Mount?
        var failure: FUSEError?
        var readAheadFailure: SystemError?
    }

    /// The open `/dev/fuse`. Another process that holds it keeps the mount alive when this process ends.
    public let device: File
    public let configuration: FUSEConfiguration
    let core: SessionCore
    let state = Monitor(State())

    /// Prepares a session on a device.
    ///
    /// - Parameter device: an open `/dev/fuse`: the one that a mount was made with, and never a clone of it
    ///   (FUSE_DEV_IOC_CLONE), which loses the requests in flight when its process dies. The default is a new one, for
    ///   `start(at:)`.
    public init(
        device: File? = nil, configuration: FUSEConfiguration = FUSEConfiguration(), handler: any FUSEHandler
    ) throws(FUSEError) {
        if let device {
            self.device = device
        } else {
            do throws(SystemError) {
                self.device = try File("/dev/fuse", O_RDWR)
            } catch {
                throw FUSEError(.deviceUnavailable, "the kernel's FUSE cannot be opened", cause: error)
            }
        }
        self.configuration = configuration
        core = try SessionCore(device: self.device, configuration: configuration, handler: handler)
    }

    /// Mounts the file system and starts to answer.
    ///
    /// - Parameter directory: an existing directory, of any name.
    public func start(at directory: String) throws(FUSEError) {
        try begin()
        do throws(FUSEError) {
            let mount = try makeMount(at: directory)
            do throws(FUSEError) {
                try run(mount)
            } catch {
                // Without an answer to INIT, a process that looks into the directory would wait for ever.
                try? Mount.unmount(mount.directory, detach: true, force: true)
                throw error
            }
        } catch {
            state.withLock(notify: true) { state in state.phase = .ended }
            throw error
        }
    }

    /// Starts to answer for a mount that was made with this session's device (`FUSESession.mountOptions`) and whose INIT has
    /// not been read yet.
    public func start(mountedAt directory: String) throws(FUSEError) {
        try begin()
        do throws(FUSEError) {
            try run(try findMount(at: directory))
        } catch {
            state.withLock(notify: true) { state in state.phase = .ended }
            throw error
        }
    }

    /// Goes on where another process stopped. That process held this session's device and is dead; the kernel sends again what
    /// it had read and not answered.
    ///
    /// - Parameters:
    ///   - directory: where the file system is mounted.
    ///   - initRequest: what that process's `initRequest` was.
    public func resume(mountedAt directory: String, initRequest: [UInt8]) throws(FUSEError) {
        try begin()
        do throws(FUSEError) {
            try run(try findMount(at: directory), replaying: initRequest)
        } catch {
            state.withLock(notify: true) { state in state.phase = .ended }
            throw error
        }
    }

    private func begin() throws(FUSEError) {
        try state.withLock { (state) throws(FUSEError) in
            guard state.phase == .created else { throw FUSEError(.wrongState, "a FUSE session starts only once") }
            state.phase = .starting
        }
    }

    /// Has INIT answered on the calling thread, alone (if another request were read first, libfuse would answer it with EIO),
    /// then starts the threads.
    ///
    /// - Parameter initRequest: one that was answered long ago, whose answer libfuse has to know too.
    private func run(_ mount: Mount, replaying initRequest: [UInt8]? = nil) throws(FUSEError) {
        var workers: [Worker] = []
        for index in 0..<max(1, configuration.threadCount) {
            workers.append(try Worker(core: core, index: index))
        }
        if let initRequest { try workers[0].replay(initRequest, mount) }
        while !lamina_fuse_is_ready(core.fuse) {
            let result = workers[0].step()
            guard result > 0 else {
                throw FUSEError(
                    .handshakeFailed, "the kernel did not take up the connection of \(mount.directory)",
                    cause: SystemError(code: result == 0 ? ENODEV : -result, operation: "INIT of", subject: device.path)
                )
            }
        }
        state.withLock { state in
            state.mount = mount
            state.running = workers.count
            state.phase = .running
        }
        raiseReadAhead(of: mount)
        for (index, worker) in workers.enumerated() {
            do throws(SystemError) {
                let thread = try Thread("fuse-\(index)") { [state, core] in Self.loop(worker, core, state) }
                state.withLock { state in state.threads.append(thread) }
            } catch {
                state.withLock { state in state.running -= workers.count - index }
                throw FUSEError(.outOfResources, "a FUSE thread could not be started", cause: error)
            }
        }
    }

    private static func loop(_ worker: Worker, _ core: SessionCore, _ state: Monitor<State>) {
        var result: Int32
        repeat { result = worker.step() } while result > 0
        state.withLock(notify: true) { state in
            if result < 0, state.failure == nil {
                state.failure = FUSEError(
                    .connectionFailed, "the FUSE connection broke",
                    cause: SystemError(code: -result, operation: "read", subject: "/dev/fuse"))
            }
            state.running -= 1
            if state.running == 0 { state.phase = .ended }
        }
    }

    /// Waits until the mount has ended, in whatever way, and all threads with it.
    ///
    /// Throws what ended it, if that was not an unmount.
    public func wait() throws(FUSEError) {
        state.wait { state in state.phase == .ended ? () : nil }
        try joinThreads()
    }

    /// Waits at most this long until the mount has ended; false if it has not.
    public func waitForEnd(seconds: Double) -> Bool {
        state.wait(seconds: seconds) { state in state.phase == .ended ? () : nil } != nil
    }

    func joinThreads() throws(FUSEError) {
        let (threads, failure) = state.withLock { state in
            defer { state.threads = [] }
            return (state.threads, state.failure)
        }
        for thread in threads { thread.join() }
        if let failure { throw failure }
    }

    /// Whether the mount is being answered.
    public var isRunning: Bool { state.withLock { state in state.phase == .running } }

    /// Where it is mounted, once started.
    public var mount: Mount? { state.withLock { state in state.mount } }
}
