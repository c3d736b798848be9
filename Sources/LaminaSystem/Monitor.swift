import Glibc

/// A value behind a lock, with a condition to wait for, which `Mutex` of Synchronization lacks.
///
/// For threads that block by design (merge workers, fetchers); never waited on from Swift's cooperative pool.
public final class Monitor<State>: @unchecked Sendable {
    // @unchecked: `state` is only touched with `lock` held, which only `withLock` and `wait` take. The primitives are in memory
    // that never moves, as pthread requires.
    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var state: State

    public init(_ state: sending State) {
        lock = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(lock, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        // The wall clock may jump; a timeout must not.
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
        self.state = state
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(lock)
        condition.deallocate()
        lock.deallocate()
    }

    /// Runs `body` with the lock held, then wakes every waiter if `notify` is true.
    public func withLock<Result, Failure: Error>(
        notify: Bool = false, _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        pthread_mutex_lock(lock)
        defer {
            if notify { pthread_cond_broadcast(condition) }
            pthread_mutex_unlock(lock)
        }
        return try body(&state)
    }

    /// Runs `body` with the lock held if the lock is free; otherwise returns nil without waiting.
    public func withLockIfFree<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result? {
        guard pthread_mutex_trylock(lock) == 0 else { return nil }
        defer { pthread_mutex_unlock(lock) }
        return try body(&state)
    }

    /// Runs `body` with the lock held, then wakes one waiter: for state whose waiters all wait for the same thing, and one of
    /// them takes what `body` brings.
    public func withLockWakingOne<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        pthread_mutex_lock(lock)
        defer {
            pthread_cond_signal(condition)
            pthread_mutex_unlock(lock)
        }
        return try body(&state)
    }

    /// Waits until `body` returns a value; it runs with the lock held, first at once and then after each `notify`.
    public func wait<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result?
    ) throws(Failure) -> Result {
        pthread_mutex_lock(lock)
        defer { pthread_mutex_unlock(lock) }
        while true {
            if let result = try body(&state) { return result }
            pthread_cond_wait(condition, lock)
        }
    }

    /// As `wait`, but gives up after `seconds` with `nil`.
    public func wait<Result, Failure: Error>(
        seconds: Double, _ body: (inout State) throws(Failure) -> Result?
    ) throws(Failure) -> Result? {
        var deadline = timespec()
        clock_gettime(CLOCK_MONOTONIC, &deadline)
        let total = Double(deadline.tv_nsec) / 1e9 + seconds
        deadline.tv_sec += Int(total)
        deadline.tv_nsec = Int((total - Double(Int(total))) * 1e9)
        pthread_mutex_lock(lock)
        defer { pthread_mutex_unlock(lock) }
        while true {
            if let result = try body(&state) { return result }
            if pthread_cond_timedwait(condition, lock, &deadline) == ETIMEDOUT { return try body(&state) }
        }
    }
}
