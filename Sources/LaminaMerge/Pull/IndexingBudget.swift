import Glibc
import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem
import Synchronization

/// Memory for tables of contents that are being read, of the whole process: however many layers are indexed at once, and whatever their
/// images say, the sum has a bound.
final class TOCMemory: Sendable {
    /// Bytes of JSON that may be in the making at once, and of trees that are made of it: the largest that there may be, alone.
    private let limits: FormatLimits
    private let json = Monitor(0)
    private let trees = Monitor(0)

    init(_ limits: FormatLimits) { self.limits = limits }

    /// A part of the memory, until it goes.
    final class Share: Sendable {
        private let used: Monitor<Int>
        private let bytes: Int

        fileprivate init(_ used: Monitor<Int>, _ bytes: Int) { (self.used, self.bytes) = (used, bytes) }

        deinit { used.withLock(notify: true) { [bytes] in $0 -= bytes } }
    }

    /// Waits until there is room for what a compressed table of contents may become.
    ///
    /// - Throws: `MergeError.stopped`.
    func take(compressed: Int, _ limits: FormatLimits, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        // A small one may be any of sixteen megabytes; above that the ratio counts.
        let most = max(min(compressed, Int.max / limits.tocRatio) * limits.tocRatio, 1)
        return try take(bytes: min(most, limits.tocBytes), shouldStop)
    }

    /// Waits until there is room for so many bytes of JSON.
    ///
    /// - Throws: `MergeError.stopped`.
    func take(bytes: Int, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        try take(bytes, of: json, limits.tocBytes, shouldStop)
    }

    /// Waits until there is room for a tree. Who has it waits for no other memory, so that everybody comes to their turn.
    ///
    /// - Throws: `MergeError.stopped`.
    func takeTree(_ bytes: Int, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        try take(bytes, of: trees, limits.treeBytes, shouldStop)
    }

    /// What a tree may come to take in memory: two bytes of a path may be a directory of its own.
    static func treeBytes(ofJSON count: Int) -> Int { min(count, Int.max / 128) * 64 }

    private func take(
        _ bytes: Int, of used: Monitor<Int>, _ limit: Int, _ shouldStop: () -> Bool
    ) throws(MergeError) -> Share {
        let bytes = min(bytes, limit)
        while true {
            let isTaken = used.wait(seconds: 0.1) { used -> Bool? in
                guard used + bytes <= limit else { return nil }
                used += bytes
                return true
            }
            if isTaken == true { return Share(used, bytes) }
            if shouldStop() { throw .stopped }
        }
    }
}

extension IndexBytes {
    /// What a layer will take of the index.
    ///
    /// - Parameter isIsolated: whether its files are its repository's alone, and so have their chunks on record.
    init(of tree: LayerTree, isIsolated: Bool) {
        var sum: Int64 = 0
        var paths = [Int](repeating: 0, count: tree.nodes.count)
        for dirent in tree.dirents {
            sum += Int64(dirent.nameLength) + Self.name
            paths[Int(dirent.node)] = Int(dirent.nameLength) + 1
        }
        for (number, node) in tree.nodes.enumerated() {
            sum += Self.inode
            if tree.targetRange(of: Int32(number)) != nil { sum += Rows.ofTable.bytes(node.size) }
            guard node.mode & UInt32(S_IFMT) == UInt32(S_IFDIR) else { continue }
            // Its path is there as a whole, twice where only paths name it. It comes behind the directory that it is in.
            if number > 0 { paths[number] += paths[Int(node.parent)] }
            sum += Rows.ofTable.bytes(Int64(paths[number])) * (node.isImplicit ? 2 : 1) + Self.directory
        }
        for content in tree.contents {
            let count = Int64(content.chunks.count)
            sum += Self.content + count * Self.source + (count > 1 || isIsolated ? count * Self.chunk : 0)
        }
        for xattr in tree.xattrs {
            let length = tree.nameRange(of: xattr).count + tree.valueRange(of: xattr).count
            sum += Self.name + Rows.ofIndex.bytes(Int64(length))
        }
        self.init(bytes: sum)
    }
}

/// How much of the index the layers of one image may take together.
///
/// The limit is of entries, as people count them; what counts are bytes, so that few entries with long names, targets, attributes or many
/// chunks are no way around it.
final class EntryBudget: Sendable {
    private enum Taken {
        case bytes(Int64)
        /// Of a layer that the index had, what it takes is looked up when it matters.
        case known(LayerID)
    }

    private let limit: Int
    private let taken = Mutex<[Digest: Taken]>([:])

    init(limit: Int) { self.limit = limit }

    /// Counts a layer that the index had: it does not make the image too large, and leaves less for others.
    func note(_ layer: LayerID, of digest: Digest) {
        taken.withLock { if $0[digest] == nil { $0[digest] = .known(layer) } }
    }

    /// Counts a layer that is to be put into the index, once.
    ///
    /// - Throws: `MergeError.badImage` where it is too much with those before it.
    func take(_ layer: IndexBytes, of digest: Digest, _ index: Index) throws {
        let most = Int64(limit).multipliedReportingOverflow(by: IndexBytes.entry)
        let limitBytes = most.overflow ? Int64.max : most.partialValue
        let before = taken.withLock { $0 }
        var sum = layer.bytes
        for case (let other, .bytes(let bytes)) in before where other != digest { sum += bytes }
        // A small part of the limit more does no harm, and most images are small.
        if sum > limitBytes / 16 {
            for case (let other, .known(let known)) in before where other != digest {
                let known = try index.bytes(of: known)
                taken.withLock { $0[other] = .bytes(known.bytes) }
                sum += known.bytes
            }
        }
        guard sum <= limitBytes else {
            throw MergeError(
                .badImage,
                "layer \(digest): the image has too many entries, or too large ones: the index would take \(sum) bytes with the layers so "
                    + "far, and \(limitBytes) are allowed, \(IndexBytes.entry) for each entry of [store] max_image_entries"
            )
        }
        taken.withLock { $0[digest] = .bytes(layer.bytes) }
    }
}
