import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("a reader in the middle of a file")
struct ServingTests {
    private static let bytes = noise(100_000, seed: 7)
    private static let chunkSize = 8000

    private func withFile(_ body: (MergeEngine, ControlledSource, ContentRecord) throws -> Void) throws {
        let fixture = try Fixture()
        var layer = ForgedLayer()
        layer.file("file", Self.bytes, chunkSize: Self.chunkSize)
        layer.finish()
        try fixture.write(layer)
        try fixture.withEngine { engine in
            _ = try fixture.index(engine)
            try body(engine, fixture.control(engine), engine.content(SHA256.hash(Self.bytes)))
        }
    }

    /// The file is there with the right bytes, and none was fetched twice.
    private static func expectWhole(
        _ content: ContentRecord, _ engine: MergeEngine, _ source: ControlledSource
    ) throws {
        let landed = try engine.store.bytes(content)
        #expect(landed == bytes)
        #expect(source.repeatedByteCount == 0)
    }

    /// What readers got.
    private final class Taken: Sendable {
        let bytes = Monitor<[[UInt8]]>([])
        func take(_ bytes: UnsafeRawBufferPointer) { self.bytes.withLock(notify: true) { $0.append(Array(bytes)) } }
        func wait() -> Bool { bytes.wait(seconds: 10) { $0.isEmpty ? nil : true } ?? false }
    }

    @Test("is given verified bytes from memory, and is not answered twice")
    func fromMemory() throws {
        try withFile { engine, source, content in
            let (taken, answers, hadLanded) = (Taken(), Answers(), Flag())
            engine.range(
                8100..<9000, of: content.id,
                take: { bytes in
                    if engine.hasLanded(8100..<9000, of: content.id) { hadLanded.set() }
                    taken.take(bytes)
                }, answers.take())
            #expect(taken.wait())
            #expect(taken.bytes.withLock { $0 } == [Array(Self.bytes[8100..<9000])])
            #expect(!hadLanded.isSet)
            #expect(engine.isIdle)
            #expect(answers.all.isEmpty)
            try Self.expectWhole(content, engine, source)
        }
    }

    @Test("is told that bytes of two chunks have landed, and those that the store has")
    func whatIsNoChunk() throws {
        try withFile { engine, _, content in
            let (taken, answers) = (Taken(), Answers())
            engine.range(7000..<9000, of: content.id, take: taken.take, answers.take(1))
            #expect(answers.wait())
            #expect(engine.isIdle)
            engine.range(10..<20, of: content.id, take: taken.take, answers.take(2))
            #expect(answers.wait(for: 2))
            #expect(answers.allSucceededOnce)
            #expect(taken.bytes.withLock { $0.isEmpty })
        }
    }

    @Test("is never given bytes that are wrong", arguments: [1, 100])
    func wrongBytes(times: Int) throws {
        try withFile { engine, source, content in
            let chunk = try #require(
                try engine.store.index.chunks(of: content, preferring: nil).first { $0.offset == 8000 })
            source.behaviour.corruptions = [chunk.source.blobOffset + chunk.source.blobSize / 2: times]
            let (taken, answers) = (Taken(), Answers())
            engine.range(8100..<9000, of: content.id, take: taken.take, answers.take())
            if times == 1 {
                #expect(taken.wait())
                #expect(taken.bytes.withLock { $0 } == [Array(Self.bytes[8100..<9000])])
            } else {
                #expect(answers.wait())
                #expect(answers.error() != nil)
                #expect(taken.bytes.withLock { $0.isEmpty })
            }
        }
    }

    @Test("has the source to itself until it has its first bytes; then the rest is merged")
    func firstAlone() throws {
        try withFile { engine, source, content in
            source.behaviour.allowance = 0
            engine.background(content.id)
            let (taken, answers) = (Taken(), Answers())
            engine.range(40_000..<40_010, of: content.id, take: taken.take, answers.take())
            #expect(source.waits())
            // No other reader comes, however long it takes.
            #expect(!eventually(seconds: 0.3) { source.peakReadCount > 1 })
            source.behaviour.allowance = nil
            #expect(taken.wait())
            #expect(eventually { (try? engine.store.index.content(content.id)?.state) == .merged })
            try Self.expectWhole(content, engine, source)
        }
    }

    @Test("that gets an error holds nothing up for the next one")
    func firstFails() throws {
        try withFile { engine, source, content in
            source.behaviour.isDown = true
            let answers = Answers()
            engine.range(0..<10, of: content.id, answers.take(1))
            #expect(answers.wait())
            #expect(answers.error(1) != nil)
            #expect(engine.isIdle)
            source.behaviour.isDown = false
            engine.range(0..<10, of: content.id, answers.take(2))
            #expect(answers.wait(for: 2))
            #expect(eventually { (try? engine.store.index.content(content.id)?.state) == .merged })
        }
    }
}
