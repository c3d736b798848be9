import CFuse

/// The answer to readdir.
public struct DirectoryReply: ~Copyable, Sendable {
    private let pending: PendingReply
    /// How many bytes of entries the kernel takes.
    public let size: Int
    /// Whether the kernel wants whole attributes with each entry and counts each as looked up; else only node and type are
    /// sent.
    public let isPlus: Bool

    init(pending: consuming PendingReply, size: Int, isPlus: Bool) {
        self.pending = pending
        self.size = size
        self.isPlus = isPlus
    }

    /// Sends entries, which must have been made for this reply's size and kind. No entries say that the directory ends.
    public consuming func entries(_ entries: borrowing DirectoryEntries) {
        let (address, used) = (entries.address, entries.used)
        _ = pending.answer { lamina_fuse_reply_bytes($0, address, used) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }
}

/// Entries of a directory as readdir sends them: they are added until one does not fit or there are no more.
public struct DirectoryEntries: ~Copyable, @unchecked Sendable {
    // @unchecked: the memory belongs to this value alone, and this value is never copied.
    fileprivate let address: UnsafeMutableRawPointer
    private var capacity: Int
    /// How many bytes the entries take.
    public private(set) var used = 0
    /// As in `DirectoryReply`.
    public let isPlus: Bool
    /// How long what is sent may be kept; both unlimited at first.
    public var entryTime = FUSECacheTime.unlimited
    public var attributeTime = FUSECacheTime.unlimited

    /// Above this size, a longer reply saves nothing, and malloc would map and unmap memory for each.
    private static let limit = 64 << 10

    /// - Parameter size: how many bytes they may take; no more than 64 KiB of it are used.
    public init(size: Int, isPlus: Bool) {
        capacity = min(size, Self.limit)
        self.isPlus = isPlus
        address = .allocate(byteCount: capacity, alignment: 8)
    }

    deinit { address.deallocate() }

    /// Adds an entry.
    ///
    /// - Parameters:
    ///   - name: 1 to 255 bytes without a slash.
    ///   - attributes: only `node` and the type in `mode` count unless `isPlus`.
    ///   - nextOffset: what readdir is called with to go on behind this entry; above 0, and for each entry of the
    ///     directory another, the same at each reading.
    /// - Returns: false when it does not fit; nothing was added then.
    public mutating func add(name: UnsafeRawBufferPointer, attributes: FUSEAttributes, nextOffset: Int64) -> Bool {
        guard let start = name.baseAddress else { return false }
        var raw = attributes.raw
        let used = lamina_fuse_add_entry(
            address, capacity, self.used, isPlus, start, name.count, &raw, nextOffset, entryTime.raw, attributeTime.raw)
        guard used > 0 else { return false }
        self.used = used
        return true
    }

    /// Cuts it to what a reader with a smaller buffer takes, because the kernel turns an answer that is too long into EIO
    /// (fuse_dev_do_write). Later additions keep to that size too.
    ///
    /// - Returns: the `nextOffset` of the last entry that is left, if some were cut off; nil if all are there, and 0 if none
    ///   is.
    public mutating func limit(to size: Int) -> Int64? {
        capacity = min(capacity, size)
        guard used > capacity else { return nil }
        var nextOffset: Int64 = 0
        used = lamina_fuse_fit_entries(address, used, capacity, isPlus, &nextOffset)
        return nextOffset
    }
}
