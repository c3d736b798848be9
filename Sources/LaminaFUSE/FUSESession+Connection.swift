import CFuse
import Glibc
public import LaminaSystem
import Synchronization

/// Whether open files can be given to the kernel.
public enum PassthroughAvailability: Sendable, Hashable {
    /// Negotiated with the kernel. Registering a file may still fail: see `FUSESession.registerBacking`.
    case available
    case unavailable(Reason)

    public enum Reason: Sendable, Hashable, CustomStringConvertible {
        case notStarted
        case notWanted
        case notOfferedByKernel

        public var description: String {
            switch self {
            case .notStarted: "the session has not started"
            case .notWanted: "it is switched off"
            case .notOfferedByKernel: "the kernel does not offer it (it wants Linux 6.9 with CONFIG_FUSE_PASSTHROUGH)"
            }
        }
    }
}

// What INIT negotiated. All of it is empty before `start` has returned.
extension FUSESession {
    /// The kernel's INIT request, with its header: what a process that takes over the connection needs.
    public var initRequest: [UInt8] {
        // Once ready it no longer changes.
        guard lamina_fuse_is_ready(core.fuse) else { return [] }
        var size = 0
        guard let bytes = lamina_fuse_init_request(core.fuse, &size) else { return [] }
        return [UInt8](UnsafeBufferPointer(start: bytes, count: size))
    }

    public var passthrough: PassthroughAvailability {
        switch lamina_fuse_passthrough(core.fuse) {
        case LAMINA_FUSE_PASSTHROUGH_ON: .available
        case LAMINA_FUSE_PASSTHROUGH_NOT_WANTED: .unavailable(.notWanted)
        case LAMINA_FUSE_PASSTHROUGH_NOT_OFFERED: .unavailable(.notOfferedByKernel)
        default: .unavailable(.notStarted)
        }
    }

    /// Whether the kernel sends requests again that a dead process had read (FUSE_HAS_RESEND).
    public var canResend: Bool { lamina_fuse_can_resend(core.fuse) }

    /// Whether the connection of a device still exists: the kernel reports POLLERR once it was aborted, or its mount is gone
    /// (fuse_dev_poll).
    public static func isConnected(_ device: File) -> Bool {
        var entry = pollfd(fd: device.descriptor, events: 0, revents: 0)
        var result: Int32
        repeat { result = poll(&entry, 1, 0) } while result < 0 && errno == EINTR
        return result == 0
    }

    /// The protocol that the kernel speaks, such as 7.45.
    public var protocolVersion: (major: Int, minor: Int) {
        let version = lamina_fuse_protocol(core.fuse)
        return (Int(version >> 16), Int(version & 0xffff))
    }
}

/// The requests that are counted, by the kernel's opcodes (linux/fuse.h).
public enum FUSEOperation: UInt32, Sendable, CaseIterable {
    case lookup = 1, forget, getattr
    case readlink = 5
    case open = 14, read
    case statfs = 17, release
    case getxattr = 22, listxattr
    case flush = 25, initialize, opendir, readdir, releasedir
    case access = 34
    case interrupt = 36
    case ioctl = 39
    case batchForget = 42
    case readdirplus = 44
    case lseek = 46
    case statx = 52
}

// Counters since the start of the session. They are relaxed: a number may lag behind by what is being processed.
extension FUSESession {
    /// Requests that came in.
    public func requestCount(_ operation: FUSEOperation) -> UInt64 {
        lamina_fuse_request_count(core.fuse, operation.rawValue)
    }

    /// Requests that the session's threads have finished, answered or parked: as long as the number grows, they work.
    public var progress: UInt64 { lamina_fuse_progress(core.fuse) }

    /// Opens that were answered with passthrough, and in cached mode.
    public var passthroughOpenCount: UInt64 { lamina_fuse_open_count(core.fuse, LAMINA_FUSE_OPEN_PASSTHROUGH) }
    public var cachedOpenCount: UInt64 { lamina_fuse_open_count(core.fuse, LAMINA_FUSE_OPEN_CACHED) }

    /// Replies that the handler dropped, each by a mistake.
    public var droppedReplyCount: UInt64 { core.droppedReplies.load(ordering: .relaxed) }
}
