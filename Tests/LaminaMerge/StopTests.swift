import Glibc
import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("the engine")
struct EngineTests {
    @Test("stops while 50 requests wait: each is answered exactly once, and what landed is recorded")
    func stop() throws {
        let fixture = try Fixture()
        let bytes = (0..<10).map { noise(60_000, seed: UInt64($0)) }
        var layer = ForgedLayer()
        for (number, bytes) in bytes.enumerated() { layer.file("f\(number)", bytes, chunkSize: 10_000) }
        layer.finish()
        try fixture.write(layer)
        let answers = Answers()
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.allowance = 100_000
            let contents = try bytes.map { try engine.content(SHA256.hash($0)).id }
            let pulling = try Thread("pull") { try? engine.merge(image) }
            for number in 0..<50 {
                if number % 2 == 0 {
                    engine.whole(contents[number % 10], answers.take(number))
                } else {
                    engine.range(20_000..<30_000, of: contents[number % 10], answers.take(number))
                }
            }
            #expect(source.waits())
            engine.stop()
            pulling.join()
            #expect(engine.inFlightBytes == 0)
        }
        #expect(answers.wait(for: 50))
        #expect(answers.all.values.allSatisfy { $0.count == 1 })
        let store = try fixture.openStore()
        #expect(try store.landedByteCount() > 0)
        #expect(try !store.hasVolatileContent())
    }

    @Test("stops at any moment: every request is answered once, and the next engine goes on", arguments: 0..<12)
    func stopAtAnyMoment(round: Int) throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let bytes = (0..<30).map { noise(20_000 * (1 + $0 % 3), seed: UInt64($0)) }
        for (number, bytes) in bytes.enumerated() { layer.file("f\(number)", bytes, chunkSize: 20_000) }
        layer.finish()
        try fixture.write(layer)
        let answers = Answers()
        try fixture.withEngine(bufferSize: round % 2 == 0 ? 1 : 24 << 20) { engine in
            let image = try fixture.index(engine)
            let contents = try bytes.map { try engine.content(SHA256.hash($0)).id }
            let pulling = try Thread("pull") { try? engine.merge(image) }
            let asking = try Thread("ask") {
                for number in 0..<60 {
                    engine.range(0..<30_000, of: contents[number / 2], answers.take(number))
                    if number % 8 == 0 { usleep(300) }
                }
            }
            usleep(UInt32(round * 900))
            engine.stop()
            asking.join()
            pulling.join()
        }
        #expect(answers.all.count == 60)
        #expect(answers.all.values.allSatisfy { $0.count == 1 })
        try fixture.withEngine { engine in
            try engine.merge(try #require(try engine.store.index.images().first))
            #expect(try engine.store.isWholeAndRight())
        }
    }

    /// Gives half of what is requested, and the rest when it is told to, even if it should stop.
    private final class Stubborn: BlobSource {
        let upstream: any BlobSource
        let state = Monitor((isHalfway: false, goesOn: false))
        var location: String { upstream.location }

        init(_ upstream: any BlobSource) { self.upstream = upstream }

        func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
            try upstream.manifest(target, shouldStop: shouldStop)
        }

        func read(
            _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
            into sink: (UnsafeRawBufferPointer) throws -> Void
        ) throws {
            var bytes: [UInt8] = []
            try upstream.read(digest, size: size, range: range, shouldStop: { false }) { bytes += $0 }
            try bytes[..<(bytes.count / 2)].withUnsafeBytes { try sink($0) }
            state.withLock(notify: true) { $0.isHalfway = true }
            _ = state.wait(seconds: 10) { $0.goesOn ? true : nil }
            try bytes[(bytes.count / 2)...].withUnsafeBytes { try sink($0) }
        }
    }

    @Test("decodes and records what arrives while it stops, and loses none of its memory")
    func lateArrival() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        layer.file("file", noise(30_000, seed: 1))
        layer.finish()
        try fixture.write(layer)
        let store = try fixture.openStore()
        try fixture.withEngine(store: store) { engine in
            _ = try fixture.index(engine)
            let source = Stubborn(OCILayoutSource(directory: fixture.layout))
            engine.sources.add(source)
            let answers = Answers()
            engine.whole(ContentID(1), answers.take())
            #expect(source.state.wait(seconds: 30) { $0.isHalfway ? true : nil } == true)
            let stopping = try Thread("stop") { engine.stop() }
            #expect(answers.wait())
            usleep(50_000)
            source.state.withLock(notify: true) { $0.goesOn = true }
            stopping.join()
            #expect(answers[0].count == 1 && answers.error()?.code == .interrupted)
            #expect(engine.inFlightBytes == 0)
        }
        #expect(try store.isWholeAndRight())
    }

    @Test("has no more bytes in flight than it may, whoever asks", arguments: [1 << 20, 24 << 20])
    func memory(limit: Int) throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let bytes = (0..<16).map { noise(2 << 20, seed: UInt64($0)) }
        for (number, bytes) in bytes.enumerated() { layer.file("f\(number)", bytes, chunkSize: 256 << 10) }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine(bufferSize: limit) { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.pieceSize = 64 << 10
            source.behaviour.pace = 0.0005
            let isDone = Flag()
            let highest = Atomic<Int>(0)
            let sampling = try Thread("sample") {
                while !isDone.isSet {
                    highest.max(engine.inFlightBytes, ordering: .relaxed)
                    usleep(100)
                }
            }
            let pulling = try Thread("pull") { try? engine.merge(image) }
            let answers = Answers()
            for (number, bytes) in bytes.reversed().enumerated() {
                engine.range(
                    1 << 20..<(1 << 20) + 1, of: try engine.content(SHA256.hash(bytes)).id, answers.take(number))
            }
            #expect(answers.wait(for: 16))
            pulling.join()
            isDone.set()
            sampling.join()
            #expect(answers.allSucceededOnce)
            #expect(try engine.store.isWholeAndRight())
            let most = highest.load(ordering: .relaxed)
            #expect(most > 256 << 10 && most <= limit)
        }
    }

    /// A generator with a seed.
    private struct Numbers: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
    }

    @Test(
        "answers each of many requests once through faults of all kinds, and has all of it right in the end",
        arguments: 1...6)
    func chaos(seed: UInt64) throws {
        var numbers = Numbers(state: seed &* 0x9E37_79B9_7F4A_7C15)
        let fixture = try Fixture()
        let files = (0..<25).map { noise($0 % 5 == 0 ? 150_000 + $0 : 1000 + 300 * $0, seed: seed * 100 + UInt64($0)) }
        for tag in ["a", "b"] {
            var layer = ForgedLayer()
            for (number, bytes) in files.enumerated() where tag == "a" || number % 2 == 0 {
                layer.file(
                    "f\(number)", bytes,
                    chunkSize: tag == "a" ? 10_000 : [10_000, 20_000].randomElement(using: &numbers) ?? 1)
            }
            layer.finish()
            try fixture.write(layer, tag: tag)
        }
        try fixture.withEngine(bufferSize: [1, 100_000, 24 << 20].randomElement(using: &numbers) ?? 1) { engine in
            let images = try ["a", "b"].map { try fixture.index(engine, $0) }
            let source = fixture.control(engine)
            let contents = try engine.store.contents()
            let answers = Answers()
            var asked: [Int: MergeTicket] = [:]
            var left: Set<Int> = []
            var pulls: [Thread] = []
            for step in 0..<300 {
                let content = contents[Int.random(in: 0..<contents.count, using: &numbers)]
                switch Int.random(in: 0..<20, using: &numbers) {
                case 0..<6: asked[step] = engine.whole(content.id, answers.take(step))
                case 6..<13:
                    let start = Int64.random(in: 0..<content.size, using: &numbers)
                    asked[step] = engine.range(start..<(start + 12_000), of: content.id, answers.take(step))
                case 13: engine.background(content.id)
                case 14:
                    if let (number, ticket) = asked.randomElement(using: &numbers), engine.leave(ticket) {
                        left.insert(number)
                    }
                case 15: source.behaviour.isDown = true
                case 16:
                    source.behaviour.corruptions[Int64.random(in: 0..<300_000, using: &numbers)] = Int.random(
                        in: 1...3, using: &numbers)
                case 17:
                    let image = images[step % 2]
                    if pulls.count < 6 { pulls.append(try Thread("pull") { try? engine.merge(image) }) }
                case 18: usleep(UInt32.random(in: 0..<2000, using: &numbers))
                default: source.behaviour.isDown = false
                }
            }
            source.behaviour = .init()
            for pull in pulls { pull.join() }
            #expect(answers.wait(for: asked.count - left.count))
            #expect(engine.isIdle)
            #expect(Set(answers.all.keys) == Set(asked.keys).subtracting(left))
            #expect(answers.all.values.allSatisfy { $0.count == 1 })
            for image in images { try engine.merge(image) }
            #expect(try engine.store.isWholeAndRight())
        }
    }
}

@Suite("the memory for bytes in flight")
struct BufferPoolTests {
    @Test("what has landed and is not recorded counts as in flight; nobody waits for an index that refuses")
    func unrecorded() throws {
        let pool = BufferPool(limit: 100)
        pool.landed(70)
        let isIn = Mutex(false)
        let background = try Thread("background") {
            _ = pool.takes(20, urgent: false)
            isIn.withLock { $0 = true }
        }
        #expect(pool.takes(30, urgent: true))
        pool.release(30, urgent: true, for: .server(0))
        #expect(!isIn.withLock { $0 })
        pool.recorded(70)
        background.join()
        pool.release(20, urgent: false, for: .server(0))
        pool.landed(120)
        pool.refuse(MergeError(.index, "the disk is full"))
        let error = #expect(throws: MergeError.self) { try pool.reserve(10, urgent: true, for: .server(0)) }
        #expect(error?.description.contains("the disk is full") == true)
        // What it still takes is recorded.
        pool.recorded(120)
        #expect(pool.takes(90, urgent: true))
    }

    @Test("leaves a quarter to what readers wait for, which goes first")
    func shares() throws {
        let pool = BufferPool(limit: 100)
        #expect(pool.takes(75, urgent: false))
        let order = Mutex<[String]>([])
        let background = try Thread("background") {
            _ = pool.takes(1, urgent: false)
            order.withLock { $0.append("background") }
            pool.release(1, urgent: false, for: .server(0))
        }
        #expect(pool.takes(25, urgent: true))
        let urgent = try Thread("urgent") {
            _ = pool.takes(80, urgent: true)
            order.withLock { $0.append("urgent") }
            pool.release(80, urgent: true, for: .server(0))
        }
        #expect(eventually { pool.urgentWaiting == 1 })
        #expect(order.withLock { $0.isEmpty })
        pool.release(25, urgent: true, for: .server(0))
        usleep(20_000)
        #expect(order.withLock { $0.isEmpty }, "background work took what a reader waits for")
        pool.release(75, urgent: false, for: .server(0))
        urgent.join()
        background.join()
        #expect(order.withLock { $0 } == ["urgent", "background"])
        #expect(pool.used == 0)
    }

    @Test("lets a piece that is larger than the limit go alone, or beside background work for a reader")
    func tooLarge() throws {
        let pool = BufferPool(limit: 1)
        #expect(pool.takes(50, urgent: false))
        #expect(pool.takes(60, urgent: true))
        let waiting = try Thread("waiting") {
            #expect(pool.takes(70, urgent: true))
            pool.release(70, urgent: true, for: .server(0))
        }
        pool.release(60, urgent: true, for: .server(0))
        waiting.join()
        pool.release(50, urgent: false, for: .server(0))
        #expect(pool.used == 0)
    }

    @Test("lets the small first piece of a source go, whatever another source holds")
    func otherSource() throws {
        let pool = BufferPool(limit: 100)
        #expect(pool.takes(250, urgent: true, from: 1))
        #expect(pool.takes(25, urgent: true, from: 2))
        let order = Mutex<[String]>([])
        let second = try Thread("second") {
            #expect(pool.takes(25, urgent: true, from: 2))
            order.withLock { $0.append("second") }
        }
        #expect(eventually { pool.urgentWaiting == 1 })
        #expect(order.withLock { $0.isEmpty }, "its first piece is on its way")
        #expect(!pool.isPressed(by: .server(2)))
        // It has waited for a while, and what stalls is to make room.
        #expect(eventually { pool.isPressed(by: .server(1)) })
        pool.release(250, urgent: true, for: .server(1))
        second.join()
        pool.release(50, urgent: true, for: .server(2))
        // Background work of one server does not hold up that of another one.
        #expect(pool.takes(75, urgent: false, from: 1) && pool.takes(25, urgent: false, from: 2))
        pool.release(75, urgent: false, for: .server(1))
        pool.release(25, urgent: false, for: .server(2))
        #expect(pool.used == 0)
    }

    @Test("gives one source half of it while another one waits, and all of it otherwise")
    func half() throws {
        let pool = BufferPool(limit: 100)
        for _ in 0..<3 { #expect(pool.takes(30, urgent: true, from: 1)) }
        let other = try Thread("other") { #expect(pool.takes(50, urgent: true, from: 2)) }
        #expect(eventually { pool.urgentWaiting == 1 })
        pool.release(30, urgent: true, for: .server(1))
        let isIn = Mutex(false)
        let again = try Thread("again") {
            #expect(pool.takes(30, urgent: true, from: 1))
            isIn.withLock { $0 = true }
        }
        // There is room for it, but not for the other one then.
        #expect(eventually { pool.urgentWaiting == 2 })
        #expect(!isIn.withLock { $0 })
        pool.release(30, urgent: true, for: .server(1))
        other.join()
        pool.release(30, urgent: true, for: .server(1))
        again.join()
        pool.release(30, urgent: true, for: .server(1))
        pool.release(50, urgent: true, for: .server(2))
        #expect(pool.used == 0)
    }

    @Test("refuses whoever waits when it is closed")
    func closed() throws {
        let pool = BufferPool(limit: 10)
        #expect(pool.takes(10, urgent: true))
        let refused = Atomic<Int>(0)
        let threads = try (0..<4).map { number in
            try Thread("wait") { if !pool.takes(5, urgent: number % 2 == 0) { refused.add(1, ordering: .relaxed) } }
        }
        usleep(20_000)
        pool.close()
        for thread in threads { thread.join() }
        #expect(refused.load(ordering: .relaxed) == 4)
        #expect(!pool.takes(1, urgent: true))
    }

    @Test("gives buffers out again, the smallest that is large enough, and keeps no more than the limit")
    func buffers() {
        let pool = BufferPool(limit: 1 << 20)
        let (small, large) = (pool.take(100), pool.take(600_000))
        #expect(small.count >= 100 && large.count >= 600_000)
        pool.give(large)
        pool.give(small)
        #expect(pool.take(50).baseAddress == small.baseAddress)
        #expect(pool.take(50).baseAddress == large.baseAddress)
        pool.give(small)
        pool.give(large)
        pool.trim()
    }
}

extension BufferPool {
    /// Whether this many bytes may be in flight; waits for that.
    fileprivate func takes(_ bytes: Int, urgent: Bool, from server: Int = 0) -> Bool {
        (try? reserve(bytes, urgent: urgent, for: .server(server))) != nil
    }
}
