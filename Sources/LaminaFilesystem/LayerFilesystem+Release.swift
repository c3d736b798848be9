import LaminaFUSE
public import LaminaStore
import LaminaSystem
import Synchronization

// What happens before files of the store are removed. Open files stay. Backing IDs that are kept for the next open are given up,
// because the kernel would otherwise keep the file.

extension LayerFilesystem {
    /// Gives up what is kept of these contents.
    ///
    /// - Returns: those that are open.
    static func release(
        _ contents: Set<ContentID>, _ store: Store, _ files: OpenFileCache, _ opens: OpenTable
    ) -> Set<ContentID> {
        files.forget(contents)
        return opens.release(contents) { [store] node in
            (try? store.index.content(ofInode: Int64(bitPattern: node))) ?? nil
        }
    }

    func release(_ contents: Set<ContentID>) -> Set<ContentID> { Self.release(contents, store, files, opens) }

    /// The inodes that are open.
    public var openInodes: [Int64] { opens.openNodes.map(Int64.init(bitPattern:)) }

    /// Forgets inodes that have no row in the index any more, and has the kernel forget them.
    public func forget(_ garbage: MarkedGarbage) {
        files.forgetAll()
        opens.releaseIdle { node in garbage.inodes.contains { $0.contains(Int64(bitPattern: node)) } }
        guard let session = session.withLock({ $0 }) else { return }
        for view in garbage.views {
            do { try session.invalidateEntry(parent: 1, name: view.description) } catch {
                log("the kernel may remember the layer \(view), which is gone: \(error)")
            }
        }
        if !garbage.views.isEmpty { viewsChanged() }
    }
}

extension OpenTable {
    /// Gives up the backing IDs of these contents that are not open.
    ///
    /// - Parameter find: the content of an inode that another process opened.
    /// - Returns: those of the contents that are open.
    func release(_ contents: Set<ContentID>, find: (UInt64) -> ContentID?) -> Set<ContentID> {
        learnContents(find)
        var open: Set<ContentID> = []
        for shard in shards {
            shard.withLock { shard in
                for entry in shard.entries.values where !entry.isIdle {
                    if let content = entry.content, contents.contains(content) { open.insert(content) }
                }
            }
        }
        for index in 0..<Self.shardCount {
            let given = shards[index].withLock { shard in
                takeIdle(&shard, index) { _, content in
                    content.map { contents.contains($0) && !open.contains($0) } ?? false
                }
            }
            giveUp(given, index)
        }
        return open
    }

    /// The inodes that are open.
    var openNodes: [UInt64] {
        shards.flatMap { shard in shard.withLock { $0.entries.filter { !$0.value.isIdle }.map(\.key) } }
    }

    /// Gives up the backing IDs of inodes that are not open.
    func releaseIdle(where matches: (UInt64) -> Bool) {
        for index in 0..<Self.shardCount {
            let given = shards[index].withLock { shard in takeIdle(&shard, index) { node, _ in matches(node) } }
            giveUp(given, index)
        }
    }

    private func takeIdle(
        _ shard: inout Shard, _ index: Int, _ matches: (UInt64, ContentID?) -> Bool
    ) -> [Backing] {
        let matching = shard.entries.filter { $0.value.isIdle && matches($0.key, $0.value.content) }
        return take(matching.map(\.key), &shard, index)
    }

    /// Finds the contents of what another process opened: its record has only the inodes.
    private func learnContents(_ find: (UInt64) -> ContentID?) {
        for index in 0..<Self.shardCount {
            let unknown = shards[index].withLock { $0.entries.filter { $0.value.content == nil }.map(\.key) }
            for node in unknown {
                guard let content = find(node) else { continue }
                shards[index].withLock { $0.entries[node]?.content = content }
            }
        }
    }
}
