import LaminaStore
import Testing

@testable import LaminaSnapshotter

@Suite("What is fetched in the background")
struct BackgroundTests {
    private static let start = ContinuousClock.now

    private func work(_ layer: Int64, isFirst: Bool = false) -> BackgroundQueue.Work {
        BackgroundQueue.Work(layer: LayerID(layer), image: nil, isFirst: isFirst, notBefore: Self.start)
    }

    /// Takes work; nil: none is due.
    private func take(_ queue: inout BackgroundQueue, after seconds: Double = 0) -> (layer: Int64, isFirst: Bool)? {
        queue.take(at: Self.start + .seconds(seconds)).map { ($0.layer.row, $0.isFirst) }
    }

    @Test("comes in the order of the requests, what is wanted first before whole layers, and each once")
    func order() {
        var queue = BackgroundQueue()
        for layer: Int64 in 1...2 {
            for isFirst in [true, false, true] { queue.add(work(layer, isFirst: isFirst)) }
        }
        #expect(queue.count == 4 && queue.isFirstWaiting(at: Self.start))
        var taken: [(layer: Int64, isFirst: Bool)] = []
        while let next = take(&queue) { taken.append(next) }
        #expect(taken.map(\.layer) == [1, 2, 1, 2] && taken.map(\.isFirst) == [true, true, false, false])
        // What has stood back is next.
        queue.add(work(3))
        queue.putBack(work(1))
        let (next, last) = (take(&queue), take(&queue))
        #expect(next?.layer == 1 && last?.layer == 3)
        #expect(!queue.isWaiting(at: Self.start) && queue.firstDue == nil)
    }

    @Test("of a source that brings nothing goes behind the others, and is still fetched later")
    func stalls() {
        var queue = BackgroundQueue()
        queue.putBehind(work(1, isFirst: true), hasLanded: false, at: Self.start)
        queue.add(work(2))
        #expect(queue.isWaiting(at: Self.start))
        // It may not have the others stand back.
        #expect(!queue.isFirstWaiting(at: Self.start + .seconds(60)))
        let (other, early) = (take(&queue, after: 60), take(&queue, after: 5))
        #expect(other?.layer == 2 && early == nil)
        guard let again = queue.take(at: Self.start + .seconds(10)) else {
            Issue.record("it is forgotten")
            return
        }
        #expect(again.layer == LayerID(1) && again.stalls == 1)
        queue.putBehind(again, hasLanded: false, at: Self.start)
        #expect(queue.firstDue == Self.start + .seconds(20), "longer than before")
        guard let last = queue.take(at: Self.start + .seconds(20)) else {
            Issue.record("it is forgotten")
            return
        }
        queue.putBehind(last, hasLanded: true, at: Self.start)
        #expect(queue.firstDue == Self.start + .seconds(10), "something had come")
    }

    @Test("is tried again later and later where it fails")
    func failures() {
        var queue = BackgroundQueue()
        var failed = work(1)
        var pauses: [Double] = []
        for _ in 0..<8 {
            pauses.append(queue.retry(failed, at: Self.start))
            guard let next = queue.take(at: Self.start + .seconds(600)) else { break }
            failed = next
        }
        #expect(pauses == [10, 20, 40, 80, 160, 320, 600, 600])
    }

    @Test("is stalled if less than 64 KiB lands in 5 s, and until they have")
    func watch() {
        var watch = LandingWatch(at: Self.start)
        for second in 0...5 { watch.note(landed: Int64(second), at: Self.start + .seconds(second)) }
        #expect(!watch.isStalled)
        watch.note(landed: 6, at: Self.start + .seconds(6))
        #expect(watch.isStalled && !watch.hasLanded, "a byte a second is nothing")
        watch.note(landed: 64 << 10, at: Self.start + .seconds(7))
        #expect(!watch.isStalled && watch.hasLanded)
        watch.note(landed: (64 << 10) + 1, at: Self.start + .seconds(12))
        #expect(!watch.isStalled)
        watch.note(landed: (64 << 10) + 1, at: Self.start + .seconds(13))
        #expect(watch.isStalled)
    }
}
