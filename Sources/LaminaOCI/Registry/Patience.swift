/// How long to wait between attempts, and when to stop.
struct Patience {
    let settings: RegistryClient.Settings
    /// Attempts in a row that brought nothing.
    private var failures = 0
    private var lastProgress = ContinuousClock().now
    /// Whether an attempt has failed before.
    private(set) var isTried = false

    init(settings: RegistryClient.Settings) { self.settings = settings }

    /// The wait before the next attempt, by exponential backoff with jitter or as the server asks.
    ///
    /// - Throws: `failure`, if this was one attempt too many or the server asks for a longer wait than is allowed.
    mutating func wait(after failure: OCIError, retryAfter: Int64, progressed: Bool) throws(OCIError) -> Duration {
        let now = ContinuousClock().now
        isTried = true
        if progressed { lastProgress = now }
        failures = progressed ? 0 : failures + 1
        if failures >= settings.tryLimit {
            let count = failures > 1 ? " (tried \(failures) times)" : ""
            throw OCIError(failure.code, failure.message + count, cause: failure.cause)
        }
        var wait: Duration
        if retryAfter > 0 {
            wait = .seconds(retryAfter)
            guard wait <= settings.retryAfterLimit else {
                throw OCIError(
                    failure.code, "\(failure.message) (it asks to wait \(retryAfter) s)", cause: failure.cause)
            }
        } else {
            let doublings = min(max(failures - 1, 0), 20)
            wait = min(settings.backoff * (1 << doublings), settings.backoffLimit) * Double.random(in: 0.5...1)
        }
        guard now - lastProgress + wait <= settings.progressLimit else {
            throw OCIError(
                failure.code, "\(failure.message) (nothing new came for \(now - lastProgress))", cause: failure.cause)
        }
        return wait
    }
}
