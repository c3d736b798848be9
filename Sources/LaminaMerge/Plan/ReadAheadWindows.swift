import LaminaStore

/// How far the merge is ahead of readers of small files. An open of one small file takes its neighbours in the blob along. As
/// long as readers go on in that order, the next neighbours are fetched before they are requested.
struct ReadAheadWindows {
    struct Window {
        /// How many compressed bytes to take along the next time.
        var size: Int
        /// The last chunk that was taken along.
        var last: ChunkPlace
        /// Files whose open means that the readers go on: then the next window is fetched.
        var marks: [ContentID] = []

        private var end: Int64 { last.blobOffset + last.blobSize }

        /// Whether a reader at this place of the blob goes on where this window ends: with a few files left out, or none.
        func leads(to offset: Int64) -> Bool {
            offset >= end && offset - end <= Int64(ReadAheadWindows.firstSize)
        }
    }

    /// How many compressed bytes of its neighbours the fetch of a small file takes along.
    static let firstSize = 1 << 20
    /// How far that grows while readers go on, if the connection is fast enough: one job.
    static let lastSize = FetchJob.urgentSize
    /// One file in this many in a window is a mark; the first mark that is opened counts.
    static let markDistance = 16
    /// The most small files that are taken along at once.
    static let neighbourLimit = 2048

    private var windows: [LayerID: Window] = [:]
    private var marks: [ContentID: LayerID] = [:]
    /// Layers whose next window should be fetched.
    private var due = FIFO<LayerID>()

    subscript(layer: LayerID) -> Window? { windows[layer] }

    /// How many compressed bytes the job for a small file may grow to.
    func size(for job: FetchJob) -> Int {
        guard let before = windows[job.layer], before.leads(to: job.range.lowerBound) else { return Self.firstSize }
        return before.size
    }

    /// Replaces a layer's window.
    mutating func set(_ window: Window, of layer: LayerID) {
        for mark in windows[layer]?.marks ?? [] { marks[mark] = nil }
        for mark in window.marks { marks[mark] = layer }
        // Few layers are read at once; the bound drops those of long ago.
        if windows.count >= 64, windows[layer] == nil {
            windows = [:]
            marks = marks.filter { $0.value == layer }
        }
        windows[layer] = window
    }

    /// Notes that a file is opened.
    ///
    /// - Returns: whether this means that more will be wanted; once for each window.
    mutating func opened(_ content: ContentID) -> Bool {
        guard !marks.isEmpty, let layer = marks[content] else { return false }
        for mark in windows[layer]?.marks ?? [] { marks[mark] = nil }
        windows[layer]?.marks = []
        due.append(layer)
        return true
    }

    /// The next window that should be fetched.
    mutating func popDue() -> (layer: LayerID, window: Window)? {
        while let layer = due.pop() {
            if let window = windows[layer] { return (layer, window) }
        }
        return nil
    }

    mutating func stop() { due = FIFO() }
}
