import Synchronization

/// The name before a position in a directory: it makes reading on, and seeking, a search in the index instead of a count.
///
/// A position is the number of entries before it (`docs/decisions/002-directory-positions-are-counts.md`), and directories
/// never change, except the root, so nothing in here is ever wrong. All readers of an index share it: one reader can go on
/// where another stopped. What is kept has a bound; what was forgotten is counted again, once for all readers.
final class DirectoryPositions: Sendable {
    /// The last entry before a position; position 0 has none.
    struct Place: Equatable {
        var position: Int64
        var name: [UInt8]

        static let start = Place(position: 0, name: [])
    }

    /// One entry in this many is a mark. In a directory of more than `markLimit` times as many, the marks are farther apart.
    static let firstDistance: Int64 = 64
    /// The marks of one directory, and of all: with names of 30 bytes they take 5 MiB.
    static let markLimit = 8192
    static let totalLimit = 65_536
    /// Where the last reads stopped: this many listings may run at once without counting a single entry.
    static let stopLimit = 1024
    private static let root: Int64 = 1

    fileprivate struct Directory {
        var distance = DirectoryPositions.firstDistance
        /// The name of the entry before each multiple of `distance`, from the first on, without a gap.
        var marks: [[UInt8]] = []
        var used: UInt64 = 0

        /// Removes every second mark.
        mutating func thin() {
            marks = stride(from: 1, to: marks.count, by: 2).map { marks[$0] }
            distance *= 2
        }
    }

    fileprivate struct Stop: Hashable {
        var directory: Int64
        var position: Int64
    }

    fileprivate struct State {
        var directories: [Int64: Directory] = [:]
        var markCount = 0
        var clock: UInt64 = 0
        var stops: [Stop: [UInt8]] = [:]
        /// The stops in the order in which they came, as a ring.
        var order: [Stop] = []
        var oldest = 0
    }

    private let state = Mutex(State())

    /// The nearest known place at or before a position.
    func nearest(to position: Int64, in directory: Int64) -> Place {
        guard position > 0 else { return .start }
        return state.withLock { state in
            if let name = state.stops[Stop(directory: directory, position: position)] {
                return Place(position: position, name: name)
            }
            state.clock += 1
            guard let index = state.directories.index(forKey: directory) else { return .start }
            state.directories.values[index].used = state.clock
            let known = state.directories.values[index]
            let count = min(Int(clamping: position / known.distance), known.marks.count)
            guard count > 0 else { return .start }
            return Place(position: Int64(count) * known.distance, name: known.marks[count - 1])
        }
    }

    /// Whether a place that a reader passed might be worth keeping; cheap, because it is asked for each entry.
    static func isMark(_ position: Int64) -> Bool { position & (firstDistance - 1) == 0 }

    /// Keeps places that a reader passed, in their order, and the one where it stopped.
    ///
    /// For the root, whose views come and go, only the latter: a reader goes on behind the name that it saw last.
    func keep(_ passed: [Place], stop: Place?, in directory: Int64) {
        state.withLock { state in
            if !passed.isEmpty, directory != Self.root { state.mark(passed, in: directory) }
            if let stop, stop.position > 0 {
                state.add(Stop(directory: directory, position: stop.position), stop.name)
            }
        }
    }

    /// How many places are kept; for tests.
    var count: Int { state.withLock { $0.markCount + $0.stops.count } }
}

extension DirectoryPositions.State {
    fileprivate mutating func mark(_ passed: [DirectoryPositions.Place], in directory: Int64) {
        clock += 1
        var known = directories.removeValue(forKey: directory) ?? DirectoryPositions.Directory()
        markCount -= known.marks.count
        known.used = clock
        // Only what follows the last mark: a gap would have to be counted over.
        for place in passed where place.position == Int64(known.marks.count + 1) * known.distance {
            known.marks.append(place.name)
            if known.marks.count >= DirectoryPositions.markLimit { known.thin() }
        }
        markCount += known.marks.count
        directories[directory] = known
        while markCount > DirectoryPositions.totalLimit,
            let oldest = directories.min(by: { $0.value.used < $1.value.used })
        {
            markCount -= oldest.value.marks.count
            directories[oldest.key] = nil
        }
    }

    fileprivate mutating func add(_ stop: DirectoryPositions.Stop, _ name: [UInt8]) {
        guard stops.updateValue(name, forKey: stop) == nil else { return }
        if order.count < DirectoryPositions.stopLimit {
            order.append(stop)
        } else {
            stops[order[oldest]] = nil
            order[oldest] = stop
            oldest = (oldest + 1) % order.count
        }
    }
}
