import LaminaStore

/// A layer that is merged in the background, in the order of its blob: which rows of the index are at hand, and how far they
/// have become jobs.
struct PlannedPull {
    /// A content that is not merged, and the time of `MergePlan.recentlyMerged` before it was read from the index.
    struct Row {
        var content: UnmergedContent
        var time: UInt64
        /// Whether it was prepared for this pull; then the pull is told its result.
        var isAnnounced = false
    }

    /// How many contents are sorted by their places at once: contents that are adjacent in the blob are fetched as one, but the
    /// order is not changed too much.
    private static let chosenAtOnce = 256
    /// A job of this many contents is long enough, whatever their sizes.
    private static let rowsAtHand = 8192

    let id: PullID
    let layer: LayerID
    /// The repository of the layer.
    let origin: Origin
    /// The contents to merge, in about this order; nil: all of the layer.
    private var chosen: ArraySlice<Row>?

    private(set) var rows: [Row] = []
    /// The first row that is not yet part of a job.
    var head = 0
    /// The next chunk of the content at `head`.
    var chunk = 0
    /// Whether this pull waits for the content at `head`.
    var isWaitingForHead = false
    /// Rows before this one were examined: those that had to be prepared are being prepared, or were in other hands.
    var scanned = 0
    /// Contents that are being prepared for this pull.
    var preparing = 0
    /// Whether a fetcher reads rows.
    private(set) var isReading = false
    private var isExhausted = false
    /// The last row that was read.
    private(set) var position: ChunkPlace?
    /// Contents that were being prepared or reserved by others when their turn came.
    private(set) var deferred: [Row] = []

    /// How many contents it waits for.
    var waiting = 0
    /// The first error.
    var failure: MergeError?
    /// Whether it asks for nothing more: it was cancelled, or met an error that the other contents would meet too.
    var endsEarly = false
    /// Whether it has asked for everything.
    var hasEnded = false

    init(id: PullID, layer: LayerID, origin: Origin = .any) {
        self.id = id
        self.layer = layer
        self.origin = origin
    }

    init(
        id: PullID, layer: LayerID, origin: Origin = .any, first contents: [UnmergedContent], readAt time: UInt64
    ) {
        self.init(id: id, layer: layer, origin: origin)
        chosen = contents.map { Row(content: $0, time: time) }[...]
    }

    /// The row whose turn it is.
    var current: Row? { head < rows.count ? rows[head] : nil }

    /// Whether all rows have become jobs.
    var isUsedUp: Bool {
        head == rows.count && isExhausted && !isReading && preparing == 0 && deferred.isEmpty
    }

    /// Whether rows have to be read first: if a job ended at the end of the rows at hand, that would cost one more request.
    ///
    /// - Parameter limit: the compressed bytes of a job.
    mutating func needsRows(for limit: Int) -> Bool {
        if isExhausted { return false }
        if chosen != nil {
            if head == rows.count { takeChosen() }
            return false
        }
        guard let first = current, let last = rows.last else { return true }
        if rows.count - head >= Self.rowsAtHand { return false }
        return last.content.firstChunk.blobOffset - first.content.firstChunk.blobOffset < Int64(limit)
    }

    private mutating func takeChosen() {
        guard let chosen, !chosen.isEmpty else {
            isExhausted = true
            return
        }
        let next = chosen.prefix(Self.chosenAtOnce)
        self.chosen = chosen.dropFirst(next.count)
        forgetUsed()
        rows += next.sorted {
            let (left, right) = ($0.content.firstChunk, $1.content.firstChunk)
            return (left.blobOffset, left.innerOffset) < (right.blobOffset, right.innerOffset)
        }
    }

    mutating func beginReading() { isReading = true }

    /// Takes rows from the index; none: there are no more.
    mutating func add(_ contents: [UnmergedContent], readAt time: UInt64) {
        isReading = false
        guard let last = contents.last else {
            isExhausted = true
            return
        }
        forgetUsed()
        rows += contents.map { Row(content: $0, time: time) }
        position = last.firstChunk
    }

    private mutating func forgetUsed() {
        rows.removeFirst(head)
        scanned = max(0, scanned - head)
        head = 0
    }

    /// Notes that the row before `scanned` is being prepared for this pull.
    mutating func announce() {
        rows[scanned - 1].isAnnounced = true
        preparing += 1
    }

    /// Goes on to the next row.
    mutating func skip() {
        head += 1
        chunk = 0
        isWaitingForHead = false
        scanned = max(scanned, head)
    }

    /// Leaves the row at `head` for later.
    mutating func deferHead() {
        if let row = current { deferred.append(row) }
        skip()
    }

    /// Goes back to the rows that were left for later, when there is nothing else.
    mutating func takeDeferred() {
        forgetUsed()
        rows += deferred
        deferred = []
    }
}
