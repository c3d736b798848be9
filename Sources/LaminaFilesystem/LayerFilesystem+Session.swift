import Glibc
import LaminaFUSE
import LaminaMerge
import LaminaStore
public import LaminaSystem
import Synchronization

// How the mount begins, goes on from one process to the next, and ends.

/// A connection that was begun by a process that is dead.
public struct HeldSession: Sendable {
    /// The open `/dev/fuse`.
    public var device: File
    /// The kernel's INIT request.
    public var initRequest: [UInt8]
    /// Whether passthrough was negotiated.
    public var hasPassthrough: Bool

    public init(device: File, initRequest: [UInt8], hasPassthrough: Bool) {
        self.device = device
        self.initRequest = initRequest
        self.hasPassthrough = hasPassthrough
    }
}

/// What was found when a session was taken over.
public struct TakeOver: Sendable {
    /// Opens that go on.
    public var opens: Int
    /// Backing files that the kernel has, and those among them that no record had.
    public var backingFiles: Int
    public var orphans: Int
    /// Whether the kernel sends unanswered requests again. Before Linux 6.9 it does not, and those calls fail.
    public var canResend: Bool
}

extension LayerFilesystem {
    private func configuration(passthrough: Bool) -> FUSEConfiguration {
        var configuration = FUSEConfiguration()
        configuration.source = "lamina"
        configuration.wantsPassthrough = passthrough
        configuration.busyWait = options.busyWait
        configuration.threadCount = Self.threadCount
        return configuration
    }

    /// Mounts the file system at `<root>/fs` and answers until `stop`.
    ///
    /// - Returns: what another process needs to go on with it, besides the record.
    @discardableResult
    public func start() throws -> HeldSession {
        let session = try FUSESession(configuration: configuration(passthrough: options.passthrough), handler: self)
        try session.start(at: directory)
        begin(session)
        return HeldSession(
            device: session.device, initRequest: session.initRequest, hasPassthrough: session.passthrough == .available)
    }

    /// Goes on with a session of a dead process, whose record this object was made with.
    ///
    /// - Parameter probe: a file of the store that passthrough takes.
    public func resume(_ held: HeldSession, probe: File) throws -> TakeOver {
        let passthrough = options.passthrough && held.hasPassthrough
        let session = try FUSESession(
            device: held.device, configuration: configuration(passthrough: passthrough), handler: self)
        // Before the first request is read, because what is open decides its answer.
        let resumed = opens.resume(session, probe: held.hasPassthrough ? probe : nil)
        self.session.withLock { $0 = session }
        do {
            try session.resume(mountedAt: directory, initRequest: held.initRequest)
        } catch {
            self.session.withLock { $0 = nil }
            throw error
        }
        begin(session)
        goOn(with: resumed.cached)
        return TakeOver(
            opens: resumed.opens, backingFiles: resumed.backings, orphans: resumed.orphans,
            canResend: session.canResend)
    }

    private func begin(_ session: FUSESession) {
        self.session.withLock { $0 = session }
        if case .unavailable(let reason) = session.passthrough { refusePassthrough(reason.description) }
    }

    /// Files that were open while they were merged: their merges go on. Requests that waited for a merge come again by
    /// themselves.
    private func goOn(with nodes: [UInt64]) {
        for node in nodes {
            do {
                guard let content = try spareReader.inode(Int64(bitPattern: node))?.content else { continue }
                if try isMerged(content, spareReader, mayWait: true) == false { engine.background(content) }
            } catch {
                report(error)
            }
        }
    }

    /// From now on what cannot be answered stays unanswered: this process is about to end, and the kernel sends such requests
    /// to the next one again.
    public func leave() { isLeaving.store(true, ordering: .sequentiallyConsistent) }

    /// Whether long work should end early.
    var isEnding: Bool {
        isLeaving.load(ordering: .relaxed) || isStopping.load(ordering: .relaxed)
    }

    /// Whether a reply is left to the next process, because what it waited for failed only because this process ends.
    func isLeft(_ reply: any Sendable, _ result: Result<some Any, some Error>) -> Bool {
        guard case .failure = result, isLeaving.load(ordering: .sequentiallyConsistent) else { return false }
        // If it were dropped, it would be answered with an error.
        leftReplies.withLock { $0.append(reply) }
        return true
    }
}
