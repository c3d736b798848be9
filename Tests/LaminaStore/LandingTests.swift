import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Landing")
struct LandingTests {
    let scratch = Scratch.inMemory()
    let file = FileBytes(chunks: [pattern(5000), pattern(5000, seed: 1), pattern(700, seed: 2)])

    private func content(_ store: Store) throws -> ContentRecord { try store.index.content(file, in: scratch) }

    @Test("chunk by chunk a content goes from absent over partial to merged")
    func states() throws {
        let store = try scratch.open()
        let layer = try store.importLayer("a", [Entry("x", .file(file))])
        #expect(try content(store).state == .absent)
        var landing = Landing()
        #expect(landing.isEmpty)
        try store.record(landing)
        landing.chunks = [(try content(store).id, 5000)]
        #expect(!landing.isEmpty)
        try store.record(landing)
        #expect(try content(store).state == .partial)
        func landed() throws -> [Bool] {
            try store.index.chunks(of: try content(store), preferring: layer).map(\.hasLanded)
        }
        #expect(try landed() == [false, true, false])
        try store.record(landing)
        #expect(try landed() == [false, true, false], "the same again changes nothing")
        landing.chunks = [(try content(store).id, 0), (try content(store).id, 10_000)]
        landing.merged = [(try content(store).id, .claimed)]
        try store.record(landing)
        #expect(try content(store).state == .merged)
        #expect(try content(store).proof == .claimed)
        #expect(try landed() == [true, true, true])
        try store.recordProof(.proven, of: try content(store).id)
        #expect(try content(store).proof == .proven)
    }

    @Test("a content that is recorded as merged has all its chunks, though nobody named them")
    func mergedAtOnce() throws {
        let store = try scratch.open()
        try store.importLayer("a", [Entry("x", .file(file))])
        var landing = Landing()
        landing.merged = [(try content(store).id, .proven)]
        try store.record(landing)
        #expect(try store.index.chunks(of: try content(store), preferring: nil).allSatisfy(\.hasLanded))
    }

    @Test("what is forgotten is absent")
    func forget() throws {
        let store = try scratch.open()
        try store.importLayer("a", [Entry("x", .file(file))])
        var landing = Landing()
        landing.merged = [(try content(store).id, .proven)]
        try store.record(landing)
        try store.takeBack(try content(store))
        #expect(try content(store).state == .absent)
        #expect(try content(store).proof == .claimed)
        #expect(try store.index.chunks(of: try content(store), preferring: nil).allSatisfy { !$0.hasLanded })
    }

    @Test("a backing file is made sparse at its full size, found again as it was, and mended where its size is wrong")
    func backingFile() throws {
        let store = try scratch.open()
        let name = BackingName(digest: digest("large"), claim: digest("claim"))
        let size: Int64 = 5 << 30
        let made = try store.files.make(name, size: size)
        #expect(try made.size() == size)
        #expect(try made.status().st_blocks == 0)
        try [1, 2, 3].withUnsafeBytes { try made.write($0, at: size - 100) }
        #expect(try store.files.make(name, size: size).status().st_ino == made.status().st_ino)
        #expect(try store.files.open(name).read(1, at: size - 100) == [1])
        try made.truncate(to: 5)
        #expect(try store.files.make(name, size: size).size() == size)
        let error = #expect(throws: SystemError.self) {
            _ = try store.files.open(BackingName(digest: digest("none"), claim: nil))
        }
        #expect(error?.code == ENOENT)
    }

    @Test(
        "a chunk lands whole, whatever its size, place and memory, whether it goes past the page cache or not",
        arguments: [
            (0, 3 << 20, 0), (4 << 20, (1 << 20) + 123, 0), (5, 2 << 20, 0), (4096, 2 << 20, 8), (4 << 20, 100, 0),
        ])
    func writing(offset: Int, count: Int, misalignment: Int) throws {
        let store = try scratch.open()
        let name = BackingName(digest: digest("large"), claim: digest("claim"))
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count + misalignment, alignment: 4096)
        defer { memory.deallocate() }
        let bytes = UnsafeMutableRawBufferPointer(rebasing: memory[misalignment...])
        bytes.copyBytes(from: pattern(count))
        let size = Int64(offset + count)
        for keepsCached in [false, true] {
            var lease = store.files.lease(writing: name)
            defer { lease.recorded() }
            let file = try lease.writable(name, size: size)
            try file.write(UnsafeRawBufferPointer(bytes), at: Int64(offset), keepsCached: keepsCached)
            let read = try store.files.open(name).read(Int(size), at: 0)
            #expect(read.count == Int(size))
            #expect(read[..<offset].allSatisfy { $0 == 0 })
            #expect(read[offset...].elementsEqual(bytes))
        }
    }

    @Test("a content of one chunk is written whole, whatever had its name", arguments: [100, (2 << 20) + 5])
    func writingWhole(count: Int) throws {
        let store = try scratch.open()
        let name = BackingName(digest: digest("single"), claim: nil)
        let bytes = pattern(count)
        for left in [nil, 0, count + 9000] as [Int?] {
            if let left { try store.files.make(name, size: 1).truncate(to: Int64(left)) }
            try bytes.withUnsafeBytes { try store.files.write($0, as: name, keepsCached: false) }
            let file = try store.files.open(name)
            #expect(try file.read(count + 1, at: 0) == bytes)
            #expect(try file.firstHole() == Int64(count))
        }
        // Another content shares the file by now. Its bytes have the digest of its name, which the other content has too: they
        // are repaired for all. If a name claims other chunks, it gets its own file.
        let claimed = BackingName(digest: digest("single"), claim: digest("chunks"))
        let other = BackingName(digest: digest("other"), claim: nil)
        let directory = store.files.directoryFile.descriptor
        mkdirat(directory, String(other.path.prefix(2)), 0o755)
        for path in [other.path, claimed.path] { #expect(linkat(directory, name.path, directory, path, 0) == 0) }
        try pattern(count, seed: 3).withUnsafeBytes { try store.files.write($0, as: name, keepsCached: false) }
        for name in [name, other] { #expect(try store.files.open(name).read(count, at: 0) == pattern(count, seed: 3)) }
        try bytes.withUnsafeBytes { try store.files.write($0, as: claimed, keepsCached: false) }
        #expect(try store.files.open(claimed).read(count, at: 0) == bytes)
        for name in [name, other] { #expect(try store.files.open(name).read(count, at: 0) == pattern(count, seed: 3)) }
    }
}

@Suite("Sharing what is proven")
struct AdoptTests {
    let scratch = Scratch.inMemory()
    let bytes = pattern(9000)
    var whole: FileBytes { FileBytes(bytes) }
    var split: FileBytes { FileBytes(chunks: [Array(bytes[..<4096]), Array(bytes[4096...])]) }
    /// Claims the digest of `whole` for other bytes.
    var liar: FileBytes {
        FileBytes(chunks: [Array(bytes[..<4096]), pattern(9000 - 4096, seed: 7)], claimed: whole.digest)
    }

    /// A store in which `whole` is proven and `other` is not there yet.
    private func contents(_ other: FileBytes) throws -> (store: Store, proven: ContentRecord, other: ContentRecord) {
        let store = try scratch.open()
        try store.importLayer("a", [Entry("x", .file(whole))])
        try store.importLayer("b", [Entry("x", .file(other))])
        let ids = try scratch.integers("SELECT id FROM content ORDER BY id").map(ContentID.init)
        let first = try #require(try store.index.content(ids[0]))
        try scratch.write(bytes, to: first, in: store)
        var landing = Landing()
        landing.merged = [(first.id, .proven)]
        try store.record(landing)
        return (store, try #require(try store.index.content(ids[0])), try #require(try store.index.content(ids[1])))
    }

    @Test("an adopted content is the same file as the proven one, whole and proven")
    func adopt() throws {
        let (store, proven, other) = try contents(split)
        try scratch.write(Array(bytes[..<4096]), to: other, in: store)
        var landing = Landing()
        landing.chunks = [(other.id, 0)]
        try store.record(landing)
        try store.adopt(proven, as: other)
        let adopted = try #require(try store.index.content(other.id))
        #expect(adopted.state == .merged)
        #expect(adopted.proof == .proven)
        #expect(try store.index.chunks(of: adopted, preferring: nil).allSatisfy(\.hasLanded))
        let status = try store.files.open(adopted.name).status()
        #expect(try store.files.open(proven.name).status().st_ino == status.st_ino)
        #expect(status.st_nlink == 2)
        #expect(try store.files.open(adopted.name).read(20_000, at: 0) == bytes)
        try store.adopt(proven, as: adopted)
        #expect(try store.files.open(proven.name).status().st_nlink == 2, "the same again leaves no third name")
    }

    @Test("what is only claimed, of other bytes or of another size is not shared")
    func refused() throws {
        let (store, proven, other) = try contents(split)
        func expectConflict(_ a: ContentRecord, _ b: ContentRecord, _ comment: Comment) {
            let error = #expect(throws: StoreError.self, comment) { try store.adopt(a, as: b) }
            #expect(error?.code == .conflict, comment)
        }
        expectConflict(other, proven, "an absent one")
        expectConflict(proven, proven, "itself")
        var foreign = other
        foreign.name.digest = digest("other")
        expectConflict(proven, foreign, "another digest")
        try store.recordProof(.claimed, of: proven.id)
        expectConflict(proven, other, "the index has it as claimed, whatever the record says")
        #expect(try store.index.content(other.id)?.state == .absent)
    }

    @Test("who shares a file cannot write to it: chunks of a lying layer go into a file of their own")
    func privateCopy() throws {
        let (store, proven, other) = try contents(liar)
        try store.adopt(proven, as: other)
        try store.takeBack(try #require(try store.index.content(other.id)))
        try scratch.write(liar.chunks[1], to: other, at: 4096, in: store)
        #expect(try store.files.open(proven.name).read(20_000, at: 0) == bytes)
        let status = try store.files.open(proven.name).status()
        #expect(status.st_nlink == 1)
        #expect(try store.files.open(other.name).read(20_000, at: 0) == liar.bytes, "what had landed before is kept")
        try scratch.write(bytes, to: proven, in: store)
        #expect(try store.files.open(proven.name).status().st_ino == status.st_ino)
    }
}
