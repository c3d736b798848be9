import Glibc
import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem
import Synchronization

/// Memory for tables of contents that are being read, of the whole process: however many layers are indexed at once, and whatever their
/// images say, the sum has a bound.
///
/// There are three parts, which are taken in this order: compressed bytes, JSON, trees. A thread that has a share of
/// one part waits only for the next parts, and for each once, so each thread has its turn. No thread waits for a network while it has JSON or a tree.
final class TOCMemory: Sendable {
    /// Compressed bytes that may be in memory at once.
    static let compressedBytes = 64 << 20
    /// JSON that several layers may have in memory at once. A layer with more is the only one.
    private static let sharedJSON = 64 << 20

    private let limits: FormatLimits
    private let compressed: Part
    private let json: Part
    private let trees: Part

    init(_ limits: FormatLimits) {
        self.limits = limits
        compressed = Part(limit: Self.compressedBytes, shared: Self.compressedBytes)
        json = Part(limit: limits.tocBytes, shared: min(Self.sharedJSON, limits.tocBytes))
        trees = Part(limit: limits.treeBytes, shared: limits.treeBytes)
    }

    fileprivate final class Part: Sendable {
        struct State {
            var used = 0
            /// The requests that wait, in the order in which they came. So small ones cannot keep a large one waiting for ever.
            var waiting: [UInt64] = []
            var lastNumber: UInt64 = 0
        }

        /// The most that one may have, who is alone then, and what several may have together, in bytes.
        let limit: Int
        let shared: Int
        let state = Monitor(State())

        init(limit: Int, shared: Int) { (self.limit, self.shared) = (limit, shared) }
    }

    /// A part of the memory, until it goes.
    final class Share: Sendable {
        private let part: Part
        private let bytes: Mutex<Int>

        fileprivate init(_ part: Part, _ bytes: Int) {
            self.part = part
            self.bytes = Mutex(bytes)
        }

        deinit { give(bytes.withLock { $0 }) }

        /// Gives back what was not needed.
        func shrink(to needed: Int) {
            give(
                bytes.withLock { bytes in
                    let rest = max(0, bytes - needed)
                    bytes -= rest
                    return rest
                })
        }

        private func give(_ bytes: Int) { part.state.withLock(notify: true) { $0.used -= bytes } }
    }

    /// Whether anybody waits for room for compressed bytes: a fetch that has some of it should not take for ever.
    var isCompressedWanted: Bool { compressed.state.withLock { !$0.waiting.isEmpty } }

    /// Waits until there is room for compressed bytes, before they are fetched. What is fetched with a footer counts for nothing.
    ///
    /// - Throws: `MergeError.stopped`.
    func takeCompressed(_ bytes: Int, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        try take(bytes, of: compressed, shouldStop)
    }

    /// Waits until there is room for what a compressed table of contents may become.
    ///
    /// - Throws: `MergeError.stopped`.
    func take(compressed: Int, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        // A small one may be any of sixteen megabytes; above that the ratio counts.
        let most = max(min(compressed, Int.max / limits.tocRatio) * limits.tocRatio, 1)
        return try take(bytes: min(most, limits.tocBytes), shouldStop)
    }

    /// Waits until there is room for so many bytes of JSON.
    ///
    /// - Throws: `MergeError.stopped`.
    func take(bytes: Int, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        try take(bytes, of: json, shouldStop)
    }

    /// Waits until there is room for a tree.
    ///
    /// - Throws: `MergeError.stopped`.
    func takeTree(_ bytes: Int, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        try take(bytes, of: trees, shouldStop)
    }

    /// What a tree may come to take in memory: two bytes of a path may be a directory of its own.
    static func treeBytes(ofJSON count: Int) -> Int { min(count, Int.max / 128) * 64 }

    private func take(_ bytes: Int, of part: Part, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        let bytes = min(bytes, part.limit)
        let isAlone = bytes > part.shared
        let number = part.state.withLock { state in
            state.lastNumber += 1
            state.waiting.append(state.lastNumber)
            return state.lastNumber
        }
        defer { part.state.withLock(notify: true) { $0.waiting.removeAll { $0 == number } } }
        while true {
            let isTaken = part.state.wait(seconds: 0.1) { state -> Bool? in
                guard state.waiting.first == number,
                    isAlone ? state.used == 0 : state.used + bytes <= part.shared
                else { return nil }
                state.used += bytes
                return true
            }
            if isTaken == true { return Share(part, bytes) }
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
        // A small part of the limit more does no harm, and most images are small.
        if !add(layer, of: digest, upTo: limitBytes / 16) {
            try measureKnown(index)
            if add(layer, of: digest, upTo: limitBytes) { return }
            let sum = taken.withLock { Self.sum($0, without: digest) } + layer.bytes
            throw MergeError(
                .badImage,
                "layer \(digest): the image has too many entries, or too large ones: the index would take \(sum) bytes with the layers so "
                    + "far, and \(limitBytes) are allowed, \(IndexBytes.entry) for each entry of [store] max_image_entries"
            )
        }
    }

    /// Looks up what layers take that the index had. One that went meanwhile takes nothing.
    private func measureKnown(_ index: Index) throws {
        for case (let digest, .known(let layer)) in taken.withLock({ $0 }) {
            var bytes: Int64 = 0
            do { bytes = try index.bytes(of: layer).bytes } catch let error as StoreError where error.code == .notFound
            {}
            taken.withLock { if case .known = $0[digest] { $0[digest] = .bytes(bytes) } }
        }
    }

    /// Adds a layer if all of them stay within a limit: several are put into the index at once.
    private func add(_ layer: IndexBytes, of digest: Digest, upTo limit: Int64) -> Bool {
        taken.withLock { taken in
            guard layer.bytes <= limit, Self.sum(taken, without: digest) <= limit - layer.bytes else { return false }
            taken[digest] = .bytes(layer.bytes)
            return true
        }
    }

    private static func sum(_ taken: [Digest: Taken], without digest: Digest) -> Int64 {
        var sum: Int64 = 0
        for case (let other, .bytes(let bytes)) in taken where other != digest { sum += bytes }
        return sum
    }
}
