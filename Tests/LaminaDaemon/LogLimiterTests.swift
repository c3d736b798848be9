import LaminaMerge
import LaminaOCI
import Synchronization
import Testing

@testable import LaminaDaemon

@Suite("How often the log tells of the same")
struct LogLimiterTests {
    private let layers = ["a", "b"].map { "sha256:" + String(repeating: $0, count: 64) }

    private func wrong(_ layer: String, at offset: Int = 0) -> MergeError {
        MergeError(.digestMismatch, "the chunk at \(offset) of \(layer) has another digest")
    }

    /// What is told of an error, with a clock of its own.
    private final class Told: Sendable {
        private let seconds = Mutex(0)
        private let start = ContinuousClock().now

        /// Reports an error many times at once; returns what was told of them.
        func report(_ limiter: LogLimiter, _ error: any Error, times: Int = 1) -> [String] {
            var told: [String] = []
            for _ in 0..<times {
                limiter.report("test", error) { told.append($0["and"].map { "\($0)" } ?? "") }
            }
            return told
        }

        func pass(_ more: Int) { seconds.withLock { $0 += more } }

        var now: ContinuousClock.Instant { start + .seconds(seconds.withLock { $0 }) }
    }

    @Test("a few lines at once, then one a minute that says how many more there were")
    func minutes() {
        let clock = Told()
        let limiter = LogLimiter { clock.now }
        let first = [String](repeating: "", count: LogBudget.first)
        #expect(clock.report(limiter, wrong(layers[0]), times: 1000) == first)
        clock.pass(59)
        #expect(clock.report(limiter, wrong(layers[0], at: 7)).isEmpty)
        clock.pass(1)
        // Wherever in the layer it is.
        #expect(clock.report(limiter, wrong(layers[0], at: 8), times: 10) == ["\(1001 - LogBudget.first) more like it"])
        clock.pass(60)
        #expect(clock.report(limiter, wrong(layers[0]), times: 10) == ["9 more like it"])
        // After a long time it is news again.
        clock.pass(600)
        #expect(clock.report(limiter, wrong(layers[0]), times: 10) == first)
    }

    @Test("another layer, another server and another kind of error have lines of their own")
    func kinds() {
        let clock = Told()
        let limiter = LogLimiter { clock.now }
        let errors: [any Error] = [
            wrong(layers[0]), wrong(layers[1]), MergeError(.fetch, "\(layers[0]) did not come"),
            OCIError(.network, "a page did not arrive from http://reg.example:5000/v2/x"),
            OCIError(.network, "a page did not arrive from http://other.example/v2/x"),
            OCIError(.stalled, "nothing of a page arrived from http://other.example/v2/x"),
        ]
        for error in errors {
            #expect(clock.report(limiter, error, times: 100).count == LogBudget.first, "\(error)")
        }
        // The same server, whatever was asked for there.
        let same = OCIError(.network, "another page did not arrive from http://other.example/v2/y")
        #expect(clock.report(limiter, same).isEmpty)
    }

    @Test("however many layers there are, what is remembered and told of them has a bound")
    func bounds() {
        var budget = LogBudget()
        let start = ContinuousClock().now
        var told = 0
        for number in 0..<100_000 {
            let likeness = LogBudget.Likeness(kind: "k", subject: "\(number)")
            if budget.untold(before: likeness, at: start + .milliseconds(number / 10)) != nil { told += 1 }
        }
        #expect(budget.count <= LogBudget.limit + 1)
        #expect(told == LogBudget.limit + LogBudget.first)
        // A minute later those that are quiet have made room.
        let later = LogBudget.Likeness(kind: "k", subject: "later")
        #expect(budget.untold(before: later, at: start + .seconds(90)) == 0)
    }
}
