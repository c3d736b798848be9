import LaminaFUSE
import Synchronization

/// A part of a directory, as one READDIR gets it.
struct DirectoryListing: ~Copyable {
    let directory: Int64
    /// As READDIR has it: 0, or where another part ended.
    let offset: Int64
    var entries: DirectoryEntries
    /// Where reading goes on.
    var position: Int64
    /// The directories among the entries, in their order.
    var directories: [Int64] = []
    var end = End.open

    enum End {
        /// More entries fit, as far as is known.
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
}

/// The listing that a walk will ask for next, made while the walker is busy with the last one.
///
/// Nothing of this is ever wrong, as directories never change; but for the root, which is not read ahead.
final class DirectoryAhead: Sendable {
    private struct State: ~Copyable {
        var walk = DirectoryWalk()
        var listing: DirectoryListing?
        /// What the last READDIR took: the next one will take as much.
        var size = 0
        var isPlus = true
        /// Where the last directory ends: a reader asks once more to learn it.
        var end: DirectoryWalk.Place?
    }

    private let state = Mutex(State())
    private let isWanted = Atomic<Bool>(false)
    /// How many READDIRs found entries made for them.
    let hits = Atomic<Int>(0)

    /// A listing as far as it was made, or one to begin with.
    func take(_ directory: Int64, from offset: Int64, size: Int, isPlus: Bool) -> DirectoryListing {
        let place = DirectoryWalk.Place(directory: directory, offset: offset)
        let made: DirectoryListing? = state.withLock { state in
            if state.end == place {
                var listing = DirectoryListing(
                    directory: directory, offset: offset, entries: DirectoryEntries(size: 0, isPlus: isPlus))
                listing.end = .last
                return listing
            }
            guard let listing = state.listing.take() else { return nil }
            guard
                listing.directory == directory, listing.offset == offset, listing.entries.used <= size,
                listing.entries.isPlus == isPlus
            else { return nil }
            hits.add(1, ordering: .relaxed)
            return listing
        }
        return made
            ?? DirectoryListing(
                directory: directory, offset: offset, entries: DirectoryEntries(size: size, isPlus: isPlus))
    }

    /// Says that a listing was sent, to a reader that takes `size` bytes.
    func sent(_ listing: borrowing DirectoryListing, size: Int) {
        guard listing.directory != 1 else { return }
        let place = DirectoryWalk.Place(directory: listing.directory, offset: listing.offset)
        let (directories, isPlus) = (listing.directories, listing.entries.isPlus)
        let (position, isLast) = (listing.position, listing.end == .last)
        state.withLock { state in
            guard state.end != place else { return }
            state.walk.read(place, found: directories, rest: isLast ? nil : position)
            state.end = isLast ? .init(directory: place.directory, offset: position) : nil
            (state.size, state.isPlus) = (size, isPlus)
            isWanted.store(state.walk.next != nil, ordering: .relaxed)
        }
    }

    /// A listing that somebody may ask for and that has room; nil when there is nothing to do. Given back with `put`.
    func work() -> DirectoryListing? {
        guard isWanted.load(ordering: .relaxed) else { return nil }
        return state.withLock { state in
            guard let next = state.walk.next else { return nil }
            if let listing = state.listing.take() {
                if listing.directory == next.directory, listing.offset == next.offset { return listing }
            }
            return DirectoryListing(
                directory: next.directory, offset: next.offset,
                entries: DirectoryEntries(size: state.size, isPlus: state.isPlus))
        }
    }

    /// Keeps what was made of the listing that `work` gave.
    func put(_ listing: consuming DirectoryListing) {
        let isDone = listing.end != .open
        // A closure cannot give away what it captured; an optional can be emptied.
        var listing: DirectoryListing? = consume listing
        state.withLock { state in
            state.listing = listing.take()
            if isDone { isWanted.store(false, ordering: .relaxed) }
        }
    }

    /// What could not be made is left to who asks for it.
    func abandon() { isWanted.store(false, ordering: .relaxed) }
}
