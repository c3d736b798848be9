import LaminaFUSE
import Synchronization

/// A part of a directory, as one READDIR gets it.
struct DirectoryListing: ~Copyable {
    let directory: Int64
    /// As READDIR counts: 0, or where another part ended.
    let offset: Int64
    var entries: DirectoryEntries
    /// Where reading goes on.
    var position: Int64
    /// The directories among the entries, in their order, each with the position behind it.
    var directories: [(id: Int64, end: Int64)] = []
    var end = End.open

    enum End {
        /// More entries may fit, as far as is known.
        case open
        case full
        /// The directory has no more.
        case last
    }

    init(directory: Int64, offset: Int64, entries: consuming DirectoryEntries) {
        self.directory = directory
        self.offset = offset
        self.entries = entries
        position = offset
    }

    /// Cuts it to what a reader takes: it may have been made for a reader with a larger buffer.
    mutating func limit(to size: Int) {
        guard let end = entries.limit(to: size) else { return }
        position = end > 0 ? end : offset
        directories.removeLast(directories.count - directories.count { $0.end <= position })
        self.end = .full
    }
}

/// The listings that readers will ask for next, made while they are busy with the last ones: the rest of a directory that is
/// read in parts, and the next directory of a walk through a tree.
///
/// Each reader has its own listing, so that no reader throws away what was made for another. A listing is never wrong, because
/// directories never change; only the root does, and it is not read ahead.
final class DirectoryAhead: Sendable {
    /// A listing that a reader will probably ask for.
    private struct Wanted {
        let place: DirectoryWalk.Place
        /// How much the READDIR before it took: this one will take as much.
        let size: Int
        let isPlus: Bool
        /// The listing is in an object, because an array holds only what can be copied.
        let made = Made()
        /// Whether it needs no more work, or a thread works on it now.
        var isDone = false
    }

    private final class Made {
        var listing: DirectoryListing?
    }

    private struct State {
        var walk = DirectoryWalk()
        /// The newest last. Listings that no reader came for are dropped when others come.
        var wanted: [Wanted] = []
        /// Where directories end, the newest last: a reader makes one more request to learn it.
        var ends: [DirectoryWalk.Place] = []

        mutating func want(_ place: DirectoryWalk.Place, size: Int, isPlus: Bool) {
            guard !wanted.contains(where: { $0.place == place }) else { return }
            if wanted.count >= DirectoryAhead.limit { wanted.removeFirst() }
            wanted.append(Wanted(place: place, size: size, isPlus: isPlus))
        }

        mutating func end(at place: DirectoryWalk.Place) {
            if ends.count >= DirectoryAhead.limit { ends.removeFirst() }
            ends.append(place)
        }
    }

    /// How many readers are helped at once; each costs 64 KiB at most.
    private static let limit = 8

    private let state = Mutex(State())
    private let isWanted = Atomic<Bool>(false)
    /// How many READDIRs found entries made for them.
    let hits = Atomic<Int>(0)

    /// The listing as far as it was made, or a new one.
    func take(_ directory: Int64, from offset: Int64, size: Int, isPlus: Bool) -> DirectoryListing {
        let place = DirectoryWalk.Place(directory: directory, offset: offset)
        let made: DirectoryListing? = state.withLock { state in
            if state.ends.contains(place) {
                var listing = DirectoryListing(
                    directory: directory, offset: offset, entries: DirectoryEntries(size: 0, isPlus: isPlus))
                listing.end = .last
                return listing
            }
            guard let index = state.wanted.firstIndex(where: { $0.place == place && $0.isPlus == isPlus }) else {
                return nil
            }
            return state.wanted.remove(at: index).made.listing.take()
        }
        guard var made else {
            return DirectoryListing(
                directory: directory, offset: offset, entries: DirectoryEntries(size: size, isPlus: isPlus))
        }
        hits.add(1, ordering: .relaxed)
        made.limit(to: size)
        return made
    }

    /// Records that a listing was sent to a reader that takes `size` bytes.
    func sent(_ listing: borrowing DirectoryListing, size: Int) {
        guard listing.directory != 1 else { return }
        let place = DirectoryWalk.Place(directory: listing.directory, offset: listing.offset)
        let (directories, isPlus) = (listing.directories.map(\.id), listing.entries.isPlus)
        let (position, isLast) = (listing.position, listing.end == .last)
        state.withLock { state in
            guard !state.ends.contains(place) else { return }
            state.walk.read(place, found: directories, rest: isLast ? nil : position)
            if isLast { state.end(at: .init(directory: place.directory, offset: position)) }
            if let next = state.walk.next { state.want(next, size: size, isPlus: isPlus) }
            isWanted.store(state.wanted.contains { !$0.isDone }, ordering: .relaxed)
        }
    }

    /// A listing that a reader may ask for and that has room; nil if there is nothing to do. It is given back with `put`.
    func work() -> DirectoryListing? {
        guard isWanted.load(ordering: .relaxed) else { return nil }
        return state.withLock { state in
            guard let index = state.wanted.lastIndex(where: { !$0.isDone }) else {
                isWanted.store(false, ordering: .relaxed)
                return nil
            }
            state.wanted[index].isDone = true
            let wanted = state.wanted[index]
            return wanted.made.listing.take()
                ?? DirectoryListing(
                    directory: wanted.place.directory, offset: wanted.place.offset,
                    entries: DirectoryEntries(size: wanted.size, isPlus: wanted.isPlus))
        }
    }

    /// Keeps what was made of the listing that `work` gave, unless its reader came first.
    func put(_ listing: consuming DirectoryListing) {
        let place = DirectoryWalk.Place(directory: listing.directory, offset: listing.offset)
        let isDone = listing.end != .open
        // A closure cannot consume what it captured; but it can empty an optional.
        var listing: DirectoryListing? = consume listing
        state.withLock { state in
            guard let index = state.wanted.firstIndex(where: { $0.place == place }) else { return }
            state.wanted[index].made.listing = listing.take()
            state.wanted[index].isDone = isDone
        }
    }
}
