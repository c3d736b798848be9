import LaminaFUSE
import LaminaSystem
import Synchronization

/// What is open, inode by inode, and the backing files that the kernel has.
///
/// The kernel allows one way at a time: while an inode has a cached open, passthrough fails with EIO, and while it has a
/// passthrough open, everything but the same backing ID does. So the first open decides for all until the last is released.
/// Backing IDs are kept after that, the least recently used go first: registering one is most of what an open costs.
final class OpenTable: Sendable {
    /// How the opens of an inode are served now.
    enum Mode {
        case cached
        case passthrough(BackingID)
    }

    /// Backing IDs kept for inodes that nothing has open; each holds a file open in the kernel.
    private static let idleLimit = 8192
    private static let shardCount = 16

    private struct Entry {
        var mode: Mode
        var count: Int
    }

    private struct Idle {
        var backing: BackingID
        var released: UInt64
    }

    private struct Shard {
        var open: [UInt64: Entry] = [:]
        var idle: [UInt64: Idle] = [:]
        var clock: UInt64 = 0
    }

    private let shards = (0..<OpenTable.shardCount).map { _ in Monitor(Shard()) }

    private func shard(_ node: UInt64) -> Monitor<Shard> { shards[Int(node % UInt64(Self.shardCount))] }

    /// Counts one more open of an inode.
    ///
    /// - Parameter decide: asked, with the shard's lock held so that two first opens agree, when nothing has the inode open:
    ///   gets the backing ID that is still registered, if there is one. nil: the open is not to be counted now.
    /// - Returns: how this open is served, or nil.
    func open(_ node: UInt64, decide: (BackingID?) throws -> Mode?) rethrows -> Mode? {
        try shard(node).withLock { shard in
            if let entry = shard.open[node] {
                shard.open[node]?.count += 1
                return entry.mode
            }
            guard let mode = try decide(shard.idle[node]?.backing) else { return nil }
            shard.open[node] = Entry(mode: mode, count: 1)
            shard.idle[node] = nil
            return mode
        }
    }

    /// Counts one open less.
    func release(_ node: UInt64) {
        // Dropped behind the lock: the last reference to a backing ID is an ioctl.
        let evicted = shard(node).withLock { shard -> [Idle] in
            guard let entry = shard.open[node] else { return [] }
            guard entry.count == 1 else {
                shard.open[node]?.count -= 1
                return []
            }
            shard.open[node] = nil
            guard case .passthrough(let backing) = entry.mode else { return [] }
            shard.clock += 1
            shard.idle[node] = Idle(backing: backing, released: shard.clock)
            guard shard.idle.count > Self.idleLimit / Self.shardCount else { return [] }
            return Self.evict(&shard, keeping: shard.idle.count * 3 / 4)
        }
        withExtendedLifetime(evicted) {}
    }

    /// Gives up all backing IDs that nothing has open: file descriptors are short.
    func releaseIdle() {
        for shard in shards {
            let evicted = shard.withLock { shard in Self.evict(&shard, keeping: 0) }
            withExtendedLifetime(evicted) {}
        }
    }

    func removeAll() {
        for shard in shards { shard.withLock { $0 = Shard() } }
    }

    /// How many backing files the kernel has.
    var backingCount: Int {
        shards.reduce(0) { sum, shard in
            sum
                + shard.withLock { shard in
                    shard.idle.count
                        + shard.open.values.count { entry in if case .passthrough = entry.mode { true } else { false } }
                }
        }
    }

    private static func evict(_ shard: inout Shard, keeping limit: Int) -> [Idle] {
        let oldest = shard.idle.sorted { $0.value.released < $1.value.released }.prefix(
            max(0, shard.idle.count - limit))
        for (node, _) in oldest { shard.idle[node] = nil }
        return oldest.map(\.value)
    }
}
