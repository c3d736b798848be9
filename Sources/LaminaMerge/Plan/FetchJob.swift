import LaminaDigest
import LaminaStore

/// One chunk within a member that is being fetched.
struct Part: Sendable {
    /// Names its content in the plan.
    var key: SlotKey
    /// Where its bytes go. The plan passes it on and never looks at it.
    var target: MergeTarget
    var index: Int
    /// In the file.
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
    /// The compressed bytes of one request for a reader: the reader waits for all of them.
    static let urgentSize = 8 << 20

    var layer: LayerID
    /// For whose images it is.
    var origin = Origin.any
    var members: [Member] = []
    /// Whether a reader waits for it.
    var isUrgent: Bool
    /// Whether its bytes came before and were wrong: if there is another source, that one is asked.
    var isRetry = false
    /// How often it was given up because its source brought too little while others waited.
    var stalls = 0
    /// Whether neighbours may be taken along: the job is for one small file that a reader waits for.
    var mayReadAhead = false
    /// How many compressed bytes the job may grow to.
    var limit = FetchJob.urgentSize

    var range: Range<Int64> {
        guard let first = members.first, let last = members.last else { return 0..<0 }
        return first.blobOffset..<(last.blobOffset + Int64(last.blobSize))
    }

    /// Whether a chunk continues this job's range: in the same member as the last one, or in the next member.
    func canTake(_ content: borrowing PlannedContent, _ index: Int) -> Bool {
        let source = content.chunks[index].source
        guard let last = members.last else { return true }
        guard source.layer == layer else { return false }
        if source.blobOffset == last.blobOffset { return true }
        return source.blobOffset == range.upperBound && range.count + Int(source.blobSize) <= limit
    }

    /// Adds a chunk that `canTake` accepted. The first one decides which layer the job is for: the index may have found the
    /// content's chunks in another one.
    mutating func add(_ content: borrowing PlannedContent, _ index: Int) {
        guard let target = content.target else { return }
        let chunk = content.chunks[index]
        if members.isEmpty { layer = chunk.source.layer }
        let part = Part(
            key: content.key, target: target, index: index, offset: chunk.offset, size: Int(chunk.size),
            digest: chunk.digest, innerOffset: Int(chunk.source.innerOffset))
        if let last = members.indices.last, members[last].blobOffset == chunk.source.blobOffset {
            members[last].parts.append(part)
        } else {
            members.append(
                Member(blobOffset: chunk.source.blobOffset, blobSize: Int(chunk.source.blobSize), parts: [part]))
        }
    }

    /// The jobs for some absent chunks of a content: adjacent members become one range.
    static func urgent(_ content: borrowing PlannedContent, _ indices: [Int]) -> [FetchJob] {
        let chunks = content.chunks
        let sorted = indices.sorted { left, right in
            let (a, b) = (chunks[left].source, chunks[right].source)
            return (a.layer.row, a.blobOffset, a.innerOffset) < (b.layer.row, b.blobOffset, b.innerOffset)
        }
        var jobs: [FetchJob] = []
        for index in sorted {
            if let last = jobs.indices.last, jobs[last].canTake(content, index) {
                jobs[last].add(content, index)
            } else {
                var job = FetchJob(layer: chunks[index].source.layer, origin: content.origin, isUrgent: true)
                job.add(content, index)
                jobs.append(job)
            }
        }
        return jobs
    }
}
