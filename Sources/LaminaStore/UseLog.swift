import LaminaSQLite
import LaminaSystem

/// Which contents were opened when and how often, and which inodes first. It is gathered in memory, because an open takes only
/// some microseconds, and recorded once in a while by `Store.recordUses`.
public final class UseLog: Sendable {
    struct Use {
        var at: Int64
        var count: Int64
    }

    private struct Shard {
        var uses: [ContentID: Use] = [:]
        /// Inodes that were opened before: the recent ones, and those before them. When the first set is full it becomes the
        /// second, and what was in the second is forgotten: so the oldest are dropped, and there is always room for one more.
        var seen: Set<Int64> = []
        var seenEarlier: Set<Int64> = []

        /// Whether an inode is opened for the first time, as far as is known.
        mutating func isFirst(_ inode: Int64) -> Bool {
            guard seen.insert(inode).inserted else { return false }
            let isFirst = !seenEarlier.contains(inode)
            if seen.count >= UseLog.seenLimit {
                swap(&seen, &seenEarlier)
                // The memory is kept: the set is filled again.
                seen.removeAll(keepingCapacity: true)
            }
            return isFirst
        }
    }

    private static let shardCount = 16
    /// How many inodes of one shard are remembered, twice: more than `Store.openedLimit` of one image are useless. If one was
    /// forgotten and is opened again, its row exists already.
    private static let seenLimit = 4096
    /// First opens that wait to be recorded: while the index takes nothing, the oldest are dropped.
    static let firstsLimit = 1 << 17

    private let shards = (0..<shardCount).map { _ in Monitor(Shard()) }
    private let firsts = Monitor<[Int64]>([])

    /// Notes that an inode with these bytes is opened: about 50 ns.
    public func note(_ inode: Int64, _ content: ContentID) {
        let now = millisecondsSince1970()
        let isFirst = shards[Int(UInt64(bitPattern: inode) % UInt64(Self.shardCount))].withLock { shard in
            let count = shard.uses[content]?.count ?? 0
            shard.uses[content] = Use(at: now, count: count + 1)
            return shard.isFirst(inode)
        }
        guard isFirst else { return }
        firsts.withLock { firsts in
            firsts.append(inode)
            if firsts.count > Self.firstsLimit { firsts.removeFirst(Self.firstsLimit / 2) }
        }
    }

    /// What was noted since this was called last.
    func take() -> (uses: [(content: ContentID, use: Use)], firsts: [Int64]) {
        var uses: [(content: ContentID, use: Use)] = []
        for shard in shards {
            let taken = shard.withLock { shard in
                defer { shard.uses = [:] }
                return shard.uses
            }
            uses += taken.map { ($0.key, $0.value) }
        }
        let firsts = firsts.withLock { firsts in
            defer { firsts = [] }
            return firsts
        }
        return (uses, firsts)
    }

    /// Takes back what could not be recorded.
    func restore(_ uses: [(content: ContentID, use: Use)], _ firsts: [Int64]) {
        for (content, use) in uses {
            shards[Int(UInt64(bitPattern: content.row) % UInt64(Self.shardCount))].withLock { shard in
                let known = shard.uses[content] ?? Use(at: 0, count: 0)
                shard.uses[content] = Use(at: max(known.at, use.at), count: known.count + use.count)
            }
        }
        self.firsts.withLock { $0 = Array((firsts + $0).suffix(Self.firstsLimit)) }
    }
}

extension Store {
    /// Records what was opened since the last time: it decides the order of eviction, and what the next pull fetches first.
    public func recordUses() throws {
        let (uses, firsts) = uses.take()
        do {
            if !uses.isEmpty {
                try write { writer in
                    let update = try writer.connection.cached(
                        "UPDATE content SET used_at = max(used_at, ?), opens = opens + ? WHERE id = ?")
                    for (content, use) in uses.sorted(by: { $0.content < $1.content }) {
                        try update.bind(1, use.at).bind(2, use.count).bind(3, content.row).run()
                    }
                }
            }
        } catch {
            self.uses.restore(uses, firsts)
            throw error
        }
        do {
            if !firsts.isEmpty { try recordOpened(firsts) }
        } catch {
            self.uses.restore([], firsts)
            throw error
        }
    }
}
