import CFuse

/// The answer to read.
public struct ReadReply: ~Copyable, Sendable {
    let pending: PendingReply

    /// - Parameter bytes: copied before this returns; fewer than were asked for say that the file ends there.
    public consuming func bytes(_ bytes: UnsafeRawBufferPointer) {
        _ = pending.answer { lamina_fuse_reply_bytes($0, bytes.baseAddress, bytes.count) }
    }

    /// The same, for `array.span.bytes`.
    public consuming func bytes(_ bytes: RawSpan) {
        _ = pending.answer { request in
            bytes.withUnsafeBytes { lamina_fuse_reply_bytes(request, $0.baseAddress, $0.count) }
        }
    }

    /// Answers with a range of a file, inside the kernel if that is faster (splice).
    ///
    /// - Parameters:
    ///   - descriptor: may be closed when this returns.
    ///   - count: if the file ends before that, the reply ends too.
    public consuming func file(_ descriptor: Int32, offset: Int64, count: Int) {
        _ = pending.answer { lamina_fuse_reply_file($0, descriptor, offset, count) }
    }

    public consuming func error(_ code: Int32) { pending.refuse(code) }

    /// Puts the reply where another thread can take it; see `ParkedReply`.
    public consuming func park(onInterrupt: @escaping @Sendable () -> Void = {}) -> ParkedReply<ReadReply> {
        let (core, request) = pending.withCore { ($0, pending.request) }
        let parked = ParkedReply(self, core: core, onInterrupt: onInterrupt) { $0.error($1) }
        parked.watch(request)
        return parked
    }
}
