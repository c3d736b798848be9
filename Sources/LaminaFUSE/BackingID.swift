import CFuse
import Glibc
public import LaminaSystem
import Synchronization

/// A file that the kernel reads from in place of the daemon, registered with one session's connection.
///
/// It is unregistered with its last reference. Opens that were answered with it still go on, but further opens of the same
/// inode need this same registration: keep it as long as the inode is open.
public final class BackingID: Sendable {
    /// The kernel's number, above 0.
    public let value: Int32
    // Not the session itself: the handler keeps these objects, and the session keeps the handler.
    private let link: SessionLink
    private let isRegistered = Atomic<Bool>(true)

    init(value: Int32, link: SessionLink) {
        self.value = value
        self.link = link
    }

    deinit { unregister() }

    /// Unregisters it now, even if there are other references; only the first call does something.
    ///
    /// - Returns: whether the kernel had it. A number that was adopted may not be registered.
    @discardableResult
    public func unregister() -> Bool {
        guard isRegistered.exchange(false, ordering: .relaxed) else { return false }
        // Fails only if the connection is gone, and the registration with it, or if the number is no registration.
        return link.withSession { lamina_fuse_backing_close($0, value) == 0 } ?? false
    }
}

extension FUSESession {
    /// Registers a file for passthrough, by ioctl; about 5 µs.
    ///
    /// The file may be closed afterwards. The error's code says why not: EPERM (no CAP_SYS_ADMIN), ELOOP (its file
    /// system is itself stacked: overlayfs, FUSE), EOPNOTSUPP (no regular file), ENOTTY or EINVAL (a kernel without
    /// passthrough).
    public func registerBacking(_ descriptor: Int32) throws(SystemError) -> BackingID {
        let value = lamina_fuse_backing_open(core.fuse, descriptor)
        guard value > 0 else {
            throw SystemError(
                code: value == 0 ? EIO : -value, operation: "register for passthrough", subject: "fd \(descriptor)")
        }
        return BackingID(value: value, link: core.link)
    }

    /// A registration that another process made on this connection, by its number. The kernel is not asked.
    public func adoptBacking(_ value: Int32) -> BackingID { BackingID(value: value, link: core.link) }
}
