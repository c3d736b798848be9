import LaminaMerge
import LaminaOCI
import Logging
import Synchronization

/// Decides which lines about one thing are logged: the first few, and then one a minute with the number of those before it. What a pod reads
/// in a loop, and what its registry answers, would fill the log otherwise.
struct LogBudget {
    /// What one line is like another one by.
    struct Likeness: Hashable {
        var kind: String
        /// The layer or the server that it is about.
        var subject: String
    }

    private struct Entry {
        var told = 0
        /// Not told since the last line.
        var untold = 0
        /// When the next line is due.
        var next: ContinuousClock.Instant
        /// When the last one was reported, told or not.
        var last: ContinuousClock.Instant
    }

    /// How many lines are told at once.
    static let first = 5
    static let interval: Duration = .seconds(60)
    /// How long nothing must be reported until it counts as new.
    static let memory: Duration = .seconds(600)
    /// How many are told apart; all others are alike.
    static let limit = 64

    private static let others = Likeness(kind: "", subject: "")

    private var entries: [Likeness: Entry] = [:]

    /// How many are told apart now.
    var count: Int { entries.count }

    /// - Returns: nil if the line is not told; else how many before it were not.
    mutating func untold(before likeness: Likeness, at now: ContinuousClock.Instant) -> Int? {
        if let entry = entries[likeness], now - entry.last >= Self.memory { entries[likeness] = nil }
        if entries[likeness] == nil, entries.count >= Self.limit {
            entries = entries.filter { now - $0.value.last < Self.interval }
        }
        let isKnown = entries[likeness] != nil || entries.count < Self.limit
        let key = isKnown ? likeness : Self.others
        var entry = entries[key] ?? Entry(next: now, last: now)
        defer { entries[key] = entry }
        entry.last = now
        guard entry.told < Self.first || now >= entry.next else {
            entry.untold += 1
            return nil
        }
        let untold = entry.untold
        entry.told += 1
        entry.untold = 0
        entry.next = now + Self.interval
        return untold
    }
}

/// Tells of errors of images and registries, within a ``LogBudget``.
final class LogLimiter: Sendable {
    private let budget = Mutex(LogBudget())
    private let now: @Sendable () -> ContinuousClock.Instant

    init(now: @escaping @Sendable () -> ContinuousClock.Instant = { ContinuousClock().now }) { self.now = now }

    /// Has an error told of, or counts it for a later line.
    ///
    /// - Parameters:
    ///   - what: was done when it was met.
    ///   - tell: logs it, with what it is given beside its own.
    func report(_ what: String, _ error: any Error, _ tell: (_ more: Logger.Metadata) -> Void) {
        let likeness = Self.likeness(what, error)
        let instant = now()
        guard let untold = budget.withLock({ $0.untold(before: likeness, at: instant) }) else { return }
        tell(untold == 0 ? [:] : ["and": "\(untold) more like it"])
    }

    /// By its code, and the first layer or server that its text names.
    static func likeness(_ what: String, _ error: any Error) -> LogBudget.Likeness {
        let code =
            switch error {
            case let error as MergeError: "\(error.code)"
            case let error as OCIError: error.code.rawValue
            default: "\(type(of: error))"
            }
        return LogBudget.Likeness(kind: "\(what) \(code)", subject: subject(in: "\(error)"))
    }

    private static func subject(in text: String) -> String {
        if let start = text.firstRange(of: "sha256:") { return String(text[start.upperBound...].prefix(64)) }
        guard let start = text.firstRange(of: "://") else { return "" }
        return String(text[start.upperBound...].prefix { !"/ ?:,;()'".contains($0) }.prefix(256))
    }
}
