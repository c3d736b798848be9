import Glibc
import LaminaOCI
import LaminaStore
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("the pace of a connection")
struct PaceTests {
    private static let mebi = 1 << 20

    /// The measurements of a line, in seconds and MiB a second, and how many MiB a background request then has.
    struct Line: Sendable {
        var latency: Double
        var rate: Double
        var alone: Double
        var besideReaders: Double

        init(_ latency: Double, _ rate: Double, alone: Double, besideReaders: Double) {
            (self.latency, self.rate, self.alone, self.besideReaders) = (latency, rate, alone, besideReaders)
        }
    }

    @Test(
        "decides how much is asked for at once: long where answers are far away, short where bytes are slow",
        arguments: [
            // This machine; a local network; a cloud's store; a far one; a slow line; a phone in a tunnel.
            Line(0.001, 100, alone: 8, besideReaders: 8), Line(0.004, 20, alone: 2, besideReaders: 2),
            Line(0.05, 30, alone: 24, besideReaders: 3), Line(0.2, 100, alone: 32, besideReaders: 8),
            Line(0.02, 0.5, alone: 1, besideReaders: 0.25), Line(3, 0.01, alone: 1, besideReaders: 0.25),
        ])
    func sizes(line: Line) {
        var pace = ConnectionPace()
        let bytes = 1 << 20
        for _ in 0..<3 {
            pace.note(
                bytes: bytes, latency: line.latency, seconds: Double(bytes) / (line.rate * Double(Self.mebi)))
        }
        func isAbout(_ size: Int, _ expected: Double) -> Bool {
            abs(Double(size) / Double(Self.mebi) - expected) < 0.01
        }
        #expect(isAbout(pace.rangeSize(besideReaders: false), line.alone))
        #expect(isAbout(pace.rangeSize(besideReaders: true), line.besideReaders))
    }

    @Test("is forgotten as it changes, and is not told by too little, or by a connection that gave nothing")
    func changes() {
        var pace = ConnectionPace()
        #expect(pace.rangeSize(besideReaders: false) == ConnectionPace.firstRange)
        #expect(pace.readAheadSize(limit: 1000) == 1000)
        pace.note(bytes: 0, latency: 9, seconds: 9)
        #expect(pace == ConnectionPace())
        pace.note(bytes: 1000, latency: 0.1, seconds: 0)
        #expect(pace.latency == 0.1 && pace.bytesPerSecond == nil)
        for _ in 0..<8 { pace.note(bytes: Self.mebi, latency: 0.1, seconds: 10) }
        #expect(pace.rangeSize(besideReaders: false) == ConnectionPace.bounds.lowerBound)
        #expect(pace.readAheadSize(limit: 8 * Self.mebi) < 120_000)
        // The line is good again: some ranges later they are long.
        for _ in 0..<5 { pace.note(bytes: 8 * Self.mebi, latency: 0.1, seconds: 0.1) }
        #expect(pace.rangeSize(besideReaders: false) > 2 * Self.mebi)
        for _ in 0..<10 { pace.note(bytes: 8 * Self.mebi, latency: 0.1, seconds: 0.1) }
        #expect(pace.rangeSize(besideReaders: false) == ConnectionPace.bounds.upperBound)
    }

    @Test("makes the ranges of a pull short while it is slow and long when it is only far, and memory stays bounded")
    func pull() throws {
        let fixture = try Fixture()
        let registry = try RegistryFixture()
        defer { registry.stop() }
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        var layer = ForgedLayer()
        // One file: a range ends where a file begins that must be looked up first.
        let bytes = (0..<56).flatMap { noise(Self.mebi, seed: UInt64($0)) }
        layer.file("f", bytes, chunkSize: 256 << 10)
        layer.finish()
        let digest = layer.digest
        try fixture.write(layer)
        try registry.push(layout: fixture.layout, name: "r", tag: "1")
        let bufferSize = 6 << 20
        try fixture.withEngine(bufferSize: bufferSize) { engine in
            let image = try ImagePull(engine, shouldStop: { false }, report: { _ in })
                .index(try ImageReference(parsing: "\(proxy.host)/r:1"), platform: nil, plainHTTP: true)
            proxy.reset()
            /// The sizes that were requested, in order.
            func sizes() -> [Int] { proxy.requests(of: digest).compactMap { $0.rangeByteCount } }
            // So slow that a busy machine's latency, which lengthens ranges, does not matter: they should last at most a
            // second.
            proxy.faults.bytesPerSecond = Self.mebi
            let inFlight = Atomic<Int>(0)
            let isSlow = Atomic<Bool>(true)
            let pull = ImagePull(engine, shouldStop: { false }) { _ in
                inFlight.max(engine.inFlightBytes, ordering: .relaxed)
                guard isSlow.load(ordering: .relaxed), sizes().count >= 6 else { return }
                // From here on the line is fast, and the answer comes late.
                isSlow.store(false, ordering: .relaxed)
                var faults = Faults()
                faults.delay = 0.2
                proxy.faults = faults
            }
            try pull.merge(image)
            let all = sizes()
            print("ranges, slow and then far, in KiB: \(all.map { $0 >> 10 })")
            let hasChanged = !isSlow.load(ordering: .relaxed)
            #expect(hasChanged)
            #expect(all[..<2].allSatisfy { $0 <= ConnectionPace.firstRange && $0 > Self.mebi }, "nothing is known yet")
            #expect(all[2..<6].allSatisfy { $0 <= Self.mebi * 3 / 2 }, "a slow line has short ranges")
            let longest = all[6...].max() ?? 0
            #expect(longest >= 4 * Self.mebi, "a far one has long ranges")
            let mostInFlight = inFlight.load(ordering: .relaxed)
            #expect(mostInFlight > 0 && mostInFlight <= bufferSize)
            #expect(proxy.repeatedByteCount(of: digest) == 0)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("is not all that counts while readers wait: ranges behind their backs are short then, and for a moment after")
    func readers() throws {
        let now = ContinuousClock.now
        var memory = ReaderMemory()
        #expect(!memory.lasts(at: now))
        memory.lastFetch = now
        #expect(memory.lasts(at: now + .milliseconds(900)))
        #expect(!memory.lasts(at: now + .milliseconds(1100)))
        var plan = MergePlan(fetchers: 2)
        #expect(!plan.hasReaders)
        plan.lanes.append(FetchJob(layer: LayerID(1), isUrgent: true))
        #expect(plan.hasReaders, "it waits")
        let (job, source) = try #require({ plan.lanes.popUrgent() }())
        #expect(plan.hasReaders, "it runs")
        plan.fetched(job, from: source)
        #expect(!plan.hasReaders)
    }

    @Test("says when a read is given up: soon if nobody waits for it, and for others if it brings little")
    func watch() {
        let start = ContinuousClock.now
        func after(_ seconds: Double) -> ContinuousClock.Instant { start + .seconds(seconds) }
        let watch = ReadWatch(patience: .seconds(5), at: start)
        #expect(!watch.shouldGiveUp(at: after(0.9)) { true } && !watch.shouldMakeRoom(at: after(4.9)) { true })
        #expect(!watch.shouldMakeRoom(at: after(60)) { false }, "nobody else waits")
        #expect(watch.isSilent && !watch.hasEnded)
        watch.progressed(64 << 10, since: after(60), at: after(60))
        // What a wait for memory has lasted does not count.
        watch.progressed(100, since: after(61), at: after(70))
        #expect(!watch.isSlow(at: after(73)) && !watch.isSilent)
        // A byte now and then is nothing.
        for second in 71...74 { watch.progressed(1, since: after(Double(second)), at: after(Double(second))) }
        #expect(watch.shouldMakeRoom(at: after(75)) { true })
        #expect(watch.hasMadeRoom && watch.hasEnded && !watch.hasGivenUp)
        let other = ReadWatch(patience: .seconds(5), at: start)
        #expect(!other.shouldGiveUp(at: after(2)) { false })
        #expect(other.shouldGiveUp(at: after(2)) { true })
        #expect(other.hasGivenUp && !other.hasMadeRoom)
    }

    @Test("is had patience with: longer where it is far, and longer each time")
    func patience() {
        var pace = ConnectionPace()
        #expect(ReadWatch.patience(pace, stalls: 0) == .seconds(5))
        #expect(ReadWatch.patience(pace, stalls: 2) == .seconds(20))
        #expect(ReadWatch.patience(pace, stalls: 9) == .seconds(40))
        pace.note(bytes: 100, latency: 2, seconds: 1)
        #expect(ReadWatch.patience(pace, stalls: 0) == .seconds(16))
    }
}
