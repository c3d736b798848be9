import CFuse
import Glibc

// One type for each kind of answer, so that a wrong one does not compile. Each has `error` for an errno value, and methods that
// give the answer; each of these ends the reply.

/// The answer to a lookup.
public struct EntryReply: ~Copyable, Sendable {
    let pending: PendingReply

    /// The entry exists. Its node must not be 0.
    public consuming func entry(
        _ attributes: FUSEAttributes, entryTime: FUSECacheTime = .unlimited,
        attributeTime: FUSECacheTime = .unlimited
    ) {
        var raw = attributes.raw
        _ = pending.answer { lamina_fuse_reply_entry($0, &raw, entryTime.raw, attributeTime.raw) }
    }

    /// There is no such entry, and the kernel may remember that. `error(ENOENT)` is the same without remembering.
    public consuming func negative(entryTime: FUSECacheTime = .unlimited) {
        _ = pending.answer { lamina_fuse_reply_entry($0, nil, entryTime.raw, FUSECacheTime.none.raw) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }
}

/// The answer to getattr.
public struct AttributeReply: ~Copyable, Sendable {
    let pending: PendingReply

    public consuming func attributes(_ attributes: FUSEAttributes, time: FUSECacheTime = .unlimited) {
        var raw = attributes.raw
        _ = pending.answer { lamina_fuse_reply_attributes($0, &raw, time.raw) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }
}

/// The answer to readlink.
public struct DataReply: ~Copyable, Sendable {
    let pending: PendingReply

    /// - Parameter bytes: copied before this returns; at most 4,095.
    public consuming func bytes(_ bytes: UnsafeRawBufferPointer) {
        _ = pending.answer { lamina_fuse_reply_bytes($0, bytes.baseAddress, bytes.count) }
    }

    /// The same, for `array.span.bytes`: a closure cannot consume a reply, and `withUnsafeBytes` would need one.
    public consuming func bytes(_ bytes: RawSpan) {
        _ = pending.answer { request in
            bytes.withUnsafeBytes { lamina_fuse_reply_bytes(request, $0.baseAddress, $0.count) }
        }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }
}

/// The answer to getxattr and listxattr.
public struct AttributeValueReply: ~Copyable, Sendable {
    let pending: PendingReply
    /// How much room the caller has; 0: it asks for the size only. `value` handles both.
    public let size: Int

    /// The whole value, or list of names; ERANGE when the caller has less room.
    public consuming func value(_ value: UnsafeRawBufferPointer) {
        let size = size
        _ = pending.answer { Self.send(value, to: $0, size: size) }
    }

    /// The same, for `array.span.bytes`.
    public consuming func value(_ value: RawSpan) {
        let size = size
        _ = pending.answer { request in
            value.withUnsafeBytes { Self.send($0, to: request, size: size) }
        }
    }

    private static func send(_ value: UnsafeRawBufferPointer, to request: OpaquePointer, size: Int) -> Int32 {
        if size == 0 { return lamina_fuse_reply_size(request, value.count) }
        if size < value.count { return lamina_fuse_reply_error(request, ERANGE) }
        return lamina_fuse_reply_bytes(request, value.baseAddress, value.count)
    }

    /// ENODATA says that there is no such attribute. ENOSYS would end all such requests of this mount.
    public consuming func error(_ code: Int32) { pending.refuse(code) }
}

/// The answer to statfs.
public struct StatisticsReply: ~Copyable, Sendable {
    let pending: PendingReply

    public consuming func statistics(_ statistics: FUSEFilesystemStatistics) {
        var raw = statistics.raw
        _ = pending.answer { lamina_fuse_reply_statistics($0, &raw) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }
}
