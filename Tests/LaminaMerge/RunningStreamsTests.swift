import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("the streams of plain layers")
struct RunningStreamsTests {
    private static let start = ContinuousClock.now

    private func blob(_ number: UInt8) -> Descriptor {
        Descriptor(mediaType: "", digest: SHA256.hash([number]), size: Int64(number))
    }

    private func turns(limit: Int = 3) -> StreamTurns { StreamTurns(limit: limit, patience: .seconds(10)) }

    /// Has a stream of a blob wait, and begin if it may.
    private func ask(
        _ turns: inout StreamTurns, _ blob: UInt8, _ origin: String, after seconds: Double = 0
    ) -> (number: UInt64, isRunning: Bool) {
        let number = turns.wait(for: self.blob(blob), from: "https://host/\(origin)")
        return (number, turns.begin(number, at: Self.start + .seconds(seconds)))
    }

    private func isRunning(_ turns: inout StreamTurns, _ number: UInt64, after seconds: Double) -> Bool {
        turns.begin(number, at: Self.start + .seconds(seconds))
    }

    @Test("of one origin are all while no other one waits; when another does, the newest makes room at once")
    func share() {
        var turns = turns()
        let own = (1...4).map { ask(&turns, UInt8($0), "a") }
        #expect(own.map(\.isRunning) == [true, true, true, false])
        let other = ask(&turns, 9, "b")
        #expect(!other.isRunning)
        #expect(own.map { turns.isToEnd($0.number) } == [false, false, true, false])
        turns.end(blob(3).digest)
        let back = ask(&turns, 3, "a")
        #expect(!back.isRunning)
        let waited = isRunning(&turns, own[3].number, after: 1)
        #expect(!waited, "it is of the origin that has two")
        let next = isRunning(&turns, other.number, after: 1)
        #expect(next)
        turns.end(blob(9).digest)
        let again = isRunning(&turns, own[3].number, after: 2)
        #expect(again, "nobody else waits")
        turns.end(blob(4).digest)
        // A server that has blobs at URLs of their own is one origin.
        #expect(StreamTurns.origin("url:https://host/x") == StreamTurns.origin("url:https://host/y?z"))
        #expect(StreamTurns.origin("https://host/x") != StreamTurns.origin("https://host/y"))
        turns.end(blob(1).digest)
        let now = isRunning(&turns, back.number, after: 3)
        #expect(now)
    }

    @Test("of one blob run one at a time, in the order in which they came")
    func order() {
        var turns = turns()
        let first = ask(&turns, 1, "a")
        let (second, third) = (ask(&turns, 1, "b"), ask(&turns, 1, "b"))
        #expect(first.isRunning && !second.isRunning && !third.isRunning)
        turns.end(blob(1).digest)
        let tooSoon = isRunning(&turns, third.number, after: 1)
        let next = isRunning(&turns, second.number, after: 1)
        #expect(!tooSoon && next)
        turns.leave(third.number)
        turns.end(blob(1).digest)
        let gone = isRunning(&turns, third.number, after: 2)
        #expect(!gone && turns.all.isEmpty)
    }

    @Test("that bring nothing are taken over by another origin's stream of the same blob, and go on behind it")
    func takeover() {
        var turns = turns()
        let first = ask(&turns, 1, "a")
        let own = ask(&turns, 1, "a")
        _ = isRunning(&turns, own.number, after: 60)
        #expect(!turns.isToEnd(first.number), "only its own origin waits")
        turns.leave(own.number)
        turns.note(blob(1).digest, fetched: 1, placed: 1, at: Self.start + .seconds(60))
        let other = ask(&turns, 1, "b", after: 65)
        #expect(!other.isRunning && !turns.isToEnd(first.number), "it has brought something just now")
        let early = isRunning(&turns, other.number, after: 71)
        #expect(!early && turns.isToEnd(first.number))
        // The other one waits until it has ended, and goes first then.
        turns.end(blob(1).digest)
        let again = ask(&turns, 1, "a", after: 72)
        let next = isRunning(&turns, other.number, after: 72)
        #expect(!again.isRunning && next)
        #expect(!turns.isToEnd(other.number))
    }

    @Test("that bring nothing give a place to an origin that has none, however many they are, and one at a time")
    func room() {
        var turns = turns()
        let stalled = ["a", "b", "c"].enumerated().map { ask(&turns, UInt8($0), $1, after: Double($0)) }
        #expect(stalled.map(\.isRunning) == [true, true, true])
        let other = ask(&turns, 9, "d", after: 5)
        #expect(!other.isRunning)
        #expect(!stalled.contains { turns.isToEnd($0.number) })
        for seconds in [13.0, 14, 60] { _ = isRunning(&turns, other.number, after: seconds) }
        #expect(stalled.map { turns.isToEnd($0.number) } == [true, false, false])
        turns.end(blob(0).digest)
        let back = ask(&turns, 0, "a", after: 61)
        let next = isRunning(&turns, other.number, after: 61)
        #expect(!back.isRunning && next)
    }

    @Test("are told to stop, and run again in their next turn")
    func again() throws {
        let streams = RunningStreams(memory: 3 * RunningStreams.memory, patience: .milliseconds(100))
        let order = Mutex<[String]>([])
        let first = Monitor(0)
        let blob = blob(1)
        let thread = try Thread("stalled") {
            _ = try? streams.run(blob, from: "https://host/a", { false }) { shouldStop in
                let turn = first.withLock(notify: true) { turn in
                    turn += 1
                    return turn
                }
                order.withLock { $0.append("stalled \(turn)") }
                // Nothing comes, until another one has been there.
                while turn == 1, !shouldStop() { _ = first.wait(seconds: 0.01) { _ in Bool?.none } }
                if turn == 1 { throw MergeError.stopped }
            }
        }
        _ = first.wait(seconds: 30) { $0 > 0 ? true : nil }
        try streams.run(blob, from: "https://host/b", { false }) { _ in order.withLock { $0.append("other") } }
        thread.join()
        #expect(order.withLock { $0 } == ["stalled 1", "other", "stalled 2"])
        // An error of its own ends a stream, also if another one waits.
        #expect(throws: MergeError.self) {
            try streams.run(blob, from: "https://host/a", { false }) { _ -> Void in
                throw MergeError(.badImage, "it is wrong")
            }
        }
        #expect(streams.all.isEmpty)
    }

    @Test("of two images that list one layer do not wait for each other's registry")
    func sameLayer() throws {
        let fixture = try Fixture()
        let layer = try PlainLayer([("file", noise(300_000, seed: 1))])
        let descriptor = try fixture.write(layer, .gzip)
        try fixture.withEngine { engine in
            let bad = ControlledSource(OCILayoutSource(directory: fixture.layout), location: "oci:/bad")
            bad.behaviour.allowance = 0
            let hasLeft = Flag()
            let thread = try Thread("bad") {
                _ = try? fixture.stream(engine, descriptor, layer.diffID, from: bad) { hasLeft.isSet }
            }
            #expect(bad.waits())
            let took = try seconds {
                _ = try fixture.stream(engine, descriptor, layer.diffID)
            }
            #expect(took < 30, "\(took) s")
            hasLeft.set()
            thread.join()
            #expect(try engine.store.isWholeAndRight())
        }
    }
}
