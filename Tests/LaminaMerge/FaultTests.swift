import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSQLite
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge
@testable import LaminaStore

@Suite("a merge that something goes wrong with")
struct FaultTests {
    /// One file of chunks of 10,000 bytes in an image, and another file; the first file's chunk offsets in the blob.
    private struct Image {
        let bytes = noise(100_000, seed: 1)
        let other = noise(40_000, seed: 2)
        var layer = ForgedLayer()
        var offsets: [Int64] = []

        init() {
            offsets = layer.file("file", bytes, chunkSize: 10_000)
            layer.file("other", other, chunkSize: 10_000)
            layer.finish()
        }
    }

    private func with(
        _ body: (MergeEngine, ControlledSource, ImageRecord, Image, Fixture) throws -> Void
    ) throws {
        let fixture = try Fixture()
        let image = Image()
        try fixture.write(image.layer)
        try fixture.withEngine { engine in
            let record = try fixture.index(engine)
            try body(engine, fixture.control(engine), record, image, fixture)
        }
    }

    /// Where the bytes of a member are: after its header and the stored block's, and in the header.
    private static let payload: Int64 = 15 + 1234
    private static let magic: Int64 = 0

    @Test("fetches what came damaged once more, and is right then", arguments: [payload, magic])
    func healed(place: Int64) throws {
        try with { engine, source, record, image, fixture in
            source.behaviour.corruptions = [image.offsets[3] + place: 1, image.offsets[7] + place: 1]
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
            #expect(source.repeatedByteCount == Int64(2 * ForgedLayer.memberSize(10_000)))
            #expect(fixture.reports.withLock { $0.count } == 2, "an operator is told of each")
        }
    }

    @Test("fetches a damaged member with many files in it once more, not once for each")
    func healedMember() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let member = layer.packed((0..<30).map { (name: "s\($0)", bytes: noise(100, seed: UInt64($0))) })
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let record = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.corruptions = [member: 1]
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
            #expect(source.reads.count == 2)
        }
    }

    @Test(
        "names layer, file, offset, expected and actual digest of a chunk that is wrong twice, of which nothing lands")
    func wrongTwice() throws {
        try with { engine, source, record, image, _ in
            // Another layer, whose chunk is complete: only the digest shows the error, no checksum.
            var bytes = image.bytes
            bytes[31_234] ^= 0xFF
            var other = ForgedLayer()
            other.file("file", bytes, chunkSize: 10_000)
            source.behaviour.substitute = other.blob + image.layer.blob[other.blob.count...]
            let error = try #require(#expect(throws: MergeError.self) { try engine.merge(record) })
            #expect(error.code == .digestMismatch)
            let expected = SHA256.hash(Array(image.bytes[30_000..<40_000]))
            let wrong = Array(bytes[30_000..<40_000])
            for part in [
                "\(image.layer.digest)", "\(SHA256.hash(image.bytes))", "30000", "\(expected)", "\(SHA256.hash(wrong))",
            ] {
                #expect(error.description.contains(part))
            }
            #expect(engine.isIdle)
            let content = try engine.content(SHA256.hash(image.bytes))
            #expect(content.state == .partial)
            let landed = try engine.store.index.chunks(of: content, preferring: nil).map(\.hasLanded)
            #expect(landed == (0..<10).map { $0 != 3 })
            #expect(try engine.store.bytes(content)[30_000..<40_000].allSatisfy { $0 == 0 })
            #expect(try engine.content(SHA256.hash(image.other)).state == .merged, "the error cost another file")
            // Only the chunk is fetched when the source is right again.
            #expect(source.repeatedByteCount == Int64(ForgedLayer.memberSize(10_000)), "once more, and no more")
            source.behaviour.substitute = nil
            source.reset()
            try engine.merge(record)
            #expect(source.sentByteCount == ForgedLayer.memberSize(10_000))
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("costs one file, and not those that would be asked for after it")
    func oneFile() throws {
        let fixture = try Fixture()
        // What is merged already separates the others, so that each is a separate request.
        let files = (0..<20).map { noise(20_000, seed: UInt64($0)) }
        let between = (0..<20).map { noise(15_000, seed: 100 + UInt64($0)) }
        var offsets: [Int64] = []
        var layer = ForgedLayer()
        for number in 0..<20 {
            offsets += layer.file("f\(number)", files[number], chunkSize: 10_000)
            layer.file("b\(number)", between[number], chunkSize: 10_000)
        }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let record = try fixture.index(engine)
            let source = fixture.control(engine)
            let answers = Answers()
            for (number, bytes) in between.enumerated() {
                engine.whole(try engine.content(SHA256.hash(bytes)).id, answers.take(number))
            }
            #expect(answers.wait(for: 20))
            #expect(engine.isIdle)
            source.behaviour.pace = 0.005
            source.behaviour.corruptions = [offsets[1] + Self.payload: 2]
            let error = #expect(throws: MergeError.self) { try engine.merge(record) }
            #expect(error?.code == .corrupt)
            #expect(engine.isIdle)
            #expect(try engine.store.contents().count { $0.state != .merged } == 1)
        }
    }

    @Test("fetches nothing again that has landed, also while the index does not know of it yet")
    func unrecorded() throws {
        try with { engine, source, _, image, _ in
            source.behaviour.corruptions = [image.offsets[9] + Self.payload: 2]
            let content = try engine.content(SHA256.hash(image.bytes)).id
            let answers = Answers()
            // Nothing can be recorded meanwhile.
            engine.store.writer.withLock { _ in
                engine.whole(content, answers.take(0))
                #expect(answers.wait())
                #expect(answers.error(0)?.code == .corrupt)
                usleep(50_000)
                source.reset()
                engine.whole(content, answers.take(1))
                #expect(answers.wait(for: 2))
            }
            #expect(answers.error(1) == nil)
            #expect(source.sentByteCount == ForgedLayer.memberSize(10_000))
            #expect(engine.isIdle)
            let landed = try engine.store.bytes(engine.content(SHA256.hash(image.bytes)))
            #expect(landed == image.bytes)
        }
    }

    @Test("names the blob offset of a member that cannot be decompressed, twice")
    func corruptMember() throws {
        try with { engine, source, record, image, _ in
            source.behaviour.corruptions = [image.offsets[5] + Self.magic: 2]
            let error = try #require(#expect(throws: MergeError.self) { try engine.merge(record) })
            #expect(error.code == .corrupt)
            for part in ["\(image.layer.digest)", "\(SHA256.hash(image.bytes))", "offset 50000", "\(image.offsets[5])"]
            {
                #expect(error.description.contains(part))
            }
            #expect(engine.isIdle)
        }
    }

    @Test("of a file that is read does not go round in circles behind the reader's back")
    func backgroundEnds() throws {
        try with { engine, source, _, image, fixture in
            source.behaviour.corruptions = [image.offsets[9] + Self.payload: .max]
            let answers = Answers()
            let content = try engine.content(SHA256.hash(image.bytes))
            engine.range(0..<10, of: content.id, answers.take())
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(engine.isIdle)
            #expect(source.reads.count < 10)
            #expect(fixture.reports.withLock { $0.contains { $0.contains("expected") } }, "nobody was told")
            source.behaviour.corruptions = [:]
            source.behaviour.isDown = true
            source.reset()
            engine.background(content.id)
            #expect(eventually { source.reads.count > 0 })
            #expect(engine.isIdle)
            #expect(source.reads.count == 1)
        }
    }

    @Test("answers with an error while the source is down, and goes on when it is back")
    func sourceDown() throws {
        try with { engine, source, record, image, _ in
            source.behaviour.isDown = true
            let answers = Answers()
            let content = try engine.content(SHA256.hash(image.bytes)).id
            engine.whole(content, answers.take(0))
            engine.range(5..<6, of: content, answers.take(1))
            #expect(answers.wait(for: 2))
            #expect(answers.error(0)?.code == .fetch && answers.error(1)?.code == .fetch)
            #expect(throws: MergeError.self) { try engine.merge(record) }
            #expect(engine.isIdle)
            source.behaviour.isDown = false
            engine.range(5..<6, of: content, answers.take(2))
            #expect(answers.wait(for: 3))
            #expect(answers.error(2) == nil)
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("ends, when its source goes down in the middle of a large file of which not every chunk was asked for")
    func sourceGoesDown() throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        layer.file("small", noise(100, seed: 1))
        // Three jobs' worth.
        layer.file("large", noise(24 << 20, seed: 2), chunkSize: 1 << 20)
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let record = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.allowance = 3 << 20
            source.behaviour.pieceSize = 256 << 10
            let breaking = try Thread("break") {
                _ = source.waits()
                source.behaviour.isDown = true
            }
            let error = #expect(throws: MergeError.self) { try engine.merge(record) }
            breaking.join()
            #expect(error?.code == .fetch)
            #expect(engine.isIdle)
            source.behaviour = .init()
            source.behaviour.pieceSize = 1 << 20
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("that ends early waits no more for files of which not every chunk was asked for", arguments: [false, true])
    func endsEarly(isCancelled: Bool) throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        let bad = noise(20_000, seed: 1)
        layer.file("bad", bad, chunkSize: 10_000)
        // Something between the chunks makes each a separate request.
        let chunks = (0..<12).map { noise(10_000, seed: 10 + UInt64($0)) }
        let whole = SHA256.hash(Array(chunks.joined()))
        var gaps: [(offset: Int64, bytes: [UInt8])] = []
        for (number, chunk) in chunks.enumerated() {
            let gap = noise(500, seed: 100 + UInt64(number))
            gaps.append((layer.member(gap), gap))
            let place =
                #""offset":\#(layer.member(chunk)),"chunkOffset":\#(number * 10_000),"chunkSize":10000,"#
                + #""chunkDigest":"\#(SHA256.hash(chunk))""#
            layer.entry(
                number == 0
                    ? #""name":"large","type":"reg","size":120000,"digest":"\#(whole)",\#(place)"#
                    : #""name":"large","type":"chunk",\#(place)"#)
        }
        for (number, gap) in gaps.enumerated() {
            layer.entry(
                #""name":"gap\#(number)","type":"reg","size":500,"offset":\#(gap.offset),"digest":"\#(SHA256.hash(gap.bytes))""#
            )
        }
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            let record = try fixture.index(engine)
            let source = fixture.control(engine)
            source.behaviour.pace = 0.03
            let path = "\(fixture.directory)/store/content/\(try engine.content(SHA256.hash(bad)).name.path)"
            if !isCancelled { try createDirectories(path) }
            let pull = LayerPull(layer: try #require(record.layers.first))
            engine.context.begin([pull])
            if isCancelled {
                #expect(eventually { engine.totalFetchedBytes > 30_000 })
                pull.cancel()
            }
            let result = pull.wait(seconds: 30)
            guard case .failure(let error)? = result else {
                Issue.record("the pull does not end: \(String(describing: result))")
                return
            }
            #expect(error.code == (isCancelled ? .interrupted : .write))
            #expect(engine.isIdle)
            #expect(try engine.content(whole).state == .partial)
            source.behaviour.pace = 0
            rmdir(path)
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("takes a second place where the first fails, and for bytes that were wrong at the first")
    func secondPlace() throws {
        let fixture = try Fixture()
        let image = Image()
        try fixture.write(image.layer)
        try fixture.withEngine { engine in
            let record = try fixture.index(engine)
            let layer = try #require(record.layers.first)
            let first = ControlledSource(OCILayoutSource(directory: fixture.layout), location: "oci:/first")
            try engine.store.addSource("https://no host/", to: layer)
            try engine.store.addSource(first.location, to: layer)
            let second = fixture.control(engine)
            engine.sources.add(first)
            first.behaviour.corruptions = [image.offsets[2] + Self.payload: .max]
            let answers = Answers()
            let content = try engine.content(SHA256.hash(image.bytes)).id
            engine.whole(content, answers.take(0))
            #expect(answers.wait() && answers.allSucceededOnce)
            #expect(second.sentByteCount == ForgedLayer.memberSize(10_000))
            // Goes on behind the last byte that came.
            first.behaviour = .init()
            first.behaviour.allowance = 12_000
            let breaking = try Thread("break") {
                _ = first.waits()
                first.behaviour.isDown = true
            }
            second.reset()
            try engine.merge(record)
            breaking.join()
            #expect(try engine.store.isWholeAndRight())
            #expect(second.sentByteCount == 4 * ForgedLayer.memberSize(10_000) - 12_000)
        }
    }

    @Test("says so when the index refuses to record, and records it later without fetching it again")
    func recordRefused() throws {
        try with { engine, source, record, _, _ in
            try engine.store.write {
                try $0.connection.execute(
                    "CREATE TRIGGER refusal BEFORE UPDATE ON content BEGIN SELECT RAISE(ABORT, 'told to refuse'); END")
            }
            let error = try #require(#expect(throws: MergeError.self) { try engine.merge(record) })
            #expect(error.code == .index)
            #expect(error.description.contains("told to refuse"))
            try engine.store.write { try $0.connection.execute("DROP TRIGGER refusal") }
            source.reset()
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
            #expect(source.reads.isEmpty)
            #expect(engine.isIdle)
        }
    }

    @Test("says so when a backing file cannot be written")
    func writeRefused() throws {
        try with { engine, _, record, image, fixture in
            let content = try engine.content(SHA256.hash(image.bytes))
            // A directory is in the file's place.
            let path = "\(fixture.directory)/store/content/\(content.name.path)"
            try createDirectories(path)
            let error = try #require(#expect(throws: MergeError.self) { try engine.merge(record) })
            #expect(error.code == .write)
            #expect(error.description.contains("\(content.name.digest)"))
            #expect(engine.isIdle)
            rmdir(path)
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("brings back what was found damaged and taken back, with the same engine")
    func takenBack() throws {
        try with { engine, source, record, image, _ in
            try engine.merge(record)
            #expect(engine.isIdle)
            let content = try engine.content(SHA256.hash(image.bytes))
            let file = try engine.store.files.make(content.name, size: content.size)
            try [UInt8](repeating: 0, count: 100).withUnsafeBytes { try file.write($0, at: 25_000) }
            #expect(try !engine.store.recheck(content))
            source.reset()
            try engine.merge(record)
            #expect(try engine.store.isWholeAndRight())
            #expect(source.sentByteCount == ForgedLayer.memberSize(10_000))
        }
    }
}
