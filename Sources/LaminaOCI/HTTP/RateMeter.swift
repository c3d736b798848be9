/// Measures what comes in a period, without the time that the receiver of the bytes takes.
struct RateMeter {
    private var start = ContinuousClock().now
    private var byteCount: Int64 = 0

    mutating func begin(at now: ContinuousClock.Instant) {
        start = now
        byteCount = 0
    }

    mutating func note(_ count: Int64, receiverTime: Duration) {
        byteCount += count
        start += receiverTime
    }

    /// How much has come within a period that is over; then the next one begins. `nil` while it lasts.
    mutating func bytes(within limit: Duration, until now: ContinuousClock.Instant) -> Int64? {
        guard now - start >= limit else { return nil }
        defer { begin(at: now) }
        return byteCount
    }
}
