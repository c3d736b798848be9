import Glibc
import LaminaFUSE
import LaminaStore
import LaminaSystem
import Synchronization

/// What is open, inode by inode, and the backing files that the kernel has.
///
/// The kernel allows one way at a time: while an inode has a cached open, passthrough fails with EIO; while it has a
/// passthrough open, everything except the same backing ID fails. So the first open decides for all others until the last is
/// released. After that, backing IDs are kept, because registering one is most of the cost of an open; the least recently used
/// is given up first.
///
/// A shard's lock is held only to look up and to write down, never during work on a file, the kernel or the index. An open that
/// first has to look at a file leaves a *pending* entry (`open` answers `.decide`), looks without any lock, and records the
/// result with `settle`. Another open of the same inode waits in the entry meanwhile (`join`); opens of other inodes never see
/// it.
///
/// All of this is in the session's record before the kernel is told: `OpenTable+Resume.swift` reads it back.
final class OpenTable: Sendable {
    /// How the opens of an inode are served now.
    enum Mode {
        case cached
        case passthrough(BackingID)
    }

    /// A counted open: how it is served, and the handle that its release will have.
    struct Open {
        var mode: Mode
        var handle: UInt64
    }

    /// The request of the open, as the kernel names it.
    struct Request {
        var unique: UInt64
        var isResent: Bool
    }

    /// What is known of the bytes of an inode that is being opened.
    enum Bytes {
        /// All are there: a look at the file decides whether the kernel may have it, if the kernel takes files at all.
        case merged
        /// Not all are there; the open may be answered at once.
        case missing
        /// Not all are there, and the open waits for them.
        case awaited
    }

    /// What to do with an open.
    enum Step {
        /// It is counted.
        case served(Open)
        /// The caller looks at the file, and then calls `settle`, whatever it finds.
        case decide
        /// Another open looks at the file: `join` tells when it has finished.
        case pending
        /// The bytes have to be merged first.
        case merge
    }

    /// Called when another open's look at a file is over: the caller then opens, or fails.
    typealias Joined = @Sendable (Result<Void, any Error>, IndexReader) -> Void

    /// How many backing IDs are kept for inodes that are not open; each holds a file open in the kernel (about 2 KiB). It is as
    /// many as a large image has small files: if an image had one more than that, reading all its files again and again would
    /// find none.
    private static let idleLimit = 65536
    static let shardCount = SessionRecord.shardCount

    /// A backing file of the kernel and its place in the record.
    struct Backing {
        var id: BackingID
        var slot: Int
    }

    /// An inode that is open (`count` above 0), or whose backing file is kept or being looked at (`count` 0).
    struct Entry {
        /// nil: cached.
        var backing: Backing?
        var count: Int
        /// The content of the inode; nil if another process opened it.
        var content: ContentID?
        /// When the last open ended, by the shard's clock.
        var released: UInt64 = 0
        /// Where the opens beyond the first ones are counted.
        var counter: UInt64?
        /// The opens that wait for the running look at the file; nil: no look is running.
        var joined: [Joined]?

        var mode: Mode { backing.map { .passthrough($0.id) } ?? .cached }
        /// It is not open, and no open of it is running.
        var isIdle: Bool { count == 0 && joined == nil }
    }

    struct Shard {
        var entries: [UInt64: Entry] = [:]
        /// Entries that are not open.
        var idleCount = 0
        var clock: UInt64 = 0
    }

    let record: SessionRecord
    let shards = (0..<OpenTable.shardCount).map { _ in Monitor(Shard()) }
    /// Gives registrations up, because each is an ioctl that may wait.
    private let later: Errands

    init(record: SessionRecord, later: Errands) {
        self.record = record
        self.later = later
    }

    private func index(_ node: UInt64) -> Int { Int(node % UInt64(Self.shardCount)) }

    // MARK: Opening

    /// Counts one more open of an inode, or says what has to be done first.
    ///
    /// - Throws: ENFILE when more is open than can be recorded.
    func open(_ node: UInt64, _ content: ContentID, _ request: Request, _ bytes: Bytes) throws -> Step {
        let index = index(node)
        var evicted: [Backing] = []
        defer { giveUpLater(evicted, index) }
        return try shards[index].withLock { shard in
            let entry = shard.entries[node]
            if let entry, entry.count > 0 {
                // If the process that answered it died too early, it is counted already.
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
            case .missing:
                return .served(try add(&shard, index, node, content, request, nil))
            case .awaited:
                return .merge
            }
        }
    }

    /// Waits for another open's look at an inode's file; false if the look is over, and then `joined` is not called.
    func join(_ node: UInt64, _ joined: @escaping Joined) -> Bool {
        shards[index(node)].withLock { shard in
            // Appended in place: the array must have no other reference, or it would be copied.
            guard let place = shard.entries.index(forKey: node), shard.entries.values[place].joined != nil
            else { return false }
            shard.entries.values[place].joined?.append(joined)
            return true
        }
    }

    /// Ends the look at an inode's file, and counts the open that it was taken for.
    ///
    /// - Parameter request: nil: no caller waits for that open any more.
    /// - Returns: the open, if there is one; and the closures that waited for the look: call them in their order, once the open
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

    /// Ends a look at an inode's file that failed.
    ///
    /// - Returns: the closures that waited for it.
    func abandon(_ node: UInt64) -> [Joined] {
        shards[index(node)].withLock { $0.entries.removeValue(forKey: node)?.joined ?? [] }
    }

    /// Counts one more open of an inode whose backing file the kernel has. The first open made sure of its bytes, so the index
    /// need not be asked again.
    ///
    /// - Returns: nil if a decision is needed.
    /// - Throws: ENFILE when more is open than can be recorded.
    func again(_ node: UInt64, _ request: Request) throws -> (backing: BackingID, handle: UInt64, content: ContentID)? {
        let index = index(node)
        return try shards[index].withLock { shard in
            guard let place = shard.entries.index(forKey: node) else { return nil }
            let entry = shard.entries.values[place]
            // What another process opened has to be looked up, and whether this request was among it.
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

    /// Records an open: by itself, or, if the inode has many, by counting it.
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

    /// Keeps the backing file of an inode that is not open.
    static func keep(_ backing: Backing, _ node: UInt64, _ content: ContentID?, _ shard: inout Shard) {
        shard.clock += 1
        shard.entries[node] = Entry(backing: backing, count: 0, content: content, released: shard.clock)
        shard.idleCount += 1
    }

    // MARK: Releasing

    /// Counts one open less. For a handle that was released before, or that counts nothing (0), it does nothing.
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

    /// Gives up the backing IDs of all inodes that are not open, because file descriptors are short. Takes some microseconds
    /// for each.
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

    /// Takes out inodes that are not open; the caller gives up their backing files.
    func take(_ nodes: [UInt64], _ shard: inout Shard, _ index: Int) -> [Backing] {
        shard.idleCount -= nodes.count
        return nodes.compactMap { node in
            guard let backing = shard.entries.removeValue(forKey: node)?.backing else { return nil }
            record.closeBacking(index, backing.slot)
            return backing
        }
    }

    /// Ends registrations, outside the lock, because each is an ioctl. They are forgotten only afterwards, so that a process
    /// that is killed in between leaves them recorded.
    func giveUp(_ evicted: [Backing], _ index: Int) {
        guard !evicted.isEmpty else { return }
        let slots = evicted.map(\.slot)
        for backing in evicted { backing.id.unregister() }
        shards[index].withLock { _ in for slot in slots { record.removeBacking(index, slot) } }
    }

    /// The same, for callers that may not wait for it.
    private func giveUpLater(_ evicted: [Backing], _ index: Int) {
        guard !evicted.isEmpty else { return }
        later.run { [self] in giveUp(evicted, index) }
    }
}
