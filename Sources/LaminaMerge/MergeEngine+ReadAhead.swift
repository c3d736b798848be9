import LaminaStore
import LaminaSystem

// Who opens one small file opens its neighbours: those that stand behind it in the blob are fetched with it, and, for as long
// as readers go on in that order, the next ones before they are asked for.

/// How far the merge is ahead of those who read small files of one layer.
struct ReadAhead {
    /// Compressed bytes to take along the next time.
    var window = MergeEngine.firstReadAhead
    /// The last chunk that was taken along.
    var last: ChunkPlace
    /// Files whose open says that the readers go on: then the next window is fetched.
    var marks: [ContentID] = []

    var end: Int64 { last.blobOffset + last.blobSize }

    /// Whether who reads at this place of the blob goes on where this ends: a few files were left out, or none.
    func leads(to offset: Int64) -> Bool { offset >= end && offset - end <= Int64(MergeEngine.firstReadAhead) }
}

extension MergeEngine {
    /// Compressed bytes that a small file's fetch takes along from its neighbours.
    static let firstReadAhead = 1 << 20
    /// How far it grows while readers go on, where the connection is fast enough: one job.
    static let lastReadAhead = jobSize
    /// Every so many files of a window one is a mark, the first of them that is opened counts.
    private static let markDistance = 16
    /// More small files are not taken along at once.
    private static let neighbourLimit = 2048

    /// Adds the small files that stand behind a small file in the blob.
    func readingAhead(_ job: FetchJob) -> FetchJob {
        guard let last = job.members.last, let part = last.parts.last else { return job }
        let place = ChunkPlace(
            layer: job.layer, blobOffset: last.blobOffset, blobSize: Int64(last.blobSize),
            innerOffset: Int64(part.innerOffset))
        let window = state.withLock { state -> Int in
            guard let before = state.readAheads[job.layer], before.leads(to: job.range.lowerBound)
            else { return Self.firstReadAhead }
            return before.window
        }
        guard job.range.count < window else { return job }
        return extended(job, behind: place, window: window)
    }

    /// Fetches the next window of a layer, as the one before is being read.
    func readAhead(_ layer: LayerID) -> FetchJob? {
        guard let before = state.withLock({ $0.readAheads[layer] }) else { return nil }
        let job = extended(
            FetchJob(layer: layer, members: [], isUrgent: false), behind: before.last, window: before.window)
        return job.members.isEmpty ? nil : job
    }

    private func extended(_ job: FetchJob, behind place: ChunkPlace, window: Int) -> FetchJob {
        let end = (job.members.isEmpty ? place.blobOffset + place.blobSize : job.range.lowerBound) + Int64(window)
        let limit = pace(of: job.layer).readAheadSize(limit: Self.lastReadAhead)
        let time = state.withLock { $0.recentlyMerged.clock }
        guard
            let neighbours = try? store.index.unmerged(
                in: job.layer, after: place, before: end, limit: Self.neighbourLimit)
        else { return job }
        return state.withLock { state in
            var job = job
            var ahead = ReadAhead(window: max(Self.firstReadAhead, min(2 * window, limit)), last: place)
            var count = 0
            for neighbour in neighbours {
                guard !neighbour.needsPreparation, state.active[neighbour.content.id] == nil,
                    !state.recentlyMerged.contains(neighbour.content.id, since: time)
                else { break }
                let active = ActiveContent(single: neighbour)
                guard job.canTake(active, 0) else { break }
                state.active[active.id] = active
                active.states[0] = .inFlight
                job.add(active, 0)
                ahead.last = neighbour.firstChunk
                count += 1
                if count.isMultiple(of: Self.markDistance) { ahead.marks.append(active.id) }
            }
            state.setReadAhead(ahead, of: job.layer)
            return job
        }
    }
}

extension EngineState {
    /// Replaces a layer's window.
    mutating func setReadAhead(_ ahead: ReadAhead, of layer: LayerID) {
        for mark in readAheads[layer]?.marks ?? [] { marks[mark] = nil }
        for mark in ahead.marks { marks[mark] = layer }
        // Few layers are read at once; a bound keeps those of long ago from piling up.
        if readAheads.count >= 64, readAheads[layer] == nil {
            readAheads = [:]
            marks = marks.filter { $0.value == layer }
        }
        readAheads[layer] = ahead
    }

    /// Whether this content's open says that more will be wanted; once for each window.
    mutating func takeMark(_ content: ContentID) -> LayerID? {
        guard !marks.isEmpty, let layer = marks[content] else { return nil }
        for mark in readAheads[layer]?.marks ?? [] { marks[mark] = nil }
        readAheads[layer]?.marks = []
        return layer
    }
}
