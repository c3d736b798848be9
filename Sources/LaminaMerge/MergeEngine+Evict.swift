public import LaminaStore

// Gives up what nobody merges or has open.

extension MergeEngine {
    /// Gives up a content's bytes, unless somebody merges it just now; it is fetched again when it is asked for.
    ///
    /// - Returns: whether it did.
    public func evict(_ content: ContentRecord) throws -> Bool { try evict([content]).contents == 1 }

    /// Gives up the bytes of those contents that nobody merges just now, in one transaction.
    ///
    /// - Returns: how many there were, and what that freed on disk.
    func evict(_ contents: [ContentRecord]) throws -> (contents: Int, bytes: Int64) {
        let reserved = context.board.with { $0.reserve(contents.map(\.id)) }
        guard !reserved.isEmpty else { return (0, 0) }
        defer { context.board.with(notify: true) { $0.release(reserved.values) } }
        return try store.evict(contents.filter { reserved[$0.id] != nil })
    }
}
