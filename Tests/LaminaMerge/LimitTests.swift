import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaMerge

@Suite("the limits of merges")
struct LimitTests {
    @Test(
        "at most merge_worker_count chunk jobs and merge_buffer_size bytes are in flight, whoever asks",
        arguments: [(1, 300_000), (2, 1 << 20), (3, 24 << 20)])
    func limits(workerCount: Int, bufferSize: Int) throws {
        let fixture = try Fixture()
        for (tag, seed) in [("a", UInt64(100)), ("b", 200), ("c", 300)] {
            var layer = ForgedLayer()
            for number in 0..<12 {
                layer.file("f\(number)", noise(200_000, seed: seed + UInt64(number)), chunkSize: 50_000)
                layer.file("small\(number)", noise(3_000, seed: seed + 50 + UInt64(number)))
            }
            layer.finish()
            try fixture.write(layer, tag: tag)
        }
        try fixture.withEngine(bufferSize: bufferSize, workerCount: workerCount) { engine in
            let images = try ["a", "b", "c"].map { try fixture.index(engine, $0) }
            let source = fixture.control(engine)
            source.behaviour.pace = 0.001
            let pulls = try images.prefix(2).map { image in
                try Thread("pull") { try? engine.merge(image) }
            }
            // Readers of the third image come meanwhile.
            let answers = Answers()
            for number in 0..<12 {
                let content = try engine.content(SHA256.hash(noise(200_000, seed: 300 + UInt64(number)))).id
                engine.whole(content, answers.take(number))
            }
            pulls.forEach { $0.join() }
            #expect(answers.wait(for: 12, seconds: 30))
            #expect(answers.allSucceededOnce)
            try engine.merge(images[2])
            #expect(try engine.store.isWholeAndRight())

            let load = engine.load
            #expect(source.peakReadCount <= workerCount && load.peakJobs <= workerCount, "\(load)")
            #expect(source.peakReadCount == (workerCount + 1) / 2, "one server has half of them, and all of its half")
            #expect(load.peakBytes <= bufferSize && load.peakBytes > 50_000, "\(load)")
            #expect(engine.isIdle && engine.load.jobs == 0 && engine.load.bytes == 0)
        }
    }

    @Test("a chunk that is larger than merge_buffer_size is merged all the same, alone")
    func largerThanTheBuffer() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        for number in 0..<4 { layer.file("f\(number)", noise(100_000, seed: UInt64(number))) }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine(bufferSize: 1000, workerCount: 3) { engine in
            try engine.merge(fixture.index(engine))
            #expect(try engine.store.isWholeAndRight())
            // One member, compressed and decompressed.
            #expect(engine.load.peakBytes < 2 * 110_000, "\(engine.load)")
        }
    }
}
