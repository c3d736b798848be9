/// What a chain's layers show together: whiteouts and opaque directories are resolved as overlayfs does it.
///
/// Nodes stand in the order of a walk: the root, what is in it, then one directory after the other with what is in each. So
/// what is read together stands together in the image.
struct ChainTree {
    struct Node {
        /// In the rows; for a directory of several layers, the topmost layer's.
        var row: Int32
        /// In `names`, with `.` and `..`; for directories only.
        var firstName: Int32 = 0
        var nameCount: Int32 = 0
        var subdirectories: Int32 = 0
    }

    struct Name {
        /// In the rows' arena; below zero for `.` (-1) and `..` (-2).
        var start: Int
        var count: Int32
        var node: Int32
    }

    private(set) var nodes: [Node] = []
    private(set) var names: [Name] = []

    private struct Pending {
        var node: Int32
        var parent: Int32
        /// The directories that are merged here, the topmost first.
        var sources: [Int32]
    }

    /// - Parameter roots: the inodes of the layers' root directories, bottom first. If a layer stands in a chain twice, the
    ///   upper one counts: it adds and hides what the lower one did.
    init(_ rows: ChainRows, roots: [Int64]) throws(SealError) {
        var seen: Set<Int64> = []
        var sources: [Int32] = []
        for root in roots.reversed() where seen.insert(root).inserted {
            let row = try rows.row(of: root)
            guard rows.rows[row].isDirectory else { throw SealError(.damaged, "the root \(root) is no directory") }
            sources.append(Int32(truncatingIfNeeded: row))
            if rows.rows[row].isOpaque { break }
        }
        guard let top = sources.first else { throw SealError(.unsupported, "the chain has no layers") }
        // A directory is in one place only. If the walk meets one twice, it contains itself somewhere, and the walk would not
        // end.
        var isWalked = [Bool](repeating: false, count: rows.rows.count)
        var nodeOf = [Int32](repeating: -1, count: rows.rows.count)
        nodes.reserveCapacity(rows.rows.count)
        names.reserveCapacity(rows.entries.count)
        nodes.append(Node(row: top))
        var pending = [Pending(node: 0, parent: 0, sources: sources)]
        while let directory = pending.popLast() {
            for source in directory.sources {
                guard !isWalked[Int(source)] else {
                    throw SealError(.damaged, "a directory of the chain is in two places")
                }
                isWalked[Int(source)] = true
            }
            let found = add(directory, rows, &nodeOf)
            pending.append(contentsOf: found.reversed())
        }
    }

    /// Adds what is in a directory.
    ///
    /// - Returns: the directories in it.
    private mutating func add(_ directory: Pending, _ rows: ChainRows, _ nodeOf: inout [Int32]) -> [Pending] {
        let first = names.count
        var found: [Pending] = []
        var specials = [
            Name(start: -1, count: 1, node: directory.node), Name(start: -2, count: 2, node: directory.parent),
        ][...]
        var cursors = directory.sources.map { source in
            let row = rows.rows[Int(source)]
            return (next: Int(row.firstEntry), end: Int(row.firstEntry + row.entryCount))
        }
        while let top = least(cursors, rows) {
            let entry = rows.entries[cursors[top].next]
            let isDirectory = rows.rows[Int(entry.row)].isDirectory
            let isWhiteout = rows.rows[Int(entry.row)].isWhiteout
            var lower: [Int32] = isDirectory ? [entry.row] : []
            var goesOn = isDirectory && !rows.rows[Int(entry.row)].isOpaque
            cursors[top].next += 1
            // Entries of the same name in the layers below: part of the directory, until something hides the rest.
            for index in cursors.indices[(top + 1)...] where cursors[index].next < cursors[index].end {
                let other = rows.entries[cursors[index].next]
                guard rows.compare(other, entry) == 0 else { continue }
                cursors[index].next += 1
                guard goesOn else { continue }
                let row = rows.rows[Int(other.row)]
                guard row.isDirectory else {
                    goesOn = false
                    continue
                }
                lower.append(other.row)
                if row.isOpaque { goesOn = false }
            }
            if isWhiteout { continue }
            while let special = specials.first, rows.comparesAfter(entry, special: Int(special.count)) {
                names.append(special)
                specials.removeFirst()
            }
            var node = nodeOf[Int(entry.row)]
            if isDirectory || node < 0 {
                node = Int32(truncatingIfNeeded: nodes.count)
                nodes.append(Node(row: entry.row))
                if !isDirectory { nodeOf[Int(entry.row)] = node }
            }
            if isDirectory { found.append(Pending(node: node, parent: directory.node, sources: lower)) }
            names.append(Name(start: entry.nameStart, count: entry.nameCount, node: node))
        }
        names.append(contentsOf: specials)
        nodes[Int(directory.node)].firstName = Int32(truncatingIfNeeded: first)
        nodes[Int(directory.node)].nameCount = Int32(truncatingIfNeeded: names.count - first)
        nodes[Int(directory.node)].subdirectories = Int32(truncatingIfNeeded: found.count)
        return found
    }

    /// The topmost of the layers whose next name comes first; nil at the end.
    private func least(_ cursors: [(next: Int, end: Int)], _ rows: ChainRows) -> Int? {
        var result: Int?
        for index in cursors.indices where cursors[index].next < cursors[index].end {
            guard let best = result else {
                result = index
                continue
            }
            if rows.compare(rows.entries[cursors[index].next], rows.entries[cursors[best].next]) < 0 { result = index }
        }
        return result
    }
}

extension ChainRows {
    /// Compares names as bytes; if one begins with the other, the shorter one comes first. This is the order of SQLite's blobs
    /// and of EROFS's directories.
    func compare(_ left: Entry, _ right: Entry) -> Int {
        let count = Int(min(left.nameCount, right.nameCount))
        return arena.withUnsafeBufferPointer { bytes in
            for index in 0..<count {
                let (a, b) = (bytes[left.nameStart + index], bytes[right.nameStart + index])
                if a != b { return a < b ? -1 : 1 }
            }
            return Int(left.nameCount) - Int(right.nameCount)
        }
    }

    /// Whether a name comes after the name that is this many dots.
    func comparesAfter(_ entry: Entry, special count: Int) -> Bool {
        let dot = UInt8(ascii: ".")
        for index in 0..<min(Int(entry.nameCount), count) {
            let byte = arena[entry.nameStart + index]
            if byte != dot { return byte > dot }
        }
        return Int(entry.nameCount) > count
    }
}
