import LaminaDigest
import LaminaFormats
import LaminaSystem
import Synchronization

/// Memory for tables of contents that are being read, of the whole process: however many layers are indexed at once, and whatever their
/// images say, the sum has a bound.
final class TOCMemory: Sendable {
    /// Bytes of JSON that may be in the making at once: the largest table of contents that there may be, alone. The tree that is made of it
    /// takes about as much again.
    private let limit: Int
    private let used = Monitor(0)

    init(limit: Int) { self.limit = limit }

    /// A part of the memory, until it goes.
    final class Share: Sendable {
        private let memory: TOCMemory
        private let bytes: Int

        fileprivate init(_ memory: TOCMemory, _ bytes: Int) { (self.memory, self.bytes) = (memory, bytes) }

        deinit { memory.used.withLock(notify: true) { [bytes] in $0 -= bytes } }
    }

    /// Waits until there is room for what a compressed table of contents may become.
    ///
    /// - Throws: `MergeError.stopped`.
    func take(compressed: Int, _ limits: FormatLimits, _ shouldStop: () -> Bool) throws(MergeError) -> Share {
        // A small one may be any of sixteen megabytes; above that the ratio counts.
        let most = max(min(compressed, Int.max / limits.tocRatio) * limits.tocRatio, 1)
        let bytes = min(most, limits.tocBytes, limit)
        while true {
            let isTaken = used.wait(seconds: 0.1) { used -> Bool? in
                guard used + bytes <= limit else { return nil }
                used += bytes
                return true
            }
            if isTaken == true { return Share(self, bytes) }
            if shouldStop() { throw .stopped }
        }
    }
}

/// How many entries the layers of one image may have together: what is in the index of it grows with that.
final class EntryBudget: Sendable {
    private let limit: Int
    private let taken = Mutex<[Digest: Int]>([:])

    init(limit: Int) { self.limit = limit }

    /// Counts a layer, once.
    ///
    /// - Throws: `MergeError.badImage` where it is too much with those before it.
    func take(_ count: Int, of layer: Digest) throws(MergeError) {
        let sum = taken.withLock { taken in
            let others = taken.reduce(0) { $0 + ($1.key == layer ? 0 : $1.value) }
            if others + count <= limit { taken[layer] = count }
            return others + count
        }
        guard sum <= limit else {
            throw MergeError(
                .badImage,
                "layer \(layer): the image has too many entries: \(sum) in the layers so far, of which \(limit) are allowed "
                    + "([store] max_image_entries)")
        }
    }
}
