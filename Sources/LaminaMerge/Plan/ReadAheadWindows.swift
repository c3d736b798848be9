import LaminaStore

/// How far the merge is ahead of those who read small files: an open of one small file takes its neighbours in the blob along, and,
/// for as long as readers go on in that order, the next ones are fetched before they are asked for.
struct ReadAheadWindows {
    struct Window {
        /// Compressed bytes to take along the next time.
        var size: Int
        /// The last chunk that was taken along.
        var last: ChunkPlace
        /// Files whose open says that the readers go on: then the next window is fetched.
        var marks: [ContentID] = []

        private var end: Int64 { last.blobOffset + last.blobSize }

        /// Whether who reads at this place of the blob goes on where this ends: a few files were left out, or none.
        func leads(to offset: Int64) -> Bool {
            offset >= end && offset - end <= Int64(ReadAheadWindows.firstSize)
        }
    }

    /// Compressed bytes that a small file's fetch takes along from its neighbours.
    static let firstSize = 1 << 20
    /// How far it grows while readers go on, where the connection is fast enough: one job.
    static let lastSize = FetchJob.urgentSize
    /// One file of this many in a window is a mark; the first of them that is opened counts.
    static let markDistance = 16
    /// The most small files that are taken along at once.
    static let neighbourLimit = 2048

    private var windows: [LayerID: Window] = [:]
    private var marks: [ContentID: LayerID] = [:]
    /// Layers whose next window is to be fetched.
    private var due = FIFO<LayerID>()

    subscript(layer: LayerID) -> Window? { windows[layer] }

    /// The compressed bytes that a job for a small file may become.
    func size(for job: FetchJob) -> Int {
        guard let before = windows[job.layer], before.leads(to: job.range.lowerBound) else { return Self.firstSize }
        return before.size
    }

    /// Replaces a layer's window.
    mutating func set(_ window: Window, of layer: LayerID) {
        for mark in windows[layer]?.marks ?? [] { marks[mark] = nil }
        for mark in window.marks { marks[mark] = layer }
        // Few layers are read at once; a bound keeps those of long ago from piling up.
        if windows.count >= 64, windows[layer] == nil {
            windows = [:]
            marks = marks.filter { $0.value == layer }
        }
        windows[layer] = window
    }

    /// Notes that a file is opened.
    ///
    /// - Returns: whether this says that more will be wanted; once for each window.
    mutating func opened(_ content: ContentID) -> Bool {
        guard !marks.isEmpty, let layer = marks[content] else { return false }
        for mark in windows[layer]?.marks ?? [] { marks[mark] = nil }
        windows[layer]?.marks = []
        due.append(layer)
        return true
    }

    /// The next window that is to be fetched.
    mutating func popDue() -> (layer: LayerID, window: Window)? {
        while let layer = due.pop() {
            if let window = windows[layer] { return (layer, window) }
        }
        return nil
    }

    mutating func stop() { due = FIFO() }
}
