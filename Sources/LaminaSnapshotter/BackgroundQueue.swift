import LaminaStore

/// What is to be fetched in the background, and what of it is next. It has no clock: the time is given to it.
struct BackgroundQueue {
    struct Work {
        var layer: LayerID
        var image: SnapshotImage?
        /// Whether it fetches only what is wanted first.
        var isFirst: Bool
        var failures = 0
        /// How often in a row its source brought nothing while others waited.
        var stalls = 0
        var notBefore: ContinuousClock.Instant

        func isSame(_ other: Work) -> Bool { layer == other.layer && isFirst == other.isFirst }
    }

    /// A layer that cannot be fetched is tried again after this time, then after twice as long, up to the limit; in seconds.
    private static let firstPause = 10.0
    private static let longestPause = 600.0
    /// The limit for a layer whose source brings nothing.
    private static let longestStallPause = 120.0

    private var waiting: [Work] = []

    var count: Int { waiting.count }

    /// When the first work is due.
    var firstDue: ContinuousClock.Instant? { waiting.map(\.notBefore).min() }

    mutating func add(_ work: Work) {
        if !waiting.contains(where: work.isSame) { waiting.append(work) }
    }

    /// Takes the work that is next: what is wanted first of layers, then whole layers, then what has stalled; each in its order.
    mutating func take(at now: ContinuousClock.Instant) -> Work? {
        let next =
            waiting.firstIndex { $0.isFirst && $0.stalls == 0 && $0.notBefore <= now }
            ?? waiting.firstIndex { $0.stalls == 0 && $0.notBefore <= now }
            ?? waiting.firstIndex { $0.notBefore <= now }
        return next.map { waiting.remove(at: $0) }
    }

    /// Whether what is wanted first of a layer is due.
    func isFirstWaiting(at now: ContinuousClock.Instant) -> Bool {
        waiting.contains { $0.isFirst && $0.stalls == 0 && $0.notBefore <= now }
    }

    /// Whether any work is due.
    func isWaiting(at now: ContinuousClock.Instant) -> Bool { waiting.contains { $0.notBefore <= now } }

    /// Puts work back that has stood back for what is wanted first.
    mutating func putBack(_ work: Work) {
        waiting.removeAll(where: work.isSame)
        waiting.insert(work, at: 0)
    }

    /// Puts work behind, in place of the same that was added meanwhile.
    private mutating func append(_ work: Work) {
        waiting.removeAll(where: work.isSame)
        waiting.append(work)
    }

    /// Puts work behind all other, because its source brings nothing.
    ///
    /// - Parameter hasLanded: whether something has come since it was taken.
    mutating func putBehind(_ work: Work, hasLanded: Bool, at now: ContinuousClock.Instant) {
        var work = work
        work.stalls = hasLanded ? 1 : work.stalls + 1
        work.notBefore = now + .seconds(Self.pause(work.stalls, Self.longestStallPause))
        append(work)
    }

    /// Tries work again later that has failed.
    ///
    /// - Returns: after how many seconds.
    mutating func retry(_ work: Work, at now: ContinuousClock.Instant) -> Double {
        var work = work
        work.failures += 1
        let pause = Self.pause(work.failures, Self.longestPause)
        work.notBefore = now + .seconds(pause)
        append(work)
        return pause
    }

    /// - Parameter times: how often in a row it has happened; at least 1.
    private static func pause(_ times: Int, _ limit: Double) -> Double {
        min(firstPause * Double(1 << min(times - 1, 10)), limit)
    }
}

/// Whether a pull brings anything. A source that sends a byte now and then counts as one that sends nothing.
struct LandingWatch {
    /// A pull that works lands as many bytes within this time.
    static let time: Duration = .seconds(5)
    static let bytes: Int64 = 64 << 10

    private var lastBytes: Int64 = 0
    private var lastTime: ContinuousClock.Instant
    private(set) var isStalled = false
    private(set) var hasLanded = false

    init(at now: ContinuousClock.Instant) { lastTime = now }

    /// - Parameter landed: how many bytes the pull has landed so far.
    mutating func note(landed: Int64, at now: ContinuousClock.Instant) {
        if landed - lastBytes >= Self.bytes {
            (lastBytes, lastTime) = (landed, now)
            (isStalled, hasLanded) = (false, true)
        } else if now - lastTime > Self.time {
            isStalled = true
        }
    }
}
