import LaminaDigest
import LaminaStore
import LaminaSystem
import Synchronization

/// A content on its way, in memory.
///
/// The one place that knows, faster than the index, which chunks have landed. Lives from the first request until the
/// index has recorded the content as merged, or nobody waits for it any more.
final class ActiveContent: @unchecked Sendable {
    // @unchecked: `id` and `startedAt` never change, nor do `record` and `chunks` once `prepare` has set them, with the
    // engine's lock held and before any job of this content is made; everything else is touched with that lock held, but for `file` and
    // `lease`, which have locks of their own because opening a file is a system call, and a lease may be waited for.

    enum ChunkState: UInt8 {
        case absent
        /// Asked for: some job has it, or its bytes are being decoded.
        case inFlight
        case landed
    }

    let id: ContentID
    let startedAt = monotonicSeconds()
    /// nil while the content is being prepared: read from the index, compared with what the store has already.
    var record: ContentRecord?
    var chunks: [ChunkRecord] = []
    var states: [ChunkState] = []
    /// How many chunks have not landed.
    var missing = 0
    /// How many chunks have landed that the index does not know of yet.
    var unrecorded = 0
    var waiters: [Waiter] = []
    /// Requests that are not assigned to chunks yet, above all those that came while the content was being prepared.
    var early: [Request] = []
    /// Chunks that failed verification once, and are fetched once more.
    var suspects: Set<Int> = []
    /// The pull that counts this content.
    var pull: LayerPull?
    /// Merges its remaining chunks behind the readers' backs.
    var background: ContentPull?
    /// Whether a reader waits for the first of it: the background merge would take half of the way from it.
    var isFirstAwaited = false
    /// Where the background merge goes on: behind the latest read.
    var cursor = 0

    let file = Monitor<BackingFile?>(nil)
    /// Of its name, from before the first byte until the index has recorded the last; given up with this object otherwise.
    let lease = Mutex<WritingLease?>(nil)
    /// Whether a reader has asked for any of it, and so will for more: its bytes are worth the page cache.
    let hasReaders = Atomic<Bool>(false)

    init(id: ContentID) { self.id = id }

    var isPrepared: Bool { record != nil }
    var isMerged: Bool { isPrepared && missing == 0 }

    func prepare(_ record: ContentRecord, chunks: [ChunkRecord]) {
        self.record = record
        self.chunks = chunks
        states = chunks.map { $0.hasLanded ? .landed : .absent }
        missing = states.count { $0 == .absent }
    }

    /// The indices of the chunks that hold `range` of the file.
    func indices(holding range: Range<Int64>) -> Range<Int> {
        let first = lowerBound { chunks[$0].offset + chunks[$0].size > range.lowerBound }
        let end = lowerBound { chunks[$0].offset >= range.upperBound }
        return first..<max(first, end)
    }

    /// Takes out those who want bytes of a chunk and of no other.
    func takeServings(ofChunk index: Int) -> [Serving] {
        var servings: [Serving] = []
        waiters.removeAll { waiter in
            guard waiter.chunks == index..<(index + 1), let serving = waiter.serving else { return false }
            servings.append(serving)
            return true
        }
        return servings
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
}

/// Somebody who waits for chunks of one content.
struct Waiter {
    var ticket: MergeTicket
    var chunks: Range<Int>
    /// How many of `chunks` have not landed.
    var missing: Int
    var serving: Serving?
    var completion: MergeCompletion
}

/// A range of one chunk that somebody takes from memory, in the place of being told that it has landed.
struct Serving: Sendable {
    /// The range of the file.
    var range: Range<Int64>
    var take: @Sendable (UnsafeRawBufferPointer) -> Void
}

/// Called once, on a thread of the merge, when what was asked for has landed or cannot.
public typealias MergeCompletion = @Sendable (Result<Void, MergeError>) -> Void

/// Names one request, so that a waiter who is interrupted can leave.
public struct MergeTicket: Hashable, Sendable {
    let content: ContentID
    let number: UInt64
}

/// What somebody asks of a content.
struct Request: Sendable {
    var content: ContentID
    /// nil asks for the whole.
    var range: Range<Int64>?
    /// Whether the rest of the content is merged behind it.
    var startsBackground: Bool
    var ticket: MergeTicket
    var serving: Serving?
    var completion: MergeCompletion
}

/// One chunk within a member that is being fetched.
struct Part: Sendable {
    var content: ActiveContent
    var index: Int
    var offset: Int64
    var size: Int
    var digest: Digest
    var innerOffset: Int
}

/// A compressed range of a blob that is decompressed as one, and the chunks to take from it.
struct Member: Sendable {
    var blobOffset: Int64
    var blobSize: Int
    var parts: [Part]

    /// How many decompressed bytes hold every part.
    var neededBytes: Int { parts.reduce(0) { max($0, $1.innerOffset + $1.size) } }

    /// What its parts will take on disk.
    var diskBytes: Int64 { parts.reduce(0) { $0 + SpaceKeeper.onDisk(Int64($1.size)) } }
}

/// A contiguous range of one blob: one request to its source.
struct FetchJob: Sendable {
    var layer: LayerID
    var members: [Member]
    /// Whether a reader waits for it.
    var isUrgent: Bool
    /// Whether its bytes came before and were wrong: where there is another place to get them from, that one is asked.
    var isRetry = false
    /// How many bytes it may become.
    var limit = MergeEngine.jobSize

    var range: Range<Int64> {
        guard let first = members.first, let last = members.last else { return 0..<0 }
        return first.blobOffset..<(last.blobOffset + Int64(last.blobSize))
    }
}
