import Glibc
public import LaminaSystem

/// What the next process must know of a connection when this one is killed: which inodes are open in which way, and which
/// backing files the kernel has. It is in shared memory that lives as long as the connection, because the same process holds
/// both.
///
/// It is kept in shards. The caller has a lock for each, and holds it while it reads or changes the shard; nothing here locks.
///
/// Every change is one word that is written last (or, to delete, first), so a process may be killed between any two
/// instructions: what was not finished does not exist. The record need not survive a power cut, which ends the connection too.
public final class SessionRecord: @unchecked Sendable {
    // @unchecked: each shard is used with a lock held, as said above; which shard has what is fixed at the start.
    public static let shardCount = 16
    /// Opens, and backing files, of one shard: a million of each in all. Memory is taken only when they are used.
    public static let shardCapacity = 1 << 16
    /// Version 1 of the layout, all in words of 64 bits: magic, version; from word 8 on for each shard the used lengths
    /// of its tables and its highest backing ID; then the shards' opens (unique, node, backing), then their backing
    /// files (node, ID).
    private static let version: UInt64 = 1
    private static let magic: UInt64 = 0x6c61_6d69_6e61_6f70
    private static let shardWords = 4
    private static let opensStart = 512
    private static let openWords = 3
    private static let backingsStart = opensStart + shardCount * shardCapacity * openWords
    private static let backingWords = 2
    private static let wordCount = backingsStart + shardCount * shardCapacity * backingWords
    /// In a backing file's ID: it is being given up.
    private static let closing: UInt64 = 1 << 63
    /// In an open's unique ID, in which the kernel never uses this bit: the place stands for several opens. Their number is the
    /// upper half of the word with the backing ID. A program that does not know the bit takes it for one open.
    private static let counting: UInt64 = 1 << 62
    /// Opens of one inode that are recorded one by one. Further opens are counted in one place, so that a reader that opens one
    /// file again and again takes no places from other files.
    public static let singleOpens = 64
    /// Counted opens are not known one by one. A process that is killed may have counted some that the kernel sends again, or
    /// missed some. So the next process takes their number for higher by as many as there are threads at most. If the number is
    /// too high, a file is kept longer than needed; if it is too low, a file that is open would be opened in another way, which
    /// the kernel refuses.
    private static let countingSlack: UInt64 = 32

    /// An open file.
    public struct Open: Sendable, Equatable {
        /// The handle that the kernel sends with RELEASE.
        public var handle: UInt64
        public var node: UInt64
        /// The backing ID of a passthrough open; nil for a cached one.
        public var backing: Int32?
        /// How many opens it stands for; nil: one.
        public var count: Int?

        public init(handle: UInt64, node: UInt64, backing: Int32?, count: Int? = nil) {
            self.handle = handle
            self.node = node
            self.backing = backing
            self.count = count
        }
    }

    /// A registered backing file.
    public struct Backing: Sendable, Equatable {
        public var slot: Int
        public var node: UInt64
        public var value: Int32
        /// Whether it was being given up when its process ended; it may or may not be registered.
        public var isClosing: Bool

        public init(slot: Int, node: UInt64, value: Int32, isClosing: Bool) {
            self.slot = slot
            self.node = node
            self.value = value
            self.isClosing = isClosing
        }
    }

    private let memory: SharedMemory
    // Free slots below the used lengths, by shard.
    private var freeOpens: [[Int]]
    private var freeBackings: [[Int]]

    /// The memory, to be held and passed on.
    public var file: File { memory.file }

    /// An empty record.
    public init() throws(SystemError) {
        memory = try SharedMemory(name: "lamina-session", wordCount: Self.wordCount)
        memory[0] = Self.magic
        memory[1] = Self.version
        freeOpens = Array(repeating: [], count: Self.shardCount)
        freeBackings = freeOpens
    }

    /// The record of a process that is dead.
    ///
    /// - Throws: EINVAL if it is not a record, or of a version that this program does not know.
    public init(adopting file: File) throws(SystemError) {
        memory = try SharedMemory(mapping: file, wordCount: Self.wordCount)
        freeOpens = Array(repeating: [], count: Self.shardCount)
        freeBackings = freeOpens
        let invalid = SystemError(code: EINVAL, operation: "read the record of opens in", subject: file.path)
        guard memory[0] == Self.magic, memory[1] == Self.version else { throw invalid }
        for shard in 0..<Self.shardCount {
            let (opens, backings) = (used(.opens, shard), used(.backings, shard))
            guard opens <= Self.shardCapacity, backings <= Self.shardCapacity else { throw invalid }
            // From the last to the first, so that the first is used first: few pages are touched.
            freeOpens[shard] = (0..<opens).reversed().filter { memory[Self.openWord(shard, $0)] == 0 }
            freeBackings[shard] = (0..<backings).reversed().filter { memory[Self.backingWord(shard, $0)] == 0 }
            for word in (0..<opens).map({ Self.openWord(shard, $0) }) where memory[word] & Self.counting != 0 {
                memory[word + 2] &+= Self.countingSlack << 32
            }
        }
    }

    // MARK: Opens

    /// Records an open before it is answered; nil when the shard is full. The handle is never 0.
    public func addOpen(_ shard: Int, unique: UInt64, node: UInt64, backing: Int32?) -> UInt64? {
        add(shard, unique, unique, node, UInt64(backing ?? 0))
    }

    /// Records an open in a place that counts them, to which others can be added with `countOpen`; nil when the shard is full.
    public func addCounter(_ shard: Int, unique: UInt64, node: UInt64, backing: Int32?) -> UInt64? {
        add(shard, unique, unique | Self.counting, node, UInt64(backing ?? 0) | 1 << 32)
    }

    /// Counts one more open in such a place; false if the place is gone.
    public func countOpen(_ shard: Int, handle: UInt64) -> Bool {
        guard let word = word(shard, handle), memory[word] & Self.counting != 0 else { return false }
        memory[word + 2] &+= 1 << 32
        return true
    }

    private func add(_ shard: Int, _ unique: UInt64, _ mark: UInt64, _ node: UInt64, _ rest: UInt64) -> UInt64? {
        let slot: Int
        if let free = freeOpens[shard].popLast() {
            slot = free
        } else {
            slot = used(.opens, shard)
            guard slot < Self.shardCapacity else { return nil }
            setUsed(.opens, shard, slot + 1)
        }
        let word = Self.openWord(shard, slot)
        memory[word + 1] = node
        memory[word + 2] = rest
        memory[word] = mark
        return Self.handle(shard, slot, unique)
    }

    /// Where an open is recorded; nil if it was forgotten.
    private func word(_ shard: Int, _ handle: UInt64) -> Int? {
        let place = Int(handle & Self.placeMask)
        let slot = place % Self.shardCapacity
        guard place / Self.shardCapacity == shard, slot < used(.opens, shard) else { return nil }
        let word = Self.openWord(shard, slot)
        // Another open may have the slot by now.
        let unique = memory[word]
        guard unique != 0, Self.handle(shard, slot, unique & ~Self.counting) == handle else { return nil }
        return word
    }

    /// Forgets an open; false if it was forgotten before.
    public func removeOpen(_ shard: Int, handle: UInt64) -> Bool {
        guard let word = word(shard, handle) else { return false }
        if memory[word] & Self.counting != 0, memory[word + 2] >> 32 > 1 {
            memory[word + 2] &-= 1 << 32
            return true
        }
        memory[word] = 0
        freeOpens[shard].append(Int(handle & Self.placeMask) % Self.shardCapacity)
        return true
    }

    /// All opens of a shard.
    public func opens(_ shard: Int) -> [Open] {
        (0..<used(.opens, shard)).compactMap { slot in
            let word = Self.openWord(shard, slot)
            let unique = memory[word]
            guard unique != 0 else { return nil }
            let backing = Int32(truncatingIfNeeded: memory[word + 2])
            return Open(
                handle: Self.handle(shard, slot, unique & ~Self.counting), node: memory[word + 1],
                backing: backing > 0 ? backing : nil,
                count: unique & Self.counting == 0 ? nil : Int(memory[word + 2] >> 32))
        }
    }

    /// The open that a request is recorded as, if it is: a request that is sent again may be. Looks through the whole shard.
    public func findOpen(_ shard: Int, unique: UInt64) -> UInt64? {
        (0..<used(.opens, shard)).first { memory[Self.openWord(shard, $0)] == unique }
            .map { Self.handle(shard, $0, unique) }
    }

    // MARK: Backing files

    /// Records a registration; nil when the shard is full.
    public func addBacking(_ shard: Int, node: UInt64, value: Int32) -> Int? {
        let slot: Int
        if let free = freeBackings[shard].popLast() {
            slot = free
        } else {
            slot = used(.backings, shard)
            guard slot < Self.shardCapacity else { return nil }
            setUsed(.backings, shard, slot + 1)
        }
        let word = Self.backingWord(shard, slot)
        memory[word + 1] = UInt64(value)
        memory[word] = node
        if UInt64(value) > memory[Self.header(shard) + 2] { memory[Self.header(shard) + 2] = UInt64(value) }
        return slot
    }

    /// Records that a registration is about to be given up: from now on no open may be answered with it.
    public func closeBacking(_ shard: Int, _ slot: Int) {
        let word = Self.backingWord(shard, slot)
        memory[word + 1] |= Self.closing
    }

    /// Forgets a registration that was given up.
    public func removeBacking(_ shard: Int, _ slot: Int) {
        memory[Self.backingWord(shard, slot)] = 0
        freeBackings[shard].append(slot)
    }

    /// All registrations of a shard.
    public func backings(_ shard: Int) -> [Backing] {
        (0..<used(.backings, shard)).compactMap { slot in
            let word = Self.backingWord(shard, slot)
            let (node, value) = (memory[word], memory[word + 1])
            guard node != 0 else { return nil }
            return Backing(
                slot: slot, node: node, value: Int32(truncatingIfNeeded: value), isClosing: value & Self.closing != 0)
        }
    }

    /// The highest backing ID that was recorded. The kernel gives them in ascending order.
    public var highestBacking: Int32 {
        Int32(truncatingIfNeeded: (0..<Self.shardCount).reduce(0) { max($0, memory[Self.header($1) + 2]) })
    }

    /// Records that all IDs up to this one are accounted for.
    public func setHighestBacking(_ value: Int32) { memory[Self.header(0) + 2] = UInt64(max(0, value)) }

    // MARK: Layout

    private enum Table: Int { case opens, backings }

    private func used(_ table: Table, _ shard: Int) -> Int {
        Int(clamping: memory[Self.header(shard) + table.rawValue])
    }

    private func setUsed(_ table: Table, _ shard: Int, _ count: Int) {
        memory[Self.header(shard) + table.rawValue] = UInt64(count)
    }

    private static func header(_ shard: Int) -> Int { 8 + shard * shardWords }

    private static func openWord(_ shard: Int, _ slot: Int) -> Int {
        opensStart + (shard * shardCapacity + slot) * openWords
    }

    private static func backingWord(_ shard: Int, _ slot: Int) -> Int {
        backingsStart + (shard * shardCapacity + slot) * backingWords
    }

    // A handle is a place and, above it, the low bits of the request's unique ID, which distinguish one open in a place from
    // the next.
    private static let placeMask = UInt64(shardCount * shardCapacity - 1)

    private static func handle(_ shard: Int, _ slot: Int, _ unique: UInt64) -> UInt64 {
        unique &* (placeMask + 1) | UInt64(shard * shardCapacity + slot)
    }
}
