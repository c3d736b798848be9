import LaminaDigest
import LaminaStore
import LaminaTestSupport
import Testing

@Suite("Importing a layer")
struct LayerImportTests {
    let scratch = Scratch.inMemory()
    let file = FileBytes(pattern(100))

    @Test("contents that are added many at a time are what they are one by one, whatever of them is there already")
    func manyContents() throws {
        func contents(_ bytes: [FileBytes], from start: Int64) -> [ImportedContent] {
            var blobOffset = start
            return bytes.map { bytes in
                var offset: Int64 = 0
                let chunks = bytes.chunks.map { chunk in
                    defer {
                        offset += Int64(chunk.count)
                        blobOffset += 100
                    }
                    return ImportedChunk(
                        offset: offset, size: Int64(chunk.count), digest: SHA256.hash(chunk), blobOffset: blobOffset,
                        blobSize: 100, innerOffset: 0)
                }
                return ImportedContent(digest: bytes.digest, size: offset, chunks: chunks)
            }
        }
        func add(_ name: String, _ store: Store, _ body: @escaping (LayerImporter) throws -> [ContentID]) throws
            -> [ContentID]
        {
            var ids: [ContentID] = []
            let record = LayerRecord(
                digest: digest(name), diffID: nil, tocDigest: nil, format: 1, size: 1 << 20, prioritizedEnd: nil,
                location: "oci:/x")
            _ = try store.importLayer(record, inodeCount: 0) { ids = try body($0) }
            return ids
        }
        // Some that come twice, some of several chunks, and one that lies about its size.
        var bytes = (0..<100).map { FileBytes(pattern(50 + $0, seed: $0)) }
        bytes[40] = bytes[7]
        bytes[41] = FileBytes(chunks: [pattern(10), pattern(20, seed: 3)])
        bytes[99] = FileBytes(chunks: [pattern(10), pattern(20, seed: 3)])
        var listed = contents(bytes, from: 0)
        listed[70].digest = listed[3].digest
        let store = try scratch.open()
        let known = try add("before", store) { importer in
            try listed[20..<24].map { try importer.addContent(digest: $0.digest, size: $0.size, chunks: $0.chunks) }
        }
        let many = try add("many", store) { try $0.addContents(listed) }
        let single = try add("single", store) { importer in
            try listed.map { try importer.addContent(digest: $0.digest, size: $0.size, chunks: $0.chunks) }
        }
        #expect(many == single)
        #expect(Array(many[20..<24]) == known)
        #expect(many[40] == many[7] && many[99] == many[41] && many[70] != many[3])
        #expect(Set(many).count == 98)
        #expect(try scratch.integer("SELECT count(*) FROM content") == 98)
        #expect(
            try scratch.integer(
                "SELECT count(*) FROM chunk_source s JOIN layer l ON l.id = s.layer WHERE l.digest = x'\(digest("many").hex)'"
            )
                == 102)
        for (content, id) in zip(listed, many) {
            let record = try #require(try store.index.content(id))
            #expect(record.name.digest == content.digest && record.size == content.size)
        }
    }

    @Test("a layer whose import fails leaves nothing")
    func allOrNothing() throws {
        let store = try scratch.open()
        struct Stop: Error {}
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        #expect(throws: Stop.self) {
            try store.importLayer(record, inodeCount: 2) { importer in
                var offset: Int64 = 0
                let content = try importer.add(FileBytes(chunks: [pattern(10), pattern(20)]), blobOffset: &offset)
                let inode = Inode(
                    id: 0, mode: 0o100644, uid: 0, gid: 0, size: 30, mtime: 0, mtimeNanoseconds: 0, device: 0, nlink: 1,
                    content: content)
                let id = try importer.addInode(inode, target: nil)
                try Array("x".utf8).withUnsafeBytes {
                    try importer.addEntry(parent: id, name: $0, inode: id)
                    try importer.addXattr(inode: id, name: $0, value: $0)
                }
                try importer.markImplicit(inode: id, path: [])
                throw Stop()
            }
        }
        for table in [
            "layer", "layer_source", "dirent", "xattr", "content", "chunk", "chunk_source", "implicit_directory",
        ] {
            #expect(try scratch.integer("SELECT count(*) FROM \(table)") == 0, "\(table)")
        }
        #expect(try scratch.integer("SELECT count(*) FROM inode") == 1, "the root of the mount")
        #expect(try store.layer(digest("a")) == nil)
    }

    @Test(
        "a layer with another number of inodes than announced is refused, and nothing of it stays",
        arguments: [0, 1, 3])
    func announced(count: Int) throws {
        let store = try scratch.open()
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        let error = #expect(throws: StoreError.self) {
            try store.importLayer(record, inodeCount: count) { importer in
                for _ in 0..<2 {
                    try importer.addInode(
                        Inode(
                            id: 0, mode: 0o40755, uid: 0, gid: 0, size: 0, mtime: 0, mtimeNanoseconds: 0, device: 0,
                            nlink: 2, content: nil), target: nil)
                }
            }
        }
        #expect(error?.code == .conflict)
        #expect(error?.message.contains("2 inodes where \(count) were announced") == true)
        #expect(try store.layer(digest("a")) == nil)
    }

    @Test("two entries of one name are an error of the database, and nothing of the layer stays")
    func duplicateName() throws {
        let store = try scratch.open()
        let error = #expect(throws: StoreError.self) {
            try store.importLayer("a", [Entry("x", .file(file)), Entry("x", .fifo)])
        }
        #expect(error?.code == .database)
        #expect(error?.description.contains("INSERT INTO dirent") == true, "the SQL is in the cause")
        #expect(try store.layer(digest("a")) == nil)
        try store.importLayer("a", [Entry("x", .file(file))])
    }

    @Test("inode numbers are never used again, after failures, openings and further layers")
    func inodeNumbers() throws {
        var store: Store? = try scratch.open()
        try store?.importLayer("a", [Entry("x", .file(file))])
        let first = try scratch.integers("SELECT id FROM inode WHERE id > 1")
        #expect(throws: StoreError.self) {
            try store?.importLayer("b", [Entry("x", .fifo), Entry("x", .fifo)])
        }
        try store?.importLayer("c", [Entry("x", .file(file))])
        store = nil
        try scratch.sqlite("DELETE FROM inode WHERE id > 1")
        store = try scratch.open()
        try store?.importLayer("d", [Entry("x", .file(file))])
        let last = try scratch.integers("SELECT id FROM inode WHERE id > 1")
        #expect(first.count == 2 && last.count == 2)
        let greatest = try #require(first.max())
        #expect(try #require(last.min()) > greatest + 2, "those of c are not used again either")
    }

    @Test(
        "the same layer twice is one layer, of another repository another one, and each has the places that are added to it"
    )
    func twice() throws {
        let store = try scratch.open()
        let entries = [Entry("x", .file(file))]
        let first = try store.importLayer("a", entries, location: "oci:/first", prioritizedEnd: 17)
        let inodes = try scratch.integer("SELECT count(*) FROM inode")
        #expect(try store.importLayer("a", entries, location: "oci:/first") == first)
        #expect(try scratch.integer("SELECT count(*) FROM inode") == inodes)
        #expect(try store.importLayer("a", entries, location: "http://second/x") != first)
        #expect(try store.index.blob(of: first)?.locations == ["oci:/first"])
        try store.addSource("oci:/zzz", to: first)
        try store.addSource("oci:/first", to: first)
        let blob = try #require(try store.index.blob(of: first))
        #expect(blob.locations == ["oci:/first", "oci:/zzz"])
        #expect(blob.digest == digest("a"))
        #expect(blob.size == 1 << 20)
        #expect(blob.format == 1)
        #expect(blob.prioritizedEnd == 17)
        #expect(try store.index.blob(of: LayerID(99)) == nil)
    }

    @Test("a file of one chunk is one content in all layers, however often it comes")
    func sharedContent() throws {
        let store = try scratch.open()
        let a = try store.importLayer("a", [Entry("x", .file(file)), Entry("y", .file(file))])
        let b = try store.importLayer("b", [Entry("z", .file(file))])
        #expect(try scratch.integer("SELECT count(*) FROM content") == 1)
        #expect(try scratch.integer("SELECT count(*) FROM chunk") == 0, "its chunk needs no row")
        let content = try store.index.content(file, in: scratch)
        #expect(content.name == BackingName(digest: file.digest, claim: nil))
        #expect(content.size == 100)
        #expect(content.state == .absent)
        for layer in [a, b] {
            let chunks = try store.index.chunks(of: content, preferring: layer)
            #expect(chunks.count == 1)
            #expect(chunks.first?.source.layer == layer)
            #expect(chunks.first?.digest == file.digest)
            #expect(chunks.first?.size == 100)
            #expect(chunks.first?.hasLanded == false)
        }
        #expect(
            try store.index.chunks(of: content, preferring: nil).first?.source
                == ChunkPlace(
                    layer: a, blobOffset: 0, blobSize: 51, innerOffset: 0), "the first place of the oldest layer")
    }

    @Test("layers that agree on the chunks of a digest share it, layers that differ are kept apart")
    func claims() throws {
        let store = try scratch.open()
        let bytes = pattern(30)
        let honest = FileBytes(chunks: [Array(bytes[..<10]), Array(bytes[10...])])
        let finer = FileBytes(chunks: [Array(bytes[..<10]), Array(bytes[10..<20]), Array(bytes[20...])])
        let liar = FileBytes(chunks: [Array(bytes[..<10]), pattern(20, seed: 5)], claimed: honest.digest)
        let whole = FileBytes(bytes)
        for (name, file) in [("a", honest), ("b", honest), ("c", finer), ("d", liar), ("e", whole)] {
            try store.importLayer(name, [Entry("x", .file(file))])
        }
        #expect(try scratch.integer("SELECT count(*) FROM content WHERE digest = x'\(honest.digest.hex)'") == 4)
        #expect(try scratch.integer("SELECT count(DISTINCT claim) FROM content") == 4)
        #expect(try scratch.integer("SELECT count(*) FROM chunk") == 2 + 3 + 2)
        let rows = try scratch.integers("SELECT id FROM content")
        let names = try rows.compactMap { try store.index.content(ContentID($0))?.name.path }
        #expect(Set(names).count == 4, "each has a file of its own")
        #expect(names.allSatisfy { $0.hasPrefix("\(honest.digest.hex.prefix(2))/\(honest.digest.hex)") })
        let chunks = try store.index.chunks(of: try store.index.content(honest, in: scratch), preferring: nil)
        #expect(chunks.map(\.offset) == [0, 10])
        #expect(chunks.map(\.size) == [10, 20])
        #expect(chunks.map(\.digest) == honest.chunks.map { SHA256.hash($0) })
        #expect(chunks.map(\.source.blobOffset) == [0, 6])
    }

    @Test(
        "a layer that lies about the size of a one-chunk file does not have the others fetch that size",
        arguments: [5, 500])
    func sizeLie(size: Int64) throws {
        let store = try scratch.open()
        let record = LayerRecord(
            digest: digest("liar"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        _ = try store.importLayer(record, inodeCount: 0) { importer in
            let chunk = ImportedChunk(
                offset: 0, size: size, digest: file.digest, blobOffset: 0, blobSize: 9, innerOffset: 0)
            _ = try importer.addContent(digest: file.digest, size: size, chunks: [chunk])
        }
        let a = try store.importLayer("a", [Entry("x", .file(file))])
        let b = try store.importLayer("b", [Entry("x", .file(file))])
        #expect(try scratch.integer("SELECT count(*) FROM content") == 2)
        for layer in [a, b] {
            let content = try #require(try store.index.unmerged(in: layer, after: nil, limit: 9).first?.content)
            #expect(content.size == 100)
            let chunks = try store.index.chunks(of: content, preferring: layer)
            #expect(chunks.map(\.size) == [100])
            #expect(chunks.map(\.digest) == [file.digest])
        }
    }

    @Test("hard links are one inode, and empty files have no content")
    func linksAndEmptyFiles() throws {
        let store = try scratch.open()
        let layer = try store.importLayer(
            "a", [Entry("x", .file(file)), Entry("y", .link("x")), Entry("empty", .file(FileBytes([])))])
        let reader = try IndexReader(store.index)
        let view = try #require(try store.views(of: [layer]).first)
        #expect(try reader.walk(view, "x")?.id == reader.walk(view, "y")?.id)
        #expect(try reader.walk(view, "x")?.nlink == 2)
        #expect(try reader.walk(view, "empty")?.content == nil)
        #expect(try scratch.integer("SELECT count(*) FROM content") == 1)
    }
}
