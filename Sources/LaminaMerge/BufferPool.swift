import LaminaSystem

/// Memory for compressed bytes, bounded for the whole process.
///
/// A reservation counts a piece's compressed and decompressed bytes, from before it is fetched until it has landed. What
/// a reader waits for goes before background work, which never takes the last quarter. Only a piece that is larger than
/// the limit goes over it: alone, or beside background work when a reader waits for it.
final class BufferPool: Sendable {
    private struct State {
        var used = 0
        var peak = 0
        var urgent = 0
        /// How many urgent reservations wait: background work stands back for them.
        var urgentWaiting = 0
        var isClosed = false
        var free: [UnsafeMutableRawBufferPointer] = []
    }

    private let limit: Int
    /// The most that background work takes.
    var backgroundLimit: Int { limit / 4 * 3 }
    private let state: Monitor<State>

    /// - Parameter limit: bytes in flight.
    init(limit: Int) {
        self.limit = limit
        state = Monitor(State())
    }

    deinit {
        state.withLock { for buffer in $0.free { buffer.deallocate() } }
    }

    /// The bytes in flight now.
    var used: Int { state.withLock { $0.used } }

    /// The same, and the most that ever were.
    var usage: (now: Int, peak: Int) { state.withLock { ($0.used, $0.peak) } }

    /// Waits until `bytes` more may be in flight.
    ///
    /// - Returns: false when the pool was closed meanwhile.
    func reserve(_ bytes: Int, urgent: Bool) -> Bool {
        var isWaiting = false
        return state.wait { pool in
            let mayGo = pool.isClosed || (urgent ? allowsUrgent(bytes, pool) : allowsBackground(bytes, pool))
            // Begins to wait, or has waited.
            if urgent, isWaiting == mayGo {
                isWaiting.toggle()
                pool.urgentWaiting += isWaiting ? 1 : -1
            }
            guard mayGo else { return nil }
            guard !pool.isClosed else { return false }
            pool.used += bytes
            pool.peak = max(pool.peak, pool.used)
            if urgent { pool.urgent += bytes }
            return true
        }
    }

    private func allowsUrgent(_ bytes: Int, _ pool: State) -> Bool {
        pool.used + bytes <= limit || pool.used == 0 || (bytes > limit && pool.urgent == 0)
    }

    private func allowsBackground(_ bytes: Int, _ pool: State) -> Bool {
        pool.urgentWaiting == 0 && (pool.used + bytes <= backgroundLimit || pool.used == 0)
    }

    /// Gives a reservation back.
    func release(_ bytes: Int, urgent: Bool) {
        state.withLock(notify: true) { pool in
            pool.used -= bytes
            if urgent { pool.urgent -= bytes }
        }
    }

    /// A buffer of at least `count` bytes.
    func take(_ count: Int) -> UnsafeMutableRawBufferPointer {
        let kept = state.withLock { pool -> UnsafeMutableRawBufferPointer? in
            guard let index = pool.free.firstIndex(where: { $0.count >= count }) else { return nil }
            return pool.free.remove(at: index)
        }
        // Whole 256 KiB, so that buffers fit again.
        return kept ?? .allocate(byteCount: (count + 0x3ffff) & ~0x3ffff, alignment: 4096)
    }

    /// Takes a buffer back.
    func give(_ buffer: UnsafeMutableRawBufferPointer) {
        let surplus = state.withLock { pool -> UnsafeMutableRawBufferPointer? in
            pool.free.append(buffer)
            pool.free.sort { $0.count < $1.count }
            let total = pool.free.reduce(0) { $0 + $1.count }
            return total > limit ? pool.free.removeLast() : nil
        }
        surplus?.deallocate()
    }

    /// Frees the buffers that nobody uses.
    func trim() {
        state.withLock { pool in
            for buffer in pool.free { buffer.deallocate() }
            pool.free = []
        }
    }

    /// Wakes and refuses whoever waits.
    func close() { state.withLock(notify: true) { $0.isClosed = true } }
}
