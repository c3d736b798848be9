import Glibc

/// Seconds of a clock that cannot be set (CLOCK_MONOTONIC), the same for all processes of one boot.
public func monotonicSeconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}
