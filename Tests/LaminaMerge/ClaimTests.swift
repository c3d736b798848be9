import Glibc
import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaMerge

@Suite("a digest in a TOC is a claim")
struct ClaimTests {
    private func write(_ fixture: Fixture, _ tag: String, _ fill: (inout ForgedLayer) -> Void) throws {
        var layer = ForgedLayer()
        fill(&layer)
        layer.finish()
        try fixture.write(layer, tag: tag)
    }

    private func inode(_ content: ContentRecord, _ store: Store) throws -> ino_t {
        try store.files.open(content.name).status().st_ino
    }

    @Test("of a file that another layer has in other chunks: its bytes are proven, and become one file with two names")
    func twin() throws {
        let fixture = try Fixture()
        let bytes = noise(200_000, seed: 1)
        try write(fixture, "a") { $0.file("file", bytes, chunkSize: 30_000) }
        try write(fixture, "b") { $0.file("file", bytes, chunkSize: 50_000) }
        try write(fixture, "c") { $0.file("file", bytes, chunkSize: 1 << 20) }
        try fixture.withEngine { engine in
            let images = try ["a", "b", "c"].map { try fixture.index(engine, $0) }
            let source = fixture.control(engine)
            try engine.merge(images[0])
            #expect(try engine.store.contents().map(\.proof) == [.claimed, .claimed, .claimed])
            source.reset()
            try engine.merge(images[1])
            try engine.merge(images[2])
            #expect(source.reads.isEmpty)
            let contents = try engine.store.contents()
            #expect(contents.map(\.proof) == [.proven, .proven, .proven])
            #expect(try engine.store.isWholeAndRight())
            #expect(try Set(contents.map { try inode($0, engine.store) }).count == 1)
            #expect(engine.isIdle)
        }
    }

    @Test("that is a lie harms nobody but the layer that told it", arguments: [50_000, 1 << 20])
    func lie(honestChunkSize: Int) throws {
        let fixture = try Fixture()
        let (honest, evil) = (noise(200_000, seed: 1), noise(200_000, seed: 666))
        let digest = SHA256.hash(honest)
        try write(fixture, "liar") { $0.file("file", evil, chunkSize: 30_000, claiming: digest) }
        try write(fixture, "honest") { $0.file("file", honest, chunkSize: honestChunkSize) }
        try fixture.withEngine { engine in
            let liar = try fixture.index(engine, "liar")
            try engine.merge(liar)
            let content = try #require(try engine.store.contents().first)
            #expect(content.state == .merged && content.proof == .claimed, "for its own layer the bytes are right")
            // Now another layer wants to share it.
            let image = try fixture.index(engine, "honest")
            try engine.merge(image)
            let contents = try engine.store.contents()
            #expect(contents.map(\.proof)[0] == .disproven)
            #expect(contents[1].state == .merged)
            #expect(try engine.store.bytes(contents[1]) == honest)
            #expect(try inode(contents[0], engine.store) != inode(contents[1], engine.store))
            let answers = Answers()
            engine.whole(contents[0].id, answers.take(0))
            engine.range(0..<1, of: contents[0].id, answers.take(1))
            engine.whole(contents[1].id, answers.take(2))
            #expect(answers.wait(for: 3))
            #expect(answers.error(0)?.code == .disproven && answers.error(1)?.code == .disproven)
            #expect(answers.error(0)?.description.contains("\(digest)") == true)
            #expect(answers.error(2) == nil)
            #expect(engine.isIdle)
        }
    }

    @Test("that is a lie is found out as well when the honest layer came first")
    func lateLie() throws {
        let fixture = try Fixture()
        let (honest, evil) = (noise(200_000, seed: 1), noise(200_000, seed: 666))
        try write(fixture, "honest") { $0.file("file", honest, chunkSize: 50_000) }
        try write(fixture, "liar") { $0.file("file", evil, chunkSize: 30_000, claiming: SHA256.hash(honest)) }
        try fixture.withEngine { engine in
            try engine.merge(try fixture.index(engine, "honest"))
            let liar = try fixture.index(engine, "liar")
            let source = fixture.control(engine)
            try engine.merge(liar)
            // It gets the file whose digest it claims, and its own bytes belong to nothing.
            #expect(source.reads.isEmpty)
            let contents = try engine.store.contents()
            #expect(try contents.allSatisfy { try $0.proof == .proven && engine.store.bytes($0) == honest })
        }
    }

    @Test("is not called a lie when the bytes were damaged here: they are fetched again")
    func damaged() throws {
        let fixture = try Fixture()
        let bytes = noise(200_000, seed: 1)
        try write(fixture, "a") { $0.file("file", bytes, chunkSize: 30_000) }
        try write(fixture, "b") { $0.file("file", bytes, chunkSize: 50_000) }
        try fixture.withEngine { engine in
            let (a, b) = try (fixture.index(engine, "a"), fixture.index(engine, "b"))
            try engine.merge(a)
            let content = try engine.store.contents()[0]
            try [UInt8](repeating: 7, count: 100).withUnsafeBytes {
                try engine.store.files.make(content.name, size: content.size).write($0, at: 100)
            }
            try engine.merge(b)
            let contents = try engine.store.contents()
            #expect(contents.map(\.proof)[0] == .claimed)
            #expect(contents[0].state == .partial, "the damage is known")
            #expect(try contents[1].state == .merged && engine.store.bytes(contents[1]) == bytes)
            try engine.merge(a)
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("of a file that was removed from the store is no obstacle: the bytes are fetched")
    func removed() throws {
        let fixture = try Fixture()
        let bytes = noise(200_000, seed: 1)
        try write(fixture, "a") { $0.file("file", bytes, chunkSize: 30_000) }
        try write(fixture, "b") { $0.file("file", bytes, chunkSize: 50_000) }
        try fixture.withEngine { engine in
            let (a, b) = try (fixture.index(engine, "a"), fixture.index(engine, "b"))
            try engine.merge(a)
            unlink("\(fixture.directory)/store/content/\(try engine.store.contents()[0].name.path)")
            try engine.merge(b)
            #expect(try engine.store.contents().map(\.state) == [.absent, .merged])
            #expect(try engine.store.bytes(engine.store.contents()[1]) == bytes)
        }
    }

    @Test("of a chunk that some other content has is checked on the copy, which costs no fetch")
    func copiedChunks() throws {
        let fixture = try Fixture()
        // Chunks 0 and 2 of the new file are landed chunks of the old one, chunk 3 is a whole small file.
        let old = noise(150_000, seed: 1)
        let small = noise(30_000, seed: 2)
        let new = Array(old[50_000..<100_000]) + noise(50_000, seed: 3) + Array(old[..<50_000]) + small
        try write(fixture, "old") {
            $0.file("old", old, chunkSize: 50_000)
            $0.file("small", small)
        }
        try write(fixture, "new") { $0.file("new", new, chunkSize: 50_000) }
        try fixture.withEngine { engine in
            let (first, second) = try (fixture.index(engine, "old"), fixture.index(engine, "new"))
            try engine.merge(first)
            let source = fixture.control(engine)
            try engine.merge(second)
            #expect(source.sentByteCount == ForgedLayer.memberSize(50_000))
            #expect(try engine.store.isWholeAndRight())
        }
    }

    @Test("of a chunk whose landed copy was damaged is not believed: the chunk is fetched")
    func damagedCopies() throws {
        let fixture = try Fixture()
        let old = noise(150_000, seed: 1)
        let new = Array(old[..<100_000]) + noise(50_000, seed: 3)
        try write(fixture, "old") { $0.file("old", old, chunkSize: 50_000) }
        try write(fixture, "new") { $0.file("new", new, chunkSize: 50_000) }
        try fixture.withEngine { engine in
            let (first, second) = try (fixture.index(engine, "old"), fixture.index(engine, "new"))
            try engine.merge(first)
            let content = try engine.store.contents()[0]
            try [UInt8(7), 7, 7].withUnsafeBytes {
                try engine.store.files.make(content.name, size: content.size).write($0, at: 60_000)
            }
            let source = fixture.control(engine)
            try engine.merge(second)
            #expect(source.sentByteCount == 2 * ForgedLayer.memberSize(50_000))
            #expect(try engine.store.bytes(engine.store.contents()[1]) == new)
        }
    }
}
