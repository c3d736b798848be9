import Glibc
import LaminaFUSE
import LaminaSystem
import Synchronization

/// A small tree in memory, with behaviours that a test can choose by file.
final class MemoryFilesystem: FUSEHandler {
    enum Content: Sendable {
        case directory
        case symlink([UInt8])
        /// Served in cached mode from memory.
        case bytes([UInt8])
        /// Served in cached mode from a file, spliced.
        case file(File)
        /// Given to the kernel.
        case passthrough(File)
        case parkedOpen
        case parkedRead(size: Int)
        /// Its look-up keeps the session's thread until the test lets it go on.
        case stuckLookup
        case droppedOpen
    }

    struct Node: Sendable {
        var attributes: FUSEAttributes
        var content: Content
        var xattrs: [(name: [UInt8], value: [UInt8])] = []
        /// Sorted by name, so that a lookup needs no memory.
        var entries: [(name: [UInt8], node: UInt64)] = []
        var parent: UInt64
    }

    struct Events: Sendable {
        var opens: [ParkedReply<OpenReply>] = []
        var reads: [ParkedReply<ReadReply>] = []
        var interrupts = 0
        var releases: [UInt64] = []
        var threads: Set<Int> = []
        var uniques: [UInt64] = []
        var reopens = 0
        var stuck = 0
        var goesOn = false
    }

    /// Index: node ID minus one.
    let nodes: [Node]
    let events = Monitor(Events())
    private let session = Mutex<FUSESession?>(nil)
    private let backings = Mutex<[UInt64: BackingID]>([:])
    let registrationError = Mutex<SystemError?>(nil)

    init(_ tree: Tree) { nodes = tree.sorted() }

    func attach(_ session: FUSESession?) { self.session.withLock { $0 = session } }

    private func node(_ id: UInt64) -> Node? { id >= 1 && id <= nodes.count ? nodes[Int(id) - 1] : nil }

    func lookup(parent: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming EntryReply) {
        guard parent >= 1, parent <= nodes.count else { return reply.error(ENOENT) }
        let found = nodes.withUnsafeBufferPointer { nodes -> UInt64? in
            nodes[Int(parent) - 1].entries.withUnsafeBufferPointer { entries in
                var low = 0
                var high = entries.count
                while low < high {
                    let middle = (low + high) / 2
                    let order = entries[middle].name.withUnsafeBytes { compare($0, name) }
                    if order == 0 { return entries[middle].node }
                    if order < 0 { low = middle + 1 } else { high = middle }
                }
                return nil
            }
        }
        if let found, case .stuckLookup = nodes[Int(found) - 1].content {
            events.withLock(notify: true) { $0.stuck += 1 }
            events.wait { $0.goesOn ? () : nil }
        }
        guard let found else { return parent == 1 ? reply.error(ENOENT) : reply.negative() }
        reply.entry(nodes[Int(found) - 1].attributes)
    }

    func getattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeReply) {
        guard node >= 1, node <= nodes.count else { return reply.error(ENOENT) }
        reply.attributes(nodes[Int(node) - 1].attributes)
    }

    func readlink(node: UInt64, thread: FUSEThread, reply: consuming DataReply) {
        guard case .symlink(let target) = self.node(node)?.content else { return reply.error(EINVAL) }
        reply.bytes(target.span.bytes)
    }

    func open(node: UInt64, flags: Int32, thread: FUSEThread, reply: consuming OpenReply) {
        switch nodes[Int(node) - 1].content {
        case .directory, .symlink: reply.error(EISDIR)
        case .bytes, .file, .parkedRead, .stuckLookup: reply.cached(handle: node)
        case .passthrough(let file):
            if let backing = backing(node, file) {
                reply.passthrough(backing, handle: node)
            } else {
                reply.error(EIO)
            }
        case .droppedOpen: break
        case .parkedOpen:
            let unique = reply.unique
            let parked = reply.park { [events] in events.withLock(notify: true) { $0.interrupts += 1 } }
            events.withLock(notify: true) {
                $0.opens.append(parked)
                $0.uniques.append(unique)
                $0.threads.insert(thread.index)
            }
        }
    }

    func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool {
        guard case .passthrough = nodes[Int(node) - 1].content, let backing = backings.withLock({ $0[node] }) else {
            return false
        }
        events.withLock { $0.reopens += 1 }
        if !reply.passthrough(backing, handle: node) { events.withLock(notify: true) { $0.releases.append(node) } }
        return true
    }

    /// Concurrent opens share one registration: a second ID for an open inode would be EIO.
    private func backing(_ node: UInt64, _ file: File) -> BackingID? {
        backings.withLock { backings in
            if let backing = backings[node] { return backing }
            do throws(SystemError) {
                let backing = try session.withLock { $0 }?.registerBacking(file.descriptor)
                backings[node] = backing
                return backing
            } catch {
                registrationError.withLock { $0 = error }
                return nil
            }
        }
    }

    func read(
        node: UInt64, handle: UInt64, offset: Int64, size: Int, thread: FUSEThread, reply: consuming ReadReply
    ) {
        switch nodes[Int(node) - 1].content {
        case .bytes(let bytes):
            let start = min(Int(offset), bytes.count)
            let end = min(start + size, bytes.count)
            reply.bytes(bytes.span.extracting(start..<end).bytes)
        case .file(let file): reply.file(file.descriptor, offset: offset, count: size)
        case .parkedRead:
            let parked = reply.park { [events] in events.withLock(notify: true) { $0.interrupts += 1 } }
            events.withLock(notify: true) { $0.reads.append(parked) }
        default: reply.error(EIO)
        }
    }

    func release(node: UInt64, handle: UInt64, thread: FUSEThread) {
        events.withLock(notify: true) { $0.releases.append(handle) }
    }

    func readdir(node: UInt64, offset: Int64, thread: FUSEThread, reply: consuming DirectoryReply) {
        guard let directory = self.node(node) else { return reply.error(ENOENT) }
        var index = Int(offset)
        let count = directory.entries.count + 2
        var entries = DirectoryEntries(size: reply.size, isPlus: reply.isPlus)
        while index < count {
            let (name, target): ([UInt8], UInt64) =
                switch index {
                case 0: (Array(".".utf8), node)
                case 1: (Array("..".utf8), directory.parent)
                default: directory.entries[index - 2]
                }
            let added = name.withUnsafeBytes {
                entries.add(name: $0, attributes: nodes[Int(target) - 1].attributes, nextOffset: Int64(index) + 1)
            }
            guard added else { break }
            index += 1
        }
        reply.entries(entries)
    }

    func getxattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming AttributeValueReply)
    {
        guard let xattr = self.node(node)?.xattrs.first(where: { $0.name.elementsEqual(name) }) else {
            return reply.error(ENODATA)
        }
        reply.value(xattr.value.span.bytes)
    }

    func listxattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeValueReply) {
        let names = Array((self.node(node)?.xattrs ?? []).map { $0.name + [0] }.joined())
        reply.value(names.span.bytes)
    }

    func statfs(node: UInt64, thread: FUSEThread, reply: consuming StatisticsReply) {
        reply.statistics(FUSEFilesystemStatistics(blocks: 1000, freeBlocks: 10, availableBlocks: 9, files: 77))
    }
}

private func compare(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Int {
    guard let first = a.baseAddress, let second = b.baseAddress else { return a.count - b.count }
    let order = Int(memcmp(first, second, min(a.count, b.count)))
    return order == 0 ? a.count - b.count : order
}
