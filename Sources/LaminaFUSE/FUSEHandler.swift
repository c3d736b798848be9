import CFuse

/// One of the session's threads.
public struct FUSEThread: Sendable, Hashable {
    /// 0 ..< the session's number of threads: lets a handler keep one database connection for each, without a lock.
    public let index: Int

    public init(index: Int) { self.index = index }

    /// Lets another of the session's threads take requests while the calling one goes on: a handler says so before it does
    /// what may take long. On other threads it does nothing.
    public static func shareTurn() { lamina_fuse_share() }
}

/// Answers the requests of a read-only file system.
///
/// Each method is called on one of the session's threads, several at once, with a reply that can be answered once and
/// must be: the compiler sees to the first, and a reply that is dropped answers EIO. A request that must wait (for the
/// network, for a lock that is held long) is parked (`OpenReply.park`, `ReadReply.park`) and answered later by whoever
/// has what it waits for, so that the thread goes on to the next one.
///
/// Node 1 is the root. Node IDs and handles are the handler's own numbers; FORGET is not reported, so they must be good
/// for ever. Names are bytes, without NUL or slash, of any encoding; they, and other buffers, are valid until the
/// method returns.
public protocol FUSEHandler: Sendable {
    /// LOOKUP: the entry `name` of the directory `parent`.
    func lookup(parent: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming EntryReply)

    /// GETATTR.
    func getattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeReply)

    /// READLINK: the target's bytes, without a NUL. The kernel caches them as long as it keeps the inode.
    func readlink(node: UInt64, thread: FUSEThread, reply: consuming DataReply)

    /// OPEN, always for reading.
    ///
    /// - Parameter flags: those of open(2), such as `O_NONBLOCK`; the kernel adds `0x20` for exec.
    func open(node: UInt64, flags: Int32, thread: FUSEThread, reply: consuming OpenReply)

    /// OPEN of what may have been open before, asked before `open`: the answer to most opens is known, and is given here without
    /// what it takes to answer later.
    ///
    /// - Returns: true after `reply.passthrough`, whatever that says; false without it, and `open` is called.
    func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool

    /// READ of a file that was opened in cached mode; those of passthrough do not come here.
    ///
    /// A reply shorter than `size` says that the file ends there.
    func read(
        node: UInt64, handle: UInt64, offset: Int64, size: Int, thread: FUSEThread, reply: consuming ReadReply)

    /// RELEASE: the last reference to an open file is gone; the kernel's own account of what is open already knows.
    /// Answered by the session when this returns. May come again for the same handle when a session goes on after its
    /// process was killed.
    func release(node: UInt64, handle: UInt64, thread: FUSEThread)

    /// READDIR and READDIRPLUS: the entries behind `offset` (0: from the start; else a `nextOffset` that was given
    /// before), as many as fit. `.` and `..` should be among them. Directories have no handle: the kernel opens them
    /// itself and keeps what was read.
    func readdir(node: UInt64, offset: Int64, thread: FUSEThread, reply: consuming DirectoryReply)

    /// GETXATTR. The kernel does not cache these: overlayfs and exec ask often.
    func getxattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming AttributeValueReply)

    /// GETXATTR, asked before `getxattr`: whether the inode has no attribute of this name for certain, which takes no look into
    /// anything. overlayfs asks for its own attributes of every file and directory that is looked up below it.
    func lacksXattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread) -> Bool

    /// LISTXATTR: names, each with a NUL behind it.
    func listxattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeValueReply)

    /// STATFS.
    func statfs(node: UInt64, thread: FUSEThread, reply: consuming StatisticsReply)

    /// Does a little of what later requests may ask for, some 50 µs at most: the next request waits for as long.
    ///
    /// Called again and again, on the thread that takes requests, while they come in quick succession (`busyWait`) and none
    /// is there.
    ///
    /// - Returns: whether there was something to do; saying no must cost next to nothing.
    func idle(thread: FUSEThread) -> Bool
}

extension FUSEHandler {
    public func idle(thread: FUSEThread) -> Bool { false }

    public func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool { false }

    public func lacksXattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread) -> Bool { false }
}
