import LaminaSystem

/// Memory for compressed bytes and for what they decompress to. It is bounded for the whole process, for any number of threads,
/// and this bounds what a kill costs.
///
/// A reservation counts a piece's compressed and decompressed bytes, from before it is fetched until it has landed. What a
/// reader waits for goes before background work, which never takes the last quarter. Only a piece that is larger than the limit
/// exceeds it: alone, or beside background work if a reader waits for it. What has landed and is not recorded counts as in
/// flight, though it takes no memory: if the index's writer is held up, landing is held up too.
final class BufferPool: Sendable {
    private struct State {
        var used = 0
        var peak = 0
        var urgent = 0
        /// How many urgent reservations wait: background work lets them go first.
        var urgentWaiting = 0
        /// Bytes that have landed and that the index does not know yet.
        var unrecorded = 0
        /// Why the index records nothing: then no reservation waits for it.
        var refusal: (any Error)?
        var isClosed = false
        var free: [UnsafeMutableRawBufferPointer] = []

        var isEmpty: Bool { used == 0 && unrecorded == 0 }
    }

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
    var urgentWaiting: Int { state.withLock { $0.urgentWaiting } }

    /// Waits until `bytes` more may be in flight.
    ///
    /// - Throws: `MergeError.stopped` if the pool was closed meanwhile; or the reason why the index records nothing, if it
    ///   would have to wait for that.
    func reserve(_ bytes: Int, urgent: Bool) throws(MergeError) {
        var isWaiting = false
        let failure = state.wait { pool -> Result<Void, MergeError>? in
            let allows = urgent ? allowsUrgent(bytes, pool) : allowsBackground(bytes, pool)
            let mayGo = pool.isClosed || allows || pool.refusal != nil
            // It begins to wait, or has finished waiting.
            if urgent, isWaiting == mayGo {
                isWaiting.toggle()
                pool.urgentWaiting += isWaiting ? 1 : -1
            }
            guard mayGo else { return nil }
            if pool.isClosed { return .failure(.stopped) }
            if !allows, let refusal = pool.refusal {
                return .failure(MergeError(.index, "what has landed cannot be recorded", cause: refusal))
            }
            pool.used += bytes
            pool.peak = max(pool.peak, pool.used)
            if urgent { pool.urgent += bytes }
            return .success(())
        }
        try failure.get()
    }

    private func allowsUrgent(_ bytes: Int, _ pool: State) -> Bool {
        pool.used + pool.unrecorded + bytes <= limit || pool.isEmpty
            || (bytes > limit && pool.urgent == 0 && pool.unrecorded < limit)
    }

    private func allowsBackground(_ bytes: Int, _ pool: State) -> Bool {
        pool.urgentWaiting == 0 && (pool.used + pool.unrecorded + bytes <= backgroundLimit || pool.isEmpty)
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
