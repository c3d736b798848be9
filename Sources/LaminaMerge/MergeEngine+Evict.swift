public import LaminaStore

// Gives up what is neither being merged nor open.

extension MergeEngine {
    /// Gives up a content's bytes, unless a merge of it is running; it is fetched again when a reader asks for it.
    ///
    /// - Returns: whether it did.
    public func evict(_ content: ContentRecord) throws -> Bool { try evict([content]).contents == 1 }

    /// Gives up the bytes of those contents that are not being merged, in one transaction.
    ///
    /// - Returns: how many they were, and how much that freed on disk.
    func evict(_ contents: [ContentRecord]) throws -> (contents: Int, bytes: Int64) {
        let reserved = context.board.with { $0.reserve(contents.map(\.id)) }
        guard !reserved.isEmpty else { return (0, 0) }
        defer { context.board.with(notify: true) { $0.release(reserved.values) } }
        return try store.evict(contents.filter { reserved[$0.id] != nil })
    }
}
