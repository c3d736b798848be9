import CFuse

/// The answer to readdir: entries are added until one does not fit or there are no more, then `finish`.
public struct DirectoryReply: ~Copyable, Sendable {
    private let pending: PendingReply
    private let entries: EntryBuffer
    /// Whether the kernel wants whole attributes with each entry and takes them as looked up; else only node and type
    /// are sent.
    public let isPlus: Bool
    /// How long what is sent may be kept; both unlimited at first.
    public var entryTime = FUSECacheTime.unlimited
    public var attributeTime = FUSECacheTime.unlimited

    init(pending: consuming PendingReply, size: Int, isPlus: Bool) {
        self.pending = pending
        self.isPlus = isPlus
        entries = EntryBuffer(capacity: size)
    }

    /// Adds an entry.
    ///
    /// - Parameters:
    ///   - name: 1 to 255 bytes without a slash.
    ///   - attributes: only `node` and the type in `mode` count unless `isPlus`.
    ///   - nextOffset: what readdir is called with to go on behind this entry; above 0, and for each entry of the
    ///     directory another, the same at each reading.
    /// - Returns: false when it does not fit; nothing was added then.
    public mutating func add(name: UnsafeRawBufferPointer, attributes: FUSEAttributes, nextOffset: Int64) -> Bool {
        guard let address = name.baseAddress else { return false }
        var raw = attributes.raw
        let used = lamina_fuse_add_entry(
            entries.address, entries.capacity, entries.used, isPlus, address, name.count, &raw, nextOffset,
            entryTime.raw, attributeTime.raw)
        guard used > 0 else { return false }
        entries.used = used
        return true
    }

    /// Sends what was added; nothing says that the directory ends.
    public consuming func finish() {
        let entries = entries
        _ = pending.answer { lamina_fuse_reply_bytes($0, entries.address, entries.used) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }
}

/// The memory that entries are gathered in, freed with the reply.
private final class EntryBuffer: @unchecked Sendable {
    // @unchecked: only the reply that made it refers to it, which is not copied.
    let address: UnsafeMutableRawPointer
    let capacity: Int
    var used = 0

    /// Above this, a longer reply saves nothing, and malloc would map and unmap memory for each.
    static let limit = 64 << 10

    init(capacity: Int) {
        self.capacity = min(capacity, Self.limit)
        address = .allocate(byteCount: self.capacity, alignment: 8)
    }

    deinit { address.deallocate() }
}
