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
/// A shard's lock is held to look and to write down, never for anything that goes to a file, to the kernel or to the index. Who has
/// to look at a file first leaves a *pending* entry there (`open` answers `.decide`), finds out what is so without any lock,
/// and says it with `settle`. Who opens the same inode meanwhile waits in the entry (`join`); opens of others never see it.
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

    /// What is known of the bytes of an inode that is to be opened.
    enum Bytes {
        /// All are there: the kernel may have the file, if a look at it says so.
        case merged
        /// All are there, but the kernel is not to have files.
        case mergedForUs
        /// Not all are there; the open may be answered at once.
        case missing
        /// Not all are there, and the open waits for them.
        case awaited
    }

    /// What is to be done with an open.
    enum Step {
        /// It is counted.
        case served(Open)
        /// The caller looks at the file, and then calls `settle`, whatever it finds.
        case decide
        /// Somebody looks at the file: `join` tells when they have done.
        case pending
        /// The bytes have to be merged first.
        case merge
    }

    /// Called when the look at a file is over, which somebody else took: then it is the caller's turn to open, or to fail.
    typealias Joined = @Sendable (Result<Void, any Error>, IndexReader) -> Void

    /// Backing IDs kept for inodes that nothing has open; each holds a file open in the kernel (about 2 KiB). As many as a
    /// large image has small files: of one more than is kept, reading all of them again and again would find none.
    private static let idleLimit = 65536
    static let shardCount = SessionRecord.shardCount

    /// A backing file of the kernel and its place in the record.
    struct Backing {
        var id: BackingID
        var slot: Int
    }

    /// An inode that is open, or whose backing file is kept or looked at: then `count` is 0.
    struct Entry {
        /// nil: cached.
        var backing: Backing?
        var count: Int
        /// Whose bytes the inode has; nil where another process opened it.
        var content: ContentID?
        /// When the last open ended, by the shard's clock.
        var released: UInt64 = 0
        /// Where the opens beyond the first ones are counted.
        var counter: UInt64?
        /// Who waits for the look at the file that is under way; nil: none is.
        var joined: [Joined]?

        var mode: Mode { backing.map { .passthrough($0.id) } ?? .cached }
        /// Nothing has it open, and nothing is about to.
        var isIdle: Bool { count == 0 && joined == nil }
    }

    struct Shard {
        var entries: [UInt64: Entry] = [:]
        /// Entries that nothing has open.
        var idleCount = 0
        var clock: UInt64 = 0
    }

    let record: SessionRecord
    let shards = (0..<OpenTable.shardCount).map { _ in Monitor(Shard()) }
    /// Gives registrations up: each is an ioctl that may wait.
    private let later: Errands

    init(record: SessionRecord, later: Errands) {
        self.record = record
        self.later = later
    }

    private func index(_ node: UInt64) -> Int { Int(node % UInt64(Self.shardCount)) }

    // MARK: Opening

    /// Counts one more open of an inode, or says what comes before.
    ///
    /// - Throws: ENFILE when more is open than can be recorded.
    func open(_ node: UInt64, _ content: ContentID, _ request: Request, _ bytes: Bytes) throws -> Step {
        let index = index(node)
        var evicted: [Backing] = []
        defer { giveUpLater(evicted, index) }
        return try shards[index].withLock { shard in
            let entry = shard.entries[node]
            if let entry, entry.count > 0 {
                // One that was answered by a process that did not live to see it through is counted already.
                if request.isResent, let handle = record.findOpen(index, unique: request.unique) {
                    return .served(Open(mode: entry.mode, handle: handle))
                }
                return .served(try add(&shard, index, node, content, request, entry.backing))
            }
            if entry?.joined != nil { return .pending }
            if let idle = entry?.backing {
                if case .merged = bytes { return .served(try add(&shard, index, node, content, request, idle)) }
                evicted = take([node], &shard, index)
            }
            switch bytes {
            case .merged:
                shard.entries[node] = Entry(backing: nil, count: 0, content: content, joined: [])
                return .decide
            case .mergedForUs, .missing:
                return .served(try add(&shard, index, node, content, request, nil))
            case .awaited:
                return .merge
            }
        }
    }

    /// Waits for the look at an inode's file that somebody takes; false where it is over, and `joined` is not called.
    func join(_ node: UInt64, _ joined: @escaping Joined) -> Bool {
        shards[index(node)].withLock { shard in
            // Appended in place: nobody else may hold the array.
            guard let place = shard.entries.index(forKey: node), shard.entries.values[place].joined != nil
            else { return false }
            shard.entries.values[place].joined?.append(joined)
            return true
        }
    }

    /// Ends the look at an inode's file, and counts the open that it was taken for.
    ///
    /// - Parameter request: nil: nobody waits for that open any more.
    /// - Returns: the open, where there is one; and who waited for the look: they are to be called, in their order, once the open
    ///   is answered.
    func settle(
        _ node: UInt64, _ content: ContentID, _ request: Request?, _ mode: Mode
    ) -> (open: Result<Open?, any Error>, joined: [Joined]) {
        let index = index(node)
        var refused: BackingID?
        defer { if let refused { later.run { refused.unregister() } } }
        return shards[index].withLock { shard in
            let joined = shard.entries.removeValue(forKey: node)?.joined ?? []
            let open = Result { () throws -> Open? in
                var backing: Backing?
                if case .passthrough(let id) = mode {
                    guard let slot = record.addBacking(index, node: node, value: id.value) else {
                        refused = id
                        throw Self.isFull
                    }
                    backing = Backing(id: id, slot: slot)
                }
                if let request { return try add(&shard, index, node, content, request, backing) }
                if let backing { Self.keep(backing, node, content, &shard) }
                return nil
            }
            return (open, joined)
        }
    }

    /// Ends the look at an inode's file that could not be had.
    ///
    /// - Returns: who waited for it.
    func abandon(_ node: UInt64) -> [Joined] {
        shards[index(node)].withLock { $0.entries.removeValue(forKey: node)?.joined ?? [] }
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
            var counter = entry.counter
            let handle = note(index, node, request, backing, count: entry.count, counter: &counter)
            guard let handle else { throw Self.isFull }
            if entry.count == 0 { shard.idleCount -= 1 }
            shard.entries.values[place].count += 1
            shard.entries.values[place].counter = counter
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
        let known = shard.entries[node]
        var entry = Entry(backing: backing, count: (known?.count ?? 0) + 1, content: content, counter: known?.counter)
        guard let handle = note(index, node, request, backing, count: entry.count - 1, counter: &entry.counter) else {
            if let backing, known == nil { Self.keep(backing, node, content, &shard) }
            throw Self.isFull
        }
        if known?.count == 0 { shard.idleCount -= 1 }
        shard.entries[node] = entry
        return Open(mode: entry.mode, handle: handle)
    }

    /// Records an open: by itself, or, where the inode has many, by counting it.
    ///
    /// - Parameters:
    ///   - count: of those before it.
    ///   - counter: where they are counted, if they are.
    private func note(
        _ index: Int, _ node: UInt64, _ request: Request, _ backing: Backing?, count: Int, counter: inout UInt64?
    ) -> UInt64? {
        let backing = backing?.id.value
        guard count >= SessionRecord.singleOpens else {
            return record.addOpen(index, unique: request.unique, node: node, backing: backing)
        }
        if let counter, record.countOpen(index, handle: counter) { return counter }
        counter = record.addCounter(index, unique: request.unique, node: node, backing: backing)
        return counter
    }

    /// Keeps a backing file that nothing has open.
    static func keep(_ backing: Backing, _ node: UInt64, _ content: ContentID?, _ shard: inout Shard) {
        shard.clock += 1
        shard.entries[node] = Entry(backing: backing, count: 0, content: content, released: shard.clock)
        shard.idleCount += 1
    }

    // MARK: Releasing

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
        giveUpLater(evicted, index)
    }

    /// Gives up all backing IDs that nothing has open: file descriptors are short. Some microseconds for each.
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
        let idle = shard.entries.filter { $0.value.isIdle }
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

    /// The same, for who may not wait for it.
    private func giveUpLater(_ evicted: [Backing], _ index: Int) {
        guard !evicted.isEmpty else { return }
        later.run { [self] in giveUp(evicted, index) }
    }
}
