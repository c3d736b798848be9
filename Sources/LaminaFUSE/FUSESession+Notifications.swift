import CFuse
import Glibc
public import LaminaSystem

// What the kernel is told to forget. A notification takes the locks of the directory. A handler that notifies about a directory
// while it answers for that directory would wait for itself: notify from another thread. The result false means that nothing
// was cached.
extension FUSESession {
    /// An entry of a directory has changed: the kernel looks it up again when it needs it.
    @discardableResult
    public func invalidateEntry(parent: UInt64, name: String) throws(SystemError) -> Bool {
        try notify("invalidate", name) { bytes in
            lamina_fuse_invalidate_entry(core.fuse, parent, bytes.baseAddress, bytes.count)
        }
    }

    /// An entry is gone: as above, and programs that watch the directory (inotify) are told.
    @discardableResult
    public func notifyDelete(parent: UInt64, child: UInt64, name: String) throws(SystemError) -> Bool {
        try notify("notify of the end of", name) { bytes in
            lamina_fuse_notify_delete(core.fuse, parent, child, bytes.baseAddress, bytes.count)
        }
    }

    /// The listing of a directory, or the cached bytes of a file, and the attributes have changed. An entry that was added
    /// needs this: the kernel keeps listings, and the other two methods do nothing for a name that it has never seen.
    @discardableResult
    public func invalidateContents(node: UInt64) throws(SystemError) -> Bool {
        try notify("invalidate node", "\(node)") { _ in lamina_fuse_invalidate_node(core.fuse, node, 0, 0) }
    }

    private func notify(
        _ what: String, _ name: String, _ call: (UnsafeRawBufferPointer) -> Int32
    ) throws(SystemError) -> Bool {
        var name = name
        let result = name.withUTF8 { call(UnsafeRawBufferPointer($0)) }
        if result == -ENOENT { return false }
        guard result == 0 else { throw SystemError(code: -result, operation: what, subject: name) }
        return true
    }
}
