import Glibc

/// Sleeps, asking every 100 ms whether to stop; returns false if it was stopped.
func pause(_ duration: Duration, shouldStop: () -> Bool) -> Bool {
    let clock = ContinuousClock()
    let end = clock.now + duration
    while true {
        if shouldStop() { return false }
        let left = end - clock.now
        guard left > .zero else { return true }
        let slice = min(left, .milliseconds(100))
        usleep(UInt32(slice.components.attoseconds / 1_000_000_000_000) + 1)
    }
}
