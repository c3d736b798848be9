import LaminaFUSE
import LaminaSystem

// Reads back from the session's record what a dead process had answered.

extension OpenTable {
    /// What was found.
    struct Resumed {
        /// Opens that go on.
        var opens = 0
        /// Backing files that the kernel has.
        var backings = 0
        /// Those of them that no record had; they were given up.
        var orphans = 0
        /// Inodes that have cached opens.
        var cached: [UInt64] = []
    }

    /// Takes over what is recorded. Before the first request is processed.
    ///
    /// - Parameter probe: any file of the store that passthrough takes; nil if passthrough is off.
    func resume(_ session: FUSESession, probe: File?) -> Resumed {
        var result = Resumed()
        var known: Set<Int32> = []
        for index in 0..<Self.shardCount {
            shards[index].withLock { shard in
                for backing in record.backings(index) {
                    let id = session.adoptBacking(backing.value)
                    if backing.isClosing {
                        id.unregister()
                        record.removeBacking(index, backing.slot)
                    } else {
                        known.insert(backing.value)
                        Self.keep(Backing(id: id, slot: backing.slot), backing.node, nil, &shard)
                    }
                }
                for open in record.opens(index) {
                    let count = open.count ?? 1
                    result.opens += count
                    if let entry = shard.entries[open.node], entry.count > 0 {
                        shard.entries[open.node]?.count += count
                    } else {
                        let idle = shard.entries.removeValue(forKey: open.node)
                        if idle != nil { shard.idleCount -= 1 }
                        if open.backing == nil { result.cached.append(open.node) }
                        shard.entries[open.node] = Entry(
                            backing: open.backing == nil ? nil : idle?.backing, count: count, content: nil)
                    }
                    if open.count != nil { shard.entries[open.node]?.counter = open.handle }
                }
            }
        }
        result.backings = known.count
        if let probe { result.orphans = closeOrphans(session, probe, known) }
        return result
    }

    /// Gives up registrations that were not recorded: their process was killed in between. The kernel numbers registrations in
    /// ascending order (idr_alloc_cyclic in fuse_backing_id_alloc), so they lie between the highest on record and the next one.
    private func closeOrphans(_ session: FUSESession, _ probe: File, _ known: Set<Int32>) -> Int {
        guard let next = try? session.registerBacking(probe.descriptor) else { return 0 }
        let highest = record.highestBacking
        var count = 0
        // At most as many as there are threads. The bound is for the case that the numbers have started again from the
        // beginning.
        if next.value > highest, next.value - highest < 4096 {
            for value in (highest + 1)..<next.value where !known.contains(value) {
                if session.adoptBacking(value).unregister() { count += 1 }
            }
        }
        record.setHighestBacking(max(next.value, highest))
        next.unregister()
        return count
    }
}
