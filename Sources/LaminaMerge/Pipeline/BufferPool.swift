import LaminaSystem

/// Memory for compressed bytes and for what they decompress to. It is bounded for the whole process, for any number of threads,
/// and this bounds what a kill costs.
///
/// A reservation counts a piece's compressed and decompressed bytes, from before it is fetched until it has landed. What a
/// reader waits for goes before background work, which never takes the last quarter. What has landed and is not recorded counts as in
/// flight, though it takes no memory: if the index's writer is held up, landing is held up too.
///
/// A source may stall with what it has reserved. So while others wait, one source has half of the memory at most, and the first
/// piece of each source goes beyond the limit if it is small, a quarter of the limit at most. Otherwise only a piece exceeds the limit
/// that is larger than it: alone, or beside background work if a reader waits for it. Other large pieces that readers wait for go beside
/// background work after a while.
final class BufferPool: Sendable {
    private struct Waiter {
        var number: UInt64
        var source: SourceKey
        /// Whether it has waited for so long that those who bring nothing have to make room.
        var hasWaited = false
    }

    private struct State {
        var used = 0
        var peak = 0
        var urgent = 0
        /// What each source has of it, and what of that readers wait for.
        var usedBy: [SourceKey: Int] = [:]
        var urgentBy: [SourceKey: Int] = [:]
        /// The reservations for readers that wait, in the order in which they came: background work lets them go first.
        var waiting: [Waiter] = []
        var lastNumber: UInt64 = 0
        /// Bytes that have landed and that the index does not know yet.
        var unrecorded = 0
        /// Why the index records nothing: then no reservation waits for it.
        var refusal: (any Error)?
        var isClosed = false
        var free: [UnsafeMutableRawBufferPointer] = []

        var isEmpty: Bool { used == 0 && unrecorded == 0 }

        mutating func wait(_ source: SourceKey) -> UInt64 {
            lastNumber += 1
            waiting.append(Waiter(number: lastNumber, source: source))
            return lastNumber
        }

        mutating func count(_ bytes: Int, _ source: SourceKey, isUrgent: Bool) {
            used += bytes
            peak = max(peak, used)
            Self.count(bytes, source, &usedBy)
            guard isUrgent else { return }
            urgent += bytes
            Self.count(bytes, source, &urgentBy)
        }

        private static func count(_ bytes: Int, _ source: SourceKey, _ sums: inout [SourceKey: Int]) {
            let sum = (sums[source] ?? 0) + bytes
            sums[source] = sum == 0 ? nil : sum
        }
    }

    /// How long a reservation waits before those who bring nothing have to make room, in seconds.
    private static let patience = 2.0

    private let limit: Int
    /// The most that background work takes.
    var backgroundLimit: Int { limit / 4 * 3 }
    private let state: Monitor<State>

    /// - Parameter limit: how many bytes may be in flight.
    init(limit: Int) {
        self.limit = limit
        state = Monitor(State())
    }

    deinit {
        state.withLock { for buffer in $0.free { buffer.deallocate() } }
    }

    /// The bytes in flight now.
    var used: Int { state.withLock { $0.used } }

    /// The same, and the maximum since the start.
    var usage: (now: Int, peak: Int) { state.withLock { ($0.used, $0.peak) } }

    /// How many reservations for readers wait.
    var urgentWaiting: Int { state.withLock { $0.waiting.count } }

    /// Whether a reader of another source has waited for memory for a while.
    func isPressed(by source: SourceKey) -> Bool {
        state.withLock { $0.waiting.contains { $0.hasWaited && $0.source != source } }
    }

    /// Waits until `bytes` more may be in flight for a source.
    ///
    /// - Throws: `MergeError.stopped` if the pool was closed meanwhile; or the reason why the index records nothing, if it
    ///   would have to wait for that.
    func reserve(_ bytes: Int, urgent: Bool, for source: SourceKey) throws(MergeError) {
        var number: UInt64?
        func attempt(_ pool: inout State, hasWaited: Bool) -> Result<Void, MergeError>? {
            let allows =
                urgent
                ? allowsUrgent(bytes, source, number, hasWaited: hasWaited, pool)
                : allowsBackground(bytes, source, pool)
            guard pool.isClosed || allows || pool.refusal != nil else {
                guard urgent else { return nil }
                let own = number ?? pool.wait(source)
                number = own
                if hasWaited, let index = pool.waiting.firstIndex(where: { $0.number == own }) {
                    pool.waiting[index].hasWaited = true
                }
                return nil
            }
            if let own = number { pool.waiting.removeAll { $0.number == own } }
            if pool.isClosed { return .failure(.stopped) }
            if !allows, let refusal = pool.refusal {
                return .failure(MergeError(.index, "what has landed cannot be recorded", cause: refusal))
            }
            pool.count(bytes, source, isUrgent: urgent)
            return .success(())
        }
        let early = state.wait(seconds: Self.patience) { attempt(&$0, hasWaited: false) }
        let result: Result<Void, MergeError>
        if let early { result = early } else { result = state.wait { attempt(&$0, hasWaited: true) } }
        // It is out of the way of those behind it.
        if number != nil { state.withLock(notify: true) { _ in } }
        try result.get()
    }

    /// - Parameter number: of its own place among those who wait; nil: it does not wait yet.
    private func allowsUrgent(
        _ bytes: Int, _ source: SourceKey, _ number: UInt64?, hasWaited: Bool, _ pool: State
    ) -> Bool {
        let earlier = pool.waiting.prefix { $0.number != number }
        // A large piece does not overtake another source's.
        if bytes > limit / 2, earlier.contains(where: { $0.source != source }) { return false }
        if pool.isEmpty { return true }
        let own = pool.usedBy[source] ?? 0
        if pool.used + pool.unrecorded + bytes <= limit {
            let isShare = own == 0 || own + bytes <= limit / 2
            if isShare || !pool.waiting.contains(where: { $0.source != source }) { return true }
        }
        if isFirst(bytes, pool.urgentBy[source], limit, pool) { return true }
        return (bytes > limit || hasWaited) && pool.urgent == 0 && pool.unrecorded < limit
    }

    private func allowsBackground(_ bytes: Int, _ source: SourceKey, _ pool: State) -> Bool {
        guard pool.waiting.isEmpty else { return false }
        return pool.used + pool.unrecorded + bytes <= backgroundLimit || pool.isEmpty
            || isFirst(bytes, pool.usedBy[source], backgroundLimit, pool)
    }

    /// Whether a piece is the first of its source, and small enough to go beyond the limit: a source that stalls with what it has
    /// reserved does not hold up another one.
    private func isFirst(_ bytes: Int, _ own: Int?, _ limit: Int, _ pool: State) -> Bool {
        // A chunk of the usual size that does not compress is with its member a little more than a quarter of the usual limit.
        own == nil && bytes <= self.limit / 4 + self.limit / 128 && pool.unrecorded + bytes <= limit
    }

    /// Counts bytes that have landed, until they are recorded.
    func landed(_ bytes: Int) { state.withLock { $0.unrecorded += bytes } }

    /// Counts landed bytes as recorded.
    func recorded(_ bytes: Int) {
        state.withLock(notify: true) { pool in
            pool.unrecorded -= bytes
            pool.refusal = nil
        }
    }

    /// Notes why the index records nothing now.
    func refuse(_ error: any Error) { state.withLock(notify: true) { $0.refusal = error } }

    /// Gives a reservation back.
    func release(_ bytes: Int, urgent: Bool, for source: SourceKey) {
        state.withLock(notify: true) { $0.count(-bytes, source, isUrgent: urgent) }
    }

    /// A buffer of at least `count` bytes.
    func take(_ count: Int) -> UnsafeMutableRawBufferPointer {
        let kept = state.withLock { pool -> UnsafeMutableRawBufferPointer? in
            guard let index = pool.free.firstIndex(where: { $0.count >= count }) else { return nil }
            return pool.free.remove(at: index)
        }
        // A multiple of 256 KiB, so that buffers can be reused.
        return kept ?? .allocate(byteCount: (count + 0x3ffff) & ~0x3ffff, alignment: 4096)
    }

    /// Takes a buffer back.
    func give(_ buffer: UnsafeMutableRawBufferPointer) {
        guard !buffer.isEmpty else { return }
        let surplus = state.withLock { pool -> UnsafeMutableRawBufferPointer? in
            pool.free.append(buffer)
            pool.free.sort { $0.count < $1.count }
            let total = pool.free.reduce(0) { $0 + $1.count }
            return total > limit ? pool.free.removeLast() : nil
        }
        surplus?.deallocate()
    }

    /// Frees the buffers that are not in use.
    func trim() {
        state.withLock { pool in
            for buffer in pool.free { buffer.deallocate() }
            pool.free = []
        }
    }

    /// Wakes all waiters with an error.
    func close() { state.withLock(notify: true) { $0.isClosed = true } }
}
