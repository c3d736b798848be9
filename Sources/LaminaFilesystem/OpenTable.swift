import Glibc
import LaminaFUSE
import LaminaStore
import LaminaSystem
import Synchronization

/// What is open, inode by inode, and the backing files that the kernel has.
///
/// The kernel allows one way at a time: while an inode has a cached open, passthrough fails with EIO, and while it has a
/// passthrough open, everything but the same backing ID does. So the first open decides for all until the last is released.
/// Backing IDs are kept after that, the least recently used go first: registering one is most of what an open costs.
///
/// All of it is in the session's record too, before the kernel hears of it: `OpenTable+Resume.swift` reads it back.
final class OpenTable: Sendable {
    /// How the opens of an inode are served now.
    enum Mode {
        case cached
        case passthrough(BackingID)
    }

    /// A counted open: how it is served, and what its release will come with.
    struct Open {
        var mode: Mode
        var handle: UInt64
    }

    /// The request that opens, as the kernel names it.
    struct Request {
        var unique: UInt64
        var isResent: Bool
    }

    /// Backing IDs kept for inodes that nothing has open; each holds a file open in the kernel (about 2 KiB). As many as a
    /// large image has small files: of one more than is kept, reading all of them again and again would find none.
    private static let idleLimit = 65536
    static let shardCount = SessionRecord.shardCount

    /// A backing file of the kernel and its place in the record.
    struct Backing {
        var id: BackingID
        var slot: Int
    }

    /// An inode that is open, or whose backing file is kept: then `count` is 0.
    struct Entry {
        /// nil: cached.
        var backing: Backing?
        var count: Int
        /// Whose bytes the inode has; nil where another process opened it.
        var content: ContentID?
        /// When the last open ended, by the shard's clock.
        var released: UInt64 = 0

        var mode: Mode { backing.map { .passthrough($0.id) } ?? .cached }
    }

    struct Shard {
        var entries: [UInt64: Entry] = [:]
        /// Entries that nothing has open.
        var idleCount = 0
        var clock: UInt64 = 0
    }

    let record: SessionRecord
    let shards = (0..<OpenTable.shardCount).map { _ in Monitor(Shard()) }

    init(record: SessionRecord) { self.record = record }

    private func index(_ node: UInt64) -> Int { Int(node % UInt64(Self.shardCount)) }

    /// Counts one more open of an inode.
    ///
    /// - Parameter decide: asked, with the shard's lock held so that two first opens agree, when nothing has the inode open:
    ///   gets the backing ID that is still registered, if there is one. nil: the open is not to be counted now.
    /// - Returns: how this open is served, or nil.
    /// - Throws: what `decide` throws; ENFILE when more is open than can be recorded.
    func open(
        _ node: UInt64, _ content: ContentID, _ request: Request, decide: (BackingID?) throws -> Mode?
    ) throws -> Open? {
        let index = index(node)
        var evicted: [Backing] = []
        defer { giveUp(evicted, index) }
        return try shards[index].withLock { shard in
            let entry = shard.entries[node]
            if let entry, entry.count > 0 {
                // One that was answered by a process that did not live to see it through is counted already.
                if request.isResent, let handle = record.findOpen(index, unique: request.unique) {
                    return Open(mode: entry.mode, handle: handle)
                }
                return try add(&shard, index, node, content, request, entry.backing)
            }
            guard let mode = try decide(entry?.backing?.id) else { return nil }
            if let idle = entry?.backing {
                if case .passthrough(let id) = mode, id === idle.id {
                    return try add(&shard, index, node, content, request, idle)
                }
                evicted = take([node], &shard, index)
            }
            guard case .passthrough(let id) = mode else {
                return try add(&shard, index, node, content, request, nil)
            }
            guard let slot = record.addBacking(index, node: node, value: id.value) else { throw Self.isFull }
            return try add(&shard, index, node, content, request, Backing(id: id, slot: slot))
        }
    }

    /// Counts one more open of an inode whose backing file the kernel has: whoever asked for the first one made sure of its
    /// bytes, and nobody has to look into the index again.
    ///
    /// - Returns: nil where it takes a decision.
    /// - Throws: ENFILE when more is open than can be recorded.
    func again(_ node: UInt64, _ request: Request) throws -> (backing: BackingID, handle: UInt64, content: ContentID)? {
        let index = index(node)
        return try shards[index].withLock { shard in
            guard let place = shard.entries.index(forKey: node) else { return nil }
            let entry = shard.entries.values[place]
            // What another process opened, and whether this request did, has to be looked up.
            guard let backing = entry.backing, let content = entry.content, entry.count == 0 || !request.isResent
            else { return nil }
            let handle = record.addOpen(index, unique: request.unique, node: node, backing: backing.id.value)
            guard let handle else { throw Self.isFull }
            if entry.count == 0 { shard.idleCount -= 1 }
            shard.entries.values[place].count += 1
            return (backing.id, handle, content)
        }
    }

    private static var isFull: SystemError {
        SystemError(code: ENFILE, operation: "record an open of", subject: "the mount")
    }

    private func add(
        _ shard: inout Shard, _ index: Int, _ node: UInt64, _ content: ContentID, _ request: Request,
        _ backing: Backing?
    ) throws -> Open {
        let handle = record.addOpen(index, unique: request.unique, node: node, backing: backing?.id.value)
        guard let handle else {
            if let backing, shard.entries[node] == nil { Self.keep(backing, node, content, &shard) }
            throw Self.isFull
        }
        let count = shard.entries[node]?.count
        if count == 0 { shard.idleCount -= 1 }
        let entry = Entry(backing: backing, count: (count ?? 0) + 1, content: content)
        shard.entries[node] = entry
        return Open(mode: entry.mode, handle: handle)
    }

    /// Keeps a backing file that nothing has open.
    static func keep(_ backing: Backing, _ node: UInt64, _ content: ContentID?, _ shard: inout Shard) {
        shard.clock += 1
        shard.entries[node] = Entry(backing: backing, count: 0, content: content, released: shard.clock)
        shard.idleCount += 1
    }

    /// Counts one open less; for a handle that was released before, or counts nothing (0), it does nothing.
    func release(_ node: UInt64, _ handle: UInt64) {
        guard handle != 0 else { return }
        let index = index(node)
        let evicted = shards[index].withLock { shard -> [Backing] in
            guard record.removeOpen(index, handle: handle), let place = shard.entries.index(forKey: node),
                shard.entries.values[place].count > 0
            else { return [] }
            shard.entries.values[place].count -= 1
            guard shard.entries.values[place].count == 0 else { return [] }
            guard shard.entries.values[place].backing != nil else {
                shard.entries.remove(at: place)
                return []
            }
            shard.clock += 1
            shard.entries.values[place].released = shard.clock
            shard.idleCount += 1
            guard shard.idleCount > Self.idleLimit / Self.shardCount else { return [] }
            return evict(&shard, index, keeping: shard.idleCount * 3 / 4)
        }
        giveUp(evicted, index)
    }

    /// Gives up all backing IDs that nothing has open: file descriptors are short.
    func releaseIdle() {
        for index in 0..<Self.shardCount {
            let evicted = shards[index].withLock { shard in evict(&shard, index, keeping: 0) }
            giveUp(evicted, index)
        }
    }

    func removeAll() {
        for shard in shards { shard.withLock { $0 = Shard() } }
    }

    /// How many backing files the kernel has.
    var backingCount: Int {
        shards.reduce(0) { sum, shard in
            sum + shard.withLock { shard in shard.entries.values.count { $0.backing != nil } }
        }
    }

    private func evict(_ shard: inout Shard, _ index: Int, keeping limit: Int) -> [Backing] {
        let idle = shard.entries.filter { $0.value.count == 0 }
        let oldest = idle.sorted { $0.value.released < $1.value.released }.prefix(max(0, idle.count - limit))
        return take(oldest.map(\.key), &shard, index)
    }

    /// Takes out inodes that nothing has open; their backing files are to be given up.
    func take(_ nodes: [UInt64], _ shard: inout Shard, _ index: Int) -> [Backing] {
        shard.idleCount -= nodes.count
        return nodes.compactMap { node in
            guard let backing = shard.entries.removeValue(forKey: node)?.backing else { return nil }
            record.closeBacking(index, backing.slot)
            return backing
        }
    }

    /// Ends registrations, behind the lock, as each is an ioctl; forgotten only then, so that a process that is killed in
    /// between leaves word of them.
    func giveUp(_ evicted: [Backing], _ index: Int) {
        guard !evicted.isEmpty else { return }
        let slots = evicted.map(\.slot)
        for backing in evicted { backing.id.unregister() }
        shards[index].withLock { _ in for slot in slots { record.removeBacking(index, slot) } }
    }
}
