/// Where a walk through a tree will go on, guessed from the directories that were read so far.
///
/// A program that walks lists a directory and then goes into its directories, the first one first (`ls -R`, `find`, `du`) or
/// the last one first (programs that keep the rest on a stack). One walk at a time is followed: a directory that does not
/// belong to it begins another walk.
struct DirectoryWalk {
    /// Where a directory is read: its first entry, or the one after those that were read.
    struct Place: Equatable {
        var directory: Int64
        /// As READDIR counts.
        var offset: Int64
    }

    private struct Frame {
        var directory: Int64
        /// Its directories that were not read yet, in the order of their names.
        var children: ArraySlice<Int64>
        /// Where the part that was read ends; nil: all was read. Several readers may read it, each from its beginning.
        var rest: Int64?
    }

    /// From the top of the walk down to the directory that was read last.
    private var frames: [Frame] = []
    private var isBackwards = false
    /// How many directories in a row were read in the order that was expected.
    private var streak = 0
    /// Where the directory that was read last goes on, and whether the last request went on with one.
    private var rest: Place?
    private var isGoingOn = false

    /// Deeper trees, and more directories in one, are walked without help: this bounds what is kept (8 MiB, which no walk
    /// reaches).
    private static let depth = 256
    private static let width = 4096
    /// Walks leave out one or the other (`find -prune`).
    private static let leeway = 8
    /// After this many, it is taken for a walk through a tree, and not for a look at one directory.
    private static let proof = 2

    /// - Parameters:
    ///   - place: what was read now.
    ///   - found: the directories among it.
    ///   - rest: the offset where it goes on; nil at the end.
    mutating func read(_ place: Place, found: [Int64], rest: Int64?) {
        self.rest = rest.map { Place(directory: place.directory, offset: $0) }
        isGoingOn = place.offset > 0
        guard !isGoingOn else {
            guard
                let frame = frames.lastIndex(where: { $0.directory == place.directory && $0.rest == place.offset })
            else { return }
            frames[frame].children += found.prefix(max(0, Self.width - frames[frame].children.count))
            frames[frame].rest = rest
            return
        }
        if goInto(place.directory), frames.count < Self.depth {
            streak += 1
        } else {
            streak = 0
            frames.removeAll(keepingCapacity: true)
        }
        frames.append(Frame(directory: place.directory, children: found.prefix(Self.width), rest: rest))
    }

    /// What will probably be read next; nil if nothing indicates it.
    var next: Place? {
        if let rest { return streak >= Self.proof || isGoingOn ? rest : nil }
        guard streak >= Self.proof else { return nil }
        for frame in frames.reversed() {
            if let child = isBackwards ? frame.children.last : frame.children.first {
                return Place(directory: child, offset: 0)
            }
        }
        return nil
    }

    /// Leaves the directories below which nothing more is read, and those that were skipped; false if the directory is none of
    /// those that might come now.
    private mutating func goInto(_ directory: Int64) -> Bool {
        for index in frames.indices.reversed() {
            let children = frames[index].children
            if children.count > 1 {
                if children.first == directory { isBackwards = false }
                if children.last == directory { isBackwards = true }
            }
            if isBackwards, let place = children.suffix(Self.leeway).lastIndex(of: directory) {
                frames[index].children = children[..<place]
            } else if !isBackwards, let place = children.prefix(Self.leeway).firstIndex(of: directory) {
                frames[index].children = children[(place + 1)...]
            } else {
                continue
            }
            frames.removeLast(frames.count - 1 - index)
            return true
        }
        return false
    }
}
