import LaminaDigest
import LaminaStore

/// A content on its way.
///
/// Only this value knows, earlier than the index, which chunks have landed. It exists from the first request until the index
/// has recorded the content as merged, or until no waiter is left.
struct PlannedContent {
    enum ChunkState: UInt8 {
        case absent
        /// Requested: a job has it, or its bytes are being decoded.
        case inFlight
        case landed
    }

    let key: SlotKey
    let id: ContentID
    /// For whose images: another repository's ask their own source for the same bytes.
    let origin: Origin
    /// nil while the content is being prepared or reserved.
    private(set) var target: MergeTarget?
    private(set) var chunks: [ChunkRecord] = []
    var states: [ChunkState] = []
    /// How many chunks have not landed.
    var missing = 0
    var waiters: [Waiter] = []
    /// Requests that are not assigned to chunks yet: those that came while the content was being prepared or reserved.
    var early: [Request] = []
    /// Chunks that failed verification once, and are being fetched once more.
    var suspects: Set<Int> = []
    /// The pull that counts the bytes of this content.
    var countingPull: PullID?
    /// The pull that it is being prepared for.
    var preparingPull: PullID?
    /// Whether the remaining chunks are merged in the background, behind the readers.
    var isRestWanted = false
    /// Whether a reader waits for its first bytes: the background merge would take half of the line from it.
    var isFirstAwaited = false
    /// Where the background merge goes on: behind the latest read.
    var cursor = 0

    init(key: SlotKey, id: ContentID, origin: Origin = .any) {
        self.key = key
        self.id = id
        self.origin = origin
    }

    var wanted: Wanted { Wanted(content: id, origin: origin) }

    /// A content of one chunk, of which everything is known already.
    init(key: SlotKey, single row: UnmergedContent, origin: Origin = .any) {
        self.init(key: key, id: row.content.id, origin: origin)
        prepare(
            MergeTarget(row.content, chunkCount: 1),
            chunks: [
                ChunkRecord(
                    offset: 0, size: row.content.size, digest: row.content.name.digest, hasLanded: false,
                    source: row.firstChunk)
            ])
    }

    var isPrepared: Bool { target != nil }
    var isMerged: Bool { isPrepared && missing == 0 }

    mutating func prepare(_ target: MergeTarget, chunks: [ChunkRecord]) {
        self.target = target
        self.chunks = chunks
        states = chunks.map { $0.hasLanded ? .landed : .absent }
        missing = states.count { $0 == .absent }
    }

    /// Whether nobody waits for it and nothing of it is on its way. Whether the index knows as much, the plan knows.
    var isIdle: Bool {
        isPrepared && missing > 0 && early.isEmpty && waiters.isEmpty && !isRestWanted && !states.contains(.inFlight)
    }

    /// Takes the next place where the same repository has a chunk that could not be had from the one before.
    ///
    /// - Returns: whether there is one.
    mutating func moveOn(_ index: Int) -> Bool {
        guard !chunks[index].others.isEmpty else { return false }
        chunks[index].source = chunks[index].others.removeFirst()
        suspects.remove(index)
        return true
    }

    /// Has a pull wait for all of it.
    ///
    /// - Returns: whether it did not wait before, and has something to wait for.
    mutating func wait(_ pull: PullID) -> Bool {
        guard !isMerged, !waiters.contains(where: { $0.who == .pull(pull) }) else { return false }
        if countingPull == nil { countingPull = pull }
        waiters.append(Waiter(who: .pull(pull), chunks: 0..<chunks.count, missing: missing))
        return true
    }

    /// The indices of the chunks that hold `range` of the file.
    func indices(holding range: Range<Int64>) -> Range<Int> {
        let first = lowerBound { chunks[$0].offset + chunks[$0].size > range.lowerBound }
        let end = lowerBound { chunks[$0].offset >= range.upperBound }
        return first..<max(first, end)
    }

    /// The first chunk index for which `isBehind` is true; chunks are in file order.
    private func lowerBound(_ isBehind: (Int) -> Bool) -> Int {
        var low = 0
        var high = chunks.count
        while low < high {
            let middle = (low + high) / 2
            if isBehind(middle) { high = middle } else { low = middle + 1 }
        }
        return low
    }

    /// Whether a reader or pull waits for a chunk.
    func isAwaited(_ index: Int) -> Bool { waiters.contains { $0.chunks.contains(index) } }

    /// Where the background merge goes on; nil: every chunk has been requested.
    var nextAbsent: Int? {
        let start = min(cursor, chunks.count)
        return (start..<chunks.count).first { states[$0] == .absent } ?? (0..<start).first { states[$0] == .absent }
    }
}

/// Names one `LayerPull`.
typealias PullID = UInt64

/// For whose images bytes are fetched: the layers of one repository of one registry, by a number that the process gives it.
struct Origin: Hashable, Sendable {
    let number: Int
    /// For no repository in particular: what the store had is put right.
    static let any = Origin(number: 0)
    /// Kept from all requests.
    static let reserved = Origin(number: -1)
}

/// A content that is wanted for some images. What is on its way for others is no answer: their source may lie, stall or be gone, and
/// what they show their registry is not shown for these.
struct Wanted: Hashable, Sendable {
    var content: ContentID
    var origin: Origin
}

/// Somebody who waits for chunks of one content.
struct Waiter {
    enum Who: Equatable {
        /// The number of its ticket.
        case reader(UInt64)
        case pull(PullID)
    }

    var who: Who
    var chunks: Range<Int>
    /// How many of `chunks` have not landed.
    var missing: Int
    /// The range of the file that it takes from memory, instead of being told that it has landed.
    var served: Range<Int64>?
}

/// Names one request, so that a waiter that is interrupted can leave.
public struct MergeTicket: Hashable, Sendable {
    let content: ContentID
    let number: UInt64
}

/// A request for bytes of a content.
struct Request: Sendable {
    var ticket: MergeTicket
    /// For whose image.
    var origin = Origin.any
    /// The layer that the file is of: its own places come first.
    var layer: LayerID?
    /// nil asks for the whole.
    var range: Range<Int64>?
    /// Whether the rest of the content is merged behind it.
    var startsBackground: Bool
    /// Whether the bytes are taken from memory if `range` is in one chunk that is fetched for it.
    var isServed = false

    /// Whether a reader asks, and so will probably ask for more: its bytes are worth the page cache.
    var isReaders: Bool { range == nil || startsBackground }
}

/// Results for waiters: gathered while the plan changes, delivered when no lock on the plan is held.
struct PlanEnds {
    var readers: [(number: UInt64, result: Result<Void, MergeError>)] = []
    var pulls: [(id: PullID, result: Result<Void, MergeError>)] = []
    /// Bytes that landed and that a pull counts.
    var landed: [(id: PullID, bytes: Int)] = []
    /// Contents that readers have asked for.
    var awaited: [MergeTarget] = []
    /// Whether a pull has noted one of these results, for when it is done.
    var concernsPulls = false

    var isEmpty: Bool { readers.isEmpty && pulls.isEmpty && landed.isEmpty && awaited.isEmpty }

    /// Whether a waiter gets these results.
    var isHeard: Bool { !readers.isEmpty || concernsPulls }

    mutating func add(_ who: Waiter.Who, _ result: Result<Void, MergeError>) {
        switch who {
        case .reader(let number): readers.append((number, result))
        case .pull: concernsPulls = true
        }
    }
}
