import CFuse

/// The answer to open.
///
/// The kernel's rules for a handler (if one is broken, the open fails with EIO): while an inode has a cached open, there may be
/// no passthrough; while it has a passthrough open, there may be nothing else, and only with the same backing ID, which must
/// still be registered.
public struct OpenReply: ~Copyable, Sendable {
    let pending: PendingReply

    /// Identifies the request on this connection; the same when it is sent again.
    public var unique: UInt64 { pending.unique & ~LAMINA_FUSE_UNIQUE_RESEND }
    /// Whether the kernel has sent it before, or may have, to a process that died before it answered.
    public var isResent: Bool { pending.unique & LAMINA_FUSE_UNIQUE_RESEND != 0 }

    /// Reads and mappings go to the kernel's cache, and what is not in the cache comes as READ.
    ///
    /// - Parameters:
    ///   - handle: comes back in read and release.
    ///   - keepsCache: whether what the kernel has cached of this inode is still right.
    /// - Returns: false if no caller waits for the answer any more; then no release follows.
    @discardableResult
    public consuming func cached(handle: UInt64, keepsCache: Bool = true) -> Bool {
        pending.answer { lamina_fuse_reply_open_cached($0, handle, keepsCache) }
    }

    /// Reads and mappings go straight to the backing file. It must have no hole (a mapping of one reads zeros).
    ///
    /// - Parameter backing: must stay registered until the last open of this inode is released.
    /// - Returns: as for `cached`.
    @discardableResult
    public consuming func passthrough(_ backing: BackingID, handle: UInt64) -> Bool {
        let value = backing.value
        return pending.answer { lamina_fuse_reply_open_passthrough($0, handle, value) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }

    /// Puts the reply where another thread can take it; see `ParkedReply`.
    public consuming func park(onInterrupt: @escaping @Sendable () -> Void = {}) -> ParkedReply<OpenReply> {
        let (core, request) = pending.withCore { ($0, pending.request) }
        let parked = ParkedReply(self, core: core, onInterrupt: onInterrupt) { $0.error($1) }
        parked.watch(request)
        return parked
    }
}

/// The answer to an open that needs no waiting and nothing but memory. Valid until `FUSEHandler.reopen` returns.
public struct ReopenReply: ~Copyable {
    private let uniqueOnWire: UInt64
    private let fuse: OpaquePointer

    init(unique: UInt64, fuse: OpaquePointer) {
        uniqueOnWire = unique
        self.fuse = fuse
    }

    /// As in `OpenReply`.
    public var unique: UInt64 { uniqueOnWire & ~LAMINA_FUSE_UNIQUE_RESEND }
    /// As in `OpenReply`.
    public var isResent: Bool { uniqueOnWire & LAMINA_FUSE_UNIQUE_RESEND != 0 }

    /// As in `OpenReply`; the caller then returns true from `reopen`.
    public consuming func passthrough(_ backing: BackingID, handle: UInt64) -> Bool {
        lamina_fuse_answer_reopen(fuse, uniqueOnWire, handle, backing.value) == 0
    }
}
