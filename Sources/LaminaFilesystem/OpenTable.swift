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
        /// Whose file it is; nil where another process registered it.
        var content: ContentID?
    }

    struct Entry {
        /// nil: cached.
        var backing: Backing?
        var count: Int
        /// What is open; nil where another process opened it.
        var content: ContentID?

        var mode: Mode { backing.map { .passthrough($0.id) } ?? .cached }
    }

    struct Idle {
        var backing: Backing
        var released: UInt64
    }

    struct Shard {
        var open: [UInt64: Entry] = [:]
        var idle: [UInt64: Idle] = [:]
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
            if let entry = shard.open[node] {
                // One that was answered by a process that did not live to see it through is counted already.
                if request.isResent, let handle = record.findOpen(index, unique: request.unique) {
                    return Open(mode: entry.mode, handle: handle)
                }
                return try add(&shard, index, node, content, request, entry.backing)
            }
            let idle = shard.idle[node]?.backing
            switch try decide(idle?.id) {
            case nil: return nil
            case .cached?:
                if let idle {
                    record.closeBacking(index, idle.slot)
                    shard.idle[node] = nil
                    evicted = [idle]
                }
                return try add(&shard, index, node, content, request, nil)
            case .passthrough(let id)?:
                if let idle, idle.id === id {
                    shard.idle[node] = nil
                    return try add(&shard, index, node, content, request, idle)
                }
                guard let slot = record.addBacking(index, node: node, value: id.value) else { throw Self.isFull }
                return try add(
                    &shard, index, node, content, request, Backing(id: id, slot: slot, content: content))
            }
        }
    }

    /// Counts one more open of an inode whose backing file the kernel has: whoever asked for the first one made sure of its
    /// bytes, and nobody has to look into the index again.
    ///
    /// - Returns: nil where it takes a decision.
    /// - Throws: ENFILE when more is open than can be recorded.
    func again(_ node: UInt64, _ request: Request) throws -> (open: Open, content: ContentID)? {
        let index = index(node)
        return try shards[index].withLock { shard in
            if let entry = shard.open[node] {
                guard let backing = entry.backing, let content = entry.content, !request.isResent else { return nil }
                return (try add(&shard, index, node, content, request, backing), content)
            }
            guard let idle = shard.idle[node]?.backing, let content = idle.content else { return nil }
            shard.idle[node] = nil
            return (try add(&shard, index, node, content, request, idle), content)
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
            if let backing, shard.open[node] == nil { Self.keep(backing, node, &shard) }
            throw Self.isFull
        }
        let count = shard.open[node]?.count ?? 0
        let entry = Entry(backing: backing, count: count + 1, content: content)
        shard.open[node] = entry
        return Open(mode: entry.mode, handle: handle)
    }

    private static func keep(_ backing: Backing, _ node: UInt64, _ shard: inout Shard) {
        shard.clock += 1
        shard.idle[node] = Idle(backing: backing, released: shard.clock)
    }

    /// Counts one open less; for a handle that was released before, or counts nothing (0), it does nothing.
    func release(_ node: UInt64, _ handle: UInt64) {
        guard handle != 0 else { return }
        let index = index(node)
        let evicted = shards[index].withLock { shard -> [Backing] in
            guard record.removeOpen(index, handle: handle), let entry = shard.open[node] else { return [] }
            guard entry.count == 1 else {
                shard.open[node]?.count -= 1
                return []
            }
            shard.open[node] = nil
            guard let backing = entry.backing else { return [] }
            Self.keep(backing, node, &shard)
            guard shard.idle.count > Self.idleLimit / Self.shardCount else { return [] }
            return evict(&shard, index, keeping: shard.idle.count * 3 / 4)
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
            sum + shard.withLock { shard in shard.idle.count + shard.open.values.count { $0.backing != nil } }
        }
    }

    private func evict(_ shard: inout Shard, _ index: Int, keeping limit: Int) -> [Backing] {
        let oldest = shard.idle.sorted { $0.value.released < $1.value.released }.prefix(
            max(0, shard.idle.count - limit))
        for (node, idle) in oldest {
            record.closeBacking(index, idle.backing.slot)
            shard.idle[node] = nil
        }
        return oldest.map(\.value.backing)
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
