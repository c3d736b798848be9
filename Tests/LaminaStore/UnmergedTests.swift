import LaminaDigest
import LaminaStore
import LaminaTestSupport
import Testing

@Suite("What a layer lacks")
struct UnmergedTests {
    let scratch = Scratch.inMemory()

    @Test("unmerged contents come in blob order, in pages, each once, and what is merged is left out")
    func pages() throws {
        let store = try scratch.open()
        let files = (0..<10).map { FileBytes(pattern(50, seed: $0)) }
        // The third file's bytes come once more at the end of the blob.
        let layer = try store.importLayer(
            "a", (files + [files[2]]).enumerated().map { Entry("\($0.offset)", .file($0.element)) })
        var landing = Landing()
        landing.merged = [(try store.index.content(files[4], in: scratch).id, .proven)]
        try store.record(landing)
        var seen: [Digest] = []
        var position: ChunkPlace?
        while true {
            let page = try store.index.unmerged(in: layer, after: position, limit: 4)
            #expect(page.count <= 4)
            guard let last = page.last else { break }
            seen += page.map(\.content.name.digest)
            position = last.firstChunk
        }
        #expect(seen == files.map(\.digest).enumerated().filter { $0.offset != 4 }.map(\.element))
    }

    @Test("only the part of the blob before an end is looked at")
    func end() throws {
        let store = try scratch.open()
        let files = (0..<4).map { FileBytes(pattern(50, seed: $0)) }
        let layer = try store.importLayer("a", files.enumerated().map { Entry("\($0.offset)", .file($0.element)) })
        let first = try store.index.unmerged(in: layer, after: nil, before: 52, limit: 9)
        #expect(first.map(\.content.name.digest) == files[..<2].map(\.digest), "members begin at 0, 26, 52, 78")
        #expect(first.map(\.firstChunk.blobOffset) == [0, 26])
    }

    @Test("several files of one member are told apart by their place in it")
    func oneMember() throws {
        let store = try scratch.open()
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        let layer = try store.importLayer(record, inodeCount: 0) { importer in
            for n in 0..<5 {
                let chunk = ImportedChunk(
                    offset: 0, size: 10, digest: digest("\(n)"), blobOffset: 7, blobSize: 100,
                    innerOffset: Int64(n * 512))
                _ = try importer.addContent(digest: digest("\(n)"), size: 10, chunks: [chunk])
            }
        }
        let first = try store.index.unmerged(in: layer, after: nil, limit: 2)
        let second = try store.index.unmerged(in: layer, after: first.last?.firstChunk, limit: 9)
        #expect((first + second).map(\.firstChunk.innerOffset) == [0, 512, 1024, 1536, 2048])
        #expect((first + second).map(\.content.name.digest) == (0..<5).map { digest("\($0)") })
    }

    @Test("a content of several chunks is listed once, by its first chunk, until it is merged")
    func chunks() throws {
        let store = try scratch.open()
        let file = FileBytes(chunks: [pattern(10), pattern(10, seed: 1), pattern(10, seed: 2)])
        let layer = try store.importLayer("a", [Entry("x", .file(file))])
        let content = try store.index.content(file, in: scratch)
        var landing = Landing()
        landing.chunks = [(content.id, 0)]
        try store.record(landing)
        let page = try store.index.unmerged(in: layer, after: nil, limit: 9)
        #expect(page.map(\.content.id) == [content.id])
        #expect(page.first?.content.state == .partial)
        landing.merged = [(content.id, .claimed)]
        try store.record(landing)
        #expect(try store.index.unmerged(in: layer, after: nil, limit: 9).isEmpty)
    }

    @Test("a content whose digest is merged under another chunk list has a twin")
    func twins() throws {
        let store = try scratch.open()
        let bytes = pattern(30)
        let whole = FileBytes(bytes)
        let split = FileBytes(chunks: [Array(bytes[..<10]), Array(bytes[10...])])
        try store.importLayer("a", [Entry("x", .file(whole))])
        let layer = try store.importLayer("b", [Entry("x", .file(split))])
        let ids = try scratch.integers("SELECT id FROM content ORDER BY id").map(ContentID.init)
        let first = try #require(try store.index.content(ids[0]))
        let second = try #require(try store.index.content(ids[1]))
        #expect(try store.index.unmerged(in: layer, after: nil, limit: 9).map(\.hasTwin) == [false])
        #expect(try store.index.twin(of: second) == nil)
        var landing = Landing()
        landing.merged = [(first.id, .proven)]
        try store.record(landing)
        #expect(try store.index.unmerged(in: layer, after: nil, limit: 9).map(\.hasTwin) == [true])
        #expect(try store.index.twin(of: second)?.id == first.id)
        #expect(try store.index.twin(of: first) == nil, "a content is not its own twin")
        try store.recordProof(.disproven, of: first.id)
        #expect(try store.index.twin(of: second) == nil, "bytes that are not what they claim are nobody's twin")
    }

    @Test("of several twins the proven one is taken")
    func provenTwin() throws {
        let store = try scratch.open()
        let bytes = pattern(30)
        let splits = [10, 15, 20].map { FileBytes(chunks: [Array(bytes[..<$0]), Array(bytes[$0...])]) }
        for (n, split) in splits.enumerated() { try store.importLayer("\(n)", [Entry("x", .file(split))]) }
        let ids = try scratch.integers("SELECT id FROM content ORDER BY id").map(ContentID.init)
        var landing = Landing()
        landing.merged = [(ids[0], .claimed), (ids[1], .proven)]
        try store.record(landing)
        let third = try #require(try store.index.content(ids[2]))
        #expect(try store.index.twin(of: third)?.id == ids[1])
    }

    @Test("a landed chunk is found in whole files and inside others, and only once it has landed")
    func landedChunk() throws {
        let store = try scratch.open()
        let part = pattern(10, seed: 3)
        let small = FileBytes(part)
        let large = FileBytes(chunks: [pattern(20), part])
        let other = FileBytes(chunks: [part, pattern(5)])
        try store.importLayer("a", [Entry("s", .file(small)), Entry("l", .file(large)), Entry("o", .file(other))])
        let smallContent = try store.index.content(small, in: scratch)
        let largeContent = try store.index.content(large, in: scratch)
        let otherContent = try store.index.content(other, in: scratch)
        func find(size: Int64 = 10, notIn content: ContentID? = nil) throws -> (name: BackingName, offset: Int64)? {
            try store.index.landedChunk(small.digest, size: size, notIn: content ?? otherContent.id)
        }
        #expect(try find() == nil)
        var landing = Landing()
        landing.chunks = [(largeContent.id, 20)]
        try store.record(landing)
        #expect(try find()?.name == largeContent.name)
        #expect(try find()?.offset == 20)
        #expect(try find(size: 11) == nil)
        #expect(try find(notIn: largeContent.id) == nil)
        landing.merged = [(smallContent.id, .proven)]
        try store.record(landing)
        #expect(try find()?.name == smallContent.name)
        #expect(try find()?.offset == 0)
        try store.recordProof(.disproven, of: smallContent.id)
        #expect(try find()?.name == largeContent.name, "bytes that are not what they claim are not taken")
    }
}
