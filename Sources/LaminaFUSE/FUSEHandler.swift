import CFuse

/// One of the session's threads.
public struct FUSEThread: Sendable, Hashable {
    /// 0 ..< the session's number of threads: a handler can keep one database connection for each thread, without a lock.
    public let index: Int

    public init(index: Int) { self.index = index }

    /// Lets another of the session's threads take requests while the calling one goes on. A handler calls it before it does
    /// what may take long. On other threads it does nothing.
    public static func shareTurn() { lamina_fuse_share() }
}

/// Answers the requests of a read-only file system.
///
/// Each method is called on one of the session's threads, several at once. Its reply must be answered exactly once: the
/// compiler prevents a second answer, and a reply that is dropped answers EIO. A request that must wait (for the network, for a
/// lock that is held long) is parked (`OpenReply.park`, `ReadReply.park`). The thread that has what it waits for answers it
/// later, and the session's thread goes on to the next request.
///
/// Node 1 is the root. Node IDs and handles are the handler's own numbers; FORGET is not reported, so they must stay valid for
/// ever. Names are bytes, without NUL or slash, of any encoding; they, and other buffers, are valid until the method returns.
public protocol FUSEHandler: Sendable {
    /// LOOKUP: the entry `name` of the directory `parent`.
    func lookup(parent: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming EntryReply)

    /// GETATTR.
    func getattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeReply)

    /// READLINK: the target's bytes, without a NUL. The kernel caches them while it keeps the inode.
    func readlink(node: UInt64, thread: FUSEThread, reply: consuming DataReply)

    /// OPEN, always for reading.
    ///
    /// - Parameter flags: those of open(2), such as `O_NONBLOCK`; the kernel adds `0x20` for exec.
    func open(node: UInt64, flags: Int32, thread: FUSEThread, reply: consuming OpenReply)

    /// OPEN of an inode that may have been open before, asked before `open`. The answer to most opens is known; it is given
    /// here without the cost of an answer that may come later.
    ///
    /// - Returns: true after `reply.passthrough`, whatever that returned; false if it was not called, and then `open` is
    ///   called.
    func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool

    /// READ of a file that was opened in cached mode; reads of passthrough opens do not come here.
    ///
    /// A reply shorter than `size` says that the file ends there.
    func read(
        node: UInt64, handle: UInt64, offset: Int64, size: Int, thread: FUSEThread, reply: consuming ReadReply)

    /// RELEASE: the last reference to an open file is gone. The kernel's own account of what is open already knows it. The
    /// session answers it when this method returns. It may come again for the same handle if a session goes on after its
    /// process was killed.
    func release(node: UInt64, handle: UInt64, thread: FUSEThread)

    /// READDIR and READDIRPLUS: the entries behind `offset` (0: from the start; else a `nextOffset` that was given before), as
    /// many as fit. `.` and `..` should be among them. Directories have no handle: the kernel opens them itself and caches what
    /// was read.
    func readdir(node: UInt64, offset: Int64, thread: FUSEThread, reply: consuming DirectoryReply)

    /// GETXATTR. The kernel does not cache the answers, and overlayfs and exec ask often.
    func getxattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming AttributeValueReply)

    /// GETXATTR, asked before `getxattr`: whether the inode certainly has no attribute of this name, told from memory alone.
    /// overlayfs asks for its own attributes of every file and directory that is looked up below it.
    func lacksXattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread) -> Bool

    /// LISTXATTR: names, each followed by a NUL.
    func listxattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeValueReply)

    /// STATFS.
    func statfs(node: UInt64, thread: FUSEThread, reply: consuming StatisticsReply)

    /// Does some work that later requests may need, 50 µs at most: the next request waits for it.
    ///
    /// Called again and again on the thread that takes requests, while requests come in quick succession (`busyWait`) and none
    /// is there.
    ///
    /// - Returns: whether there was something to do; the answer no must cost almost nothing.
    func idle(thread: FUSEThread) -> Bool
}

extension FUSEHandler {
    public func idle(thread: FUSEThread) -> Bool { false }

    public func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool { false }

    public func lacksXattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread) -> Bool { false }
}
