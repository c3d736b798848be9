import CFuse
import Glibc
public import LaminaSystem
import Synchronization

/// A file that the kernel reads from in place of the daemon, registered with one session's connection.
///
/// Unregistered when the last reference goes. Opens that were answered with it go on all the same, but further ones of
/// the same inode need this very registration: keep it as long as the inode is open.
public final class BackingID: Sendable {
    /// The kernel's number, above 0.
    public let value: Int32
    // Not the session itself, as it is the handler that keeps these, and the session keeps the handler.
    private let link: SessionLink
    private let isRegistered = Atomic<Bool>(true)

    init(value: Int32, link: SessionLink) {
        self.value = value
        self.link = link
    }

    deinit { unregister() }

    /// Unregisters it now, whoever refers to it still; only the first call does something.
    ///
    /// - Returns: whether the kernel had it: a number that was adopted may be known to nobody.
    @discardableResult
    public func unregister() -> Bool {
        guard isRegistered.exchange(false, ordering: .relaxed) else { return false }
        // Fails only when the connection is gone, and with it the registration, or for a number that is none.
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

    /// A registration that another process made on this connection, by its number. Nothing is asked of the kernel.
    public func adoptBacking(_ value: Int32) -> BackingID { BackingID(value: value, link: core.link) }
}
