import Glibc
import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge
@testable import LaminaStore

@Suite("requests of readers")
struct RequestTests {
    /// A fixture with one file, in the index.
    private func withFile(
        _ bytes: [UInt8], chunkSize: Int, bufferSize: Int = 24 << 20,
        _ body: (MergeEngine, ControlledSource, ContentRecord, Fixture) throws -> Void
    ) throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        layer.file("file", bytes, chunkSize: chunkSize)
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine(bufferSize: bufferSize) { engine in
            _ = try fixture.index(engine)
            try body(engine, fixture.control(engine), engine.content(SHA256.hash(bytes)), fixture)
        }
    }

    @Test("two for one content lead to one fetch", arguments: [1000, 100_000])
    func oneFetch(size: Int) throws {
        try withFile(noise(size, seed: 1), chunkSize: 8000) { engine, source, content, _ in
            source.behaviour.allowance = 0
            let answers = Answers()
            for number in 0..<2 { engine.whole(content.id, answers.take(number)) }
            #expect(source.waits())
            source.behaviour.allowance = nil
            #expect(answers.wait(for: 2))
            #expect(answers.allSucceededOnce)
            #expect(source.repeatedByteCount == 0)
            let landed = try engine.store.bytes(content)
            #expect(landed == noise(size, seed: 1))
            #expect(engine.isIdle)
        }
    }

    @Test("200 for ranges of one file fetch each chunk once, from a registry", arguments: [1, 24 << 20])
    func manyRanges(bufferSize: Int) throws {
        let fixture = try Fixture()
        let registry = try RegistryFixture()
        defer { registry.stop() }
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        let bytes = noise(2 << 20, seed: 3)
        var layer = ForgedLayer()
        layer.file("file", bytes, chunkSize: 16 << 10)
        layer.finish()
        try fixture.write(layer)
        try registry.push(layout: fixture.layout, name: "r", tag: "1")
        try fixture.withEngine(bufferSize: bufferSize) { engine in
            _ = try ImagePull(engine, shouldStop: { false }, report: { _ in })
                .index(try ImageReference(parsing: "\(proxy.host)/r:1"), platform: nil, plainHTTP: true)
            proxy.reset()
            let content = try engine.content(SHA256.hash(bytes))
            let answers = Answers()
            let isWrong = Flag()
            for number in 0..<200 {
                let start = number * 7919 % 128 << 14
                let range = Int64(start)..<Int64(start + 20_000)
                let take = answers.take(number)
                engine.range(range, of: content.id) { result in
                    let file = try? engine.store.files.open(content.name)
                    let end = min(start + 20_000, bytes.count)
                    if (try? file?.read(end - start, at: range.lowerBound)) != Array(bytes[start..<end]) {
                        isWrong.set()
                    }
                    take(result)
                }
            }
            #expect(answers.wait(for: 200))
            #expect(answers.allSucceededOnce)
            #expect(!isWrong.isSet, "an answer came before its bytes")
            // The rest follows in the background.
            #expect(engine.isIdle)
            #expect(try engine.store.isWholeAndRight())
            #expect(proxy.repeatedByteCount(of: layer.digest) == 0)
        }
    }

    @Test(
        "are answered while a slow pull goes on, long before it ends", arguments: [1, 1 << 20, 24 << 20])
    func urgent(bufferSize: Int) throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        for number in 0..<40 { layer.file("f\(number)", noise(500_000, seed: UInt64(number)), chunkSize: 60_000) }
        let wanted = noise(30_000, seed: 999)
        layer.file("wanted", wanted)
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine(bufferSize: bufferSize) { engine in
            let image = try fixture.index(engine)
            let source = fixture.control(engine)
            // 40 files: 20 MB at 2 × 3 MB/s.
            source.behaviour.pace = 0.005
            let isDone = Flag()
            let shouldStop = Flag()
            let pulling = try Thread("pull") {
                try? engine.merge(image) { shouldStop.isSet }
                isDone.set()
            }
            #expect(eventually { engine.totalFetchedBytes > 300_000 })
            let answers = Answers()
            let content = try engine.content(SHA256.hash(wanted)).id
            let before = engine.totalFetchedBytes
            engine.whole(content, answers.take())
            _ = answers.wait()
            #expect(answers.allSucceededOnce)
            // By the bytes that came before it, because a busy machine is slow for all of them.
            #expect(engine.totalFetchedBytes - before < 6_000_000)
            #expect(!isDone.isSet)
            shouldStop.set()
            source.behaviour.pace = 0
            pulling.join()
        }
    }

    @Test("may be left: this waiter is never answered, the others are")
    func leaving() throws {
        let bytes = noise(100_000, seed: 4)
        try withFile(bytes, chunkSize: 9000) { engine, source, content, _ in
            source.behaviour.allowance = 0
            let answers = Answers()
            let leaver = engine.whole(content.id, answers.take(0))
            engine.whole(content.id, answers.take(1))
            let other = engine.range(0..<10, of: content.id, answers.take(2))
            #expect(source.waits())
            #expect(engine.leave(leaver))
            #expect(!engine.leave(leaver), "it is gone already")
            source.behaviour.allowance = nil
            #expect(answers.wait(for: 2))
            #expect(engine.isIdle)
            #expect(answers.all.keys.sorted() == [1, 2])
            #expect(answers.allSucceededOnce)
            #expect(!engine.leave(other), "it was answered")
        }
    }

    @Test("may all be left: what was asked for is merged all the same, and nothing stays in memory")
    func allLeave() throws {
        let bytes = noise(100_000, seed: 4)
        try withFile(bytes, chunkSize: 9000) { engine, source, content, _ in
            source.behaviour.allowance = 0
            let tickets = (0..<5).map { _ in engine.whole(content.id) { _ in Issue.record("a leaver was answered") } }
            #expect(source.waits())
            for ticket in tickets { #expect(engine.leave(ticket)) }
            source.behaviour.allowance = nil
            #expect(engine.isIdle)
            let isRight = try engine.store.isWholeAndRight()
            #expect(isRight)
        }
    }

    @Test("that all have left are given up when their server hangs: what they asked for can be had by the next at once")
    func hangingAlone() throws {
        let bytes = noise(100_000, seed: 4)
        try withFile(bytes, chunkSize: 9000) { engine, source, content, _ in
            source.behaviour.allowance = 0
            let ticket = engine.whole(content.id) { _ in Issue.record("a leaver was answered") }
            #expect(source.waits())
            #expect(engine.leave(ticket))
            // The source still hangs: only a read that was given up leaves nothing behind.
            #expect(engine.isIdle)
            #expect(source.sentByteCount == 0)
            source.behaviour.allowance = nil
            let answers = Answers()
            engine.whole(content.id, answers.take())
            #expect(answers.wait())
            #expect(answers.allSucceededOnce)
            #expect(source.reads.count == 2)
            #expect(source.repeatedByteCount == 0)
        }
    }

    @Test("that hang go on for who comes later, as long as one of them is there, and cost no second fetch")
    func hangingTogether() throws {
        let bytes = noise(100_000, seed: 4)
        try withFile(bytes, chunkSize: 9000) { engine, source, content, _ in
            source.behaviour.allowance = 0
            let answers = Answers()
            let first = engine.whole(content.id) { _ in Issue.record("a leaver was answered") }
            #expect(source.waits())
            engine.range(0..<10, of: content.id, answers.take())
            #expect(eventually { engine.planned(content.id)?.waiters.count == 2 })
            #expect(engine.leave(first))
            usleep(1_500_000)
            #expect(source.reads.count == 1 && answers.all.isEmpty)
            source.behaviour.allowance = nil
            #expect(answers.wait())
            #expect(answers.allSucceededOnce)
            #expect(engine.isIdle)
            #expect(source.repeatedByteCount == 0 && source.reads.count == 1)
        }
    }

    @Test("that come in the moment in which a hanging read is given up are fetched by another one")
    func hangingMoment() throws {
        let bytes = noise(100_000, seed: 4)
        try withFile(bytes, chunkSize: 9000) { engine, source, content, _ in
            source.behaviour.allowance = 0
            let ticket = engine.whole(content.id) { _ in Issue.record("a leaver was answered") }
            #expect(source.waits())
            let planned = try #require(engine.planned(content.id))
            let job = try #require(FetchJob.urgent(planned, Array(planned.chunks.indices)).first)
            let answers = Answers()
            engine.range(20_000..<20_001, of: content.id, answers.take())
            // And the rest is not merged in the background: all of it is on its way.
            #expect(
                eventually {
                    engine.planned(content.id)?.waiters.count == 2
                        && engine.context.board.with { $0.producers.isEmpty }
                })
            #expect(engine.leave(ticket))
            // As the fetcher does if it has given up just before the second request.
            engine.context.board.with(notify: true) { $0.withdraw(job.members, of: job) }
            #expect(source.waits(for: 2))
            let isAbsent = try #require(engine.planned(content.id)).states.map { $0 == .absent }
            #expect(isAbsent.count { !$0 } == 1 && !isAbsent[2])
            source.behaviour.allowance = nil
            #expect(answers.wait())
            #expect(answers.allSucceededOnce)
            #expect(engine.isIdle)
        }
    }

    @Test("may be left while the engine still looks what the store has of the file")
    func leavingEarly() throws {
        let fixture = try Fixture()
        let old = noise(100_000, seed: 1)
        let new = Array(old[..<50_000]) + noise(50_000, seed: 2)
        for (tag, bytes) in [("old", old), ("new", new)] {
            var layer = ForgedLayer()
            layer.file("file", bytes, chunkSize: 50_000)
            layer.finish()
            try fixture.write(layer, tag: tag)
        }
        try fixture.withEngine { engine in
            let image = try fixture.index(engine, "old")
            _ = try fixture.index(engine, "new")
            try engine.merge(image)
            #expect(engine.isIdle)
            let source = fixture.control(engine)
            let content = try engine.content(SHA256.hash(new))
            // The copy of the first half cannot be recorded meanwhile.
            engine.store.writer.withLock { _ in
                let ticket = engine.whole(content.id) { _ in Issue.record("a leaver was answered") }
                #expect(eventually { engine.knowledge(of: content.id) == .merging })
                usleep(50_000)
                #expect(engine.leave(ticket))
            }
            #expect(engine.isIdle)
            #expect(source.reads.isEmpty)
            #expect(try engine.content(SHA256.hash(new)).state == .partial)
        }
    }

    @Test("take small neighbours along, and fetch what a file's neighbours have brought no more")
    func readAhead() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let files = (0..<50).map { noise(2000, seed: UInt64($0)) }
        for (number, bytes) in files.enumerated() { layer.file("f\(number)", bytes) }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            _ = try fixture.index(engine)
            let source = fixture.control(engine)
            let contents = try files.map { try engine.content(SHA256.hash($0)).id }
            let answers = Answers()
            engine.whole(contents[0], answers.take(0))
            #expect(answers.wait())
            #expect(eventually { source.reads.count == 1 && engine.isIdle })
            for (number, content) in contents.enumerated() { engine.whole(content, answers.take(number + 1)) }
            #expect(answers.wait(for: 51))
            #expect(answers.allSucceededOnce)
            #expect(source.reads.count == 1)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("run ahead of who opens small files in order, further each time, and of nobody else")
    func runningAhead() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let files = (0..<2400).map { noise(2000, seed: UInt64($0)) }
        for (number, bytes) in files.enumerated() { layer.file("f\(number)", bytes) }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            _ = try fixture.index(engine)
            let source = fixture.control(engine)
            let contents = try files.map { try engine.content(SHA256.hash($0)).id }
            let answers = Answers()
            engine.whole(contents[0], answers.take(0))
            #expect(answers.wait())
            #expect(eventually { source.reads.count == 1 && engine.isIdle })
            // What was taken along was not opened.
            usleep(50_000)
            #expect(source.reads.count == 1)
            // As the file system asks at an open.
            for content in contents[1..<100] { _ = engine.knowledge(of: content) }
            #expect(eventually { source.reads.count == 2 && engine.isIdle })
            let reads = source.reads
            #expect(reads[1].range.lowerBound == reads[0].range.upperBound)
            #expect(reads[1].range.count > reads[0].range.count * 3 / 2)
            for number in 0..<1100 { engine.whole(contents[number], answers.take(number + 1)) }
            #expect(answers.wait(for: 1101))
            #expect(answers.allSucceededOnce)
            #expect(source.reads.count == 2)
        }
    }

    @Test("for what a reader began in one layer go on there when another layer that has it is pulled")
    func otherLayer() throws {
        let fixture = try Fixture()
        let bytes = noise(120_000, seed: 8)
        var first = ForgedLayer()
        first.file("pad", noise(5000, seed: 1))
        first.file("file", bytes, chunkSize: 10_000)
        first.finish()
        var second = ForgedLayer()
        second.file("other", noise(100, seed: 2))
        second.file("file", bytes, chunkSize: 10_000)
        second.finish()
        try fixture.write(first, tag: "a")
        try fixture.write(second, tag: "b")
        try fixture.withEngine { engine in
            _ = try fixture.index(engine, "a")
            let image = try fixture.index(engine, "b")
            let source = fixture.control(engine)
            let answers = Answers()
            // Prepared from the first layer, but no chunk was requested yet.
            let content = try engine.content(SHA256.hash(bytes))
            let origin = engine.context.sources.origin(of: LayerID(1))
            let key = engine.context.board.with { plan in
                let key = plan.add(content.id, for: origin)
                // As if a chunk were on its way to the index: it stays in the plan.
                plan.unrecorded[content.id] = 1
                plan.lanes.beginOther()
                return key
            }
            Preparer(engine.context, prover: engine.prover).prepare(key, content.id, preferring: LayerID(1))
            let planned = try #require(engine.planned(content.id))
            #expect(planned.chunks.allSatisfy { $0.source.layer == LayerID(1) && !$0.hasLanded })
            try engine.merge(image)
            #expect(fixture.reports.withLock { $0 } == [])
            #expect(source.repeatedByteCount == 0)
            #expect(try engine.store.isWholeAndRight() == false, "the first layer's own file was not asked for")
            engine.whole(content.id, answers.take())
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(try engine.store.bytes(content) == bytes)
        }
    }

    @Test("for a content that the index does not have, or after the stop, are answered with an error")
    func refused() throws {
        let fixture = try Fixture()
        let answers = Answers()
        try fixture.withEngine { engine in
            engine.whole(ContentID(77), answers.take(0))
            #expect(answers.wait())
            #expect(answers.error(0)?.code == .index)
            engine.stop()
            engine.range(0..<1, of: ContentID(1), answers.take(1))
            #expect(answers.error(1)?.code == .interrupted)
            engine.stop()
        }
    }
}
