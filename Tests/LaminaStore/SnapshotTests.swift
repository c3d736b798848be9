import Glibc
import LaminaDigest
import LaminaStore
import LaminaTestSupport
import Testing

@Suite("containerd's snapshots in the index")
struct SnapshotTests {
    let scratch = Scratch.inMemory()
    private let file = FileBytes(pattern(100))

    private func make(
        _ store: Store, _ key: String, parent: String? = nil, kind: SnapshotKind = .active,
        labels: [String: String] = [:]
    ) throws -> SnapshotChain {
        try store.createSnapshot(
            SnapshotKey(key), parent: parent.map { SnapshotKey($0) }, kind: kind, labels: labels
        ) { _, _ in }
    }

    private func expect(
        _ code: SnapshotError.Code, _ comment: Comment, _ location: SourceLocation = #_sourceLocation,
        _ body: () throws -> Void
    ) {
        let error = #expect(throws: SnapshotError.self, comment, sourceLocation: location) { try body() }
        #expect(error?.code == code, comment, sourceLocation: location)
    }

    @Test("one that cannot be made, because of its directory, leaves nothing, and its number is free")
    func rolledBack() throws {
        let store = try scratch.open()
        struct Full: Error {}
        #expect(throws: Full.self) {
            try store.createSnapshot(SnapshotKey("a"), parent: nil, kind: .active, labels: ["l": "v"]) { _, _ in
                throw Full()
            }
        }
        #expect(try store.index.snapshot(SnapshotKey("a")) == nil)
        #expect(try scratch.integer("SELECT count(*) FROM snapshot_label") == 0)
        #expect(try make(store, "a").id == SnapshotID(1))
    }

    @Test("its key may be any bytes")
    func keys() throws {
        let store = try scratch.open()
        for bytes in [[0xFF, 0xFE, 0x00], Array("ns/1/a b\n".utf8), Array(repeating: 0x41, count: 5000)] as [[UInt8]] {
            _ = try store.createSnapshot(SnapshotKey(bytes), parent: nil, kind: .active, labels: [:]) { _, _ in }
            #expect(try store.index.snapshot(SnapshotKey(bytes))?.key.bytes == bytes)
        }
    }

    @Test("numbers are not given again after a removal")
    func numbers() throws {
        let store = try scratch.open()
        _ = try make(store, "a")
        try store.removeSnapshot(SnapshotKey("a"))
        #expect(try make(store, "a").id == SnapshotID(2))
        try store.withSnapshotDirectories { #expect($0 == [SnapshotID(2)]) }
    }

    @Test("a lazy layer has its view, which takes directories that it does not list from the chain below")
    func lazyChain() throws {
        let store = try scratch.open()
        try store.importLayer("bottom", [Entry("srv", .directory, permissions: 0o700, uid: 1000, gid: 1001)])
        try store.importLayer("other", [Entry("srv", .directory, permissions: 0o755)])
        try store.importLayer("top", [Entry("srv", .implicit), Entry("srv/file", .file(file))])
        func commit(_ layer: String, _ name: String, _ parent: String?) throws -> LayerID? {
            try store.commitLayer(
                digest(layer), as: SnapshotKey(name), parent: parent.map { SnapshotKey($0) },
                labels: [snapshotChainLabel: "sha256:\(layer)"])
        }
        _ = try #require(try commit("bottom", "b", nil))
        let top = try #require(try commit("top", "t", "b"))
        #expect(try commit("top", "t", "b") == top, "twice is once")
        _ = try commit("other", "o", nil)
        _ = try commit("top", "t on o", "o")
        #expect(try commit("absent", "x", nil) == nil)
        expect(.alreadyExists, "the name of another layer") { _ = try commit("other", "t", "b") }
        expect(.alreadyExists, "the name with another parent") { _ = try commit("top", "t", "o") }
        expect(.notFound, "no parent") { _ = try commit("top", "x", "none") }

        let chain = try make(store, "container", parent: "t")
        let reader = try IndexReader(store.index)
        guard case .layer(let view) = chain.parents[0], chain.parents.count == 2 else {
            Issue.record("the parents are \(chain.parents)")
            return
        }
        let inherited = try #require(try reader.walk(view, "srv"))
        #expect(inherited.mode & 0o7777 == 0o700 && inherited.uid == 1000 && inherited.gid == 1001)
        let onOther = try make(store, "on other", parent: "t on o")
        guard case .layer(let otherView) = onOther.parents[0] else {
            Issue.record("the parents are \(onOther.parents)")
            return
        }
        #expect(otherView != view, "one layer has a view for each chain")
        #expect(try reader.walk(otherView, "srv")?.uid == 0)

        // Above an unpacked layer nothing is lazy.
        try store.commitSnapshot(
            SnapshotKey("container"), as: SnapshotKey("unpacked"), labels: [:],
            usage: SnapshotUsage(bytes: 0, inodes: 0))
        expect(.failedPrecondition, "a gap") { _ = try commit("top", "above", "unpacked") }
        #expect(try store.index.lazyChain(of: SnapshotKey("t")) == "sha256:top")
        #expect(try store.index.lazyChain(of: SnapshotKey("unpacked")) == nil)
    }

    @Test("is found by its chain ID, page by page")
    func pages() throws {
        let store = try scratch.open()
        for number in 0..<25 { _ = try make(store, "k\(number)", labels: [snapshotChainLabel: "c\(number % 2)"]) }
        var found: [String] = []
        var last: SnapshotID?
        while true {
            let page = try store.index.snapshots(after: last, limit: 5, chain: "c1")
            guard let end = page.last else { break }
            #expect(page.count <= 5)
            found += page.map { String(decoding: $0.key.bytes, as: UTF8.self) }
            last = end.id
        }
        #expect(found == (0..<25).filter { $0 % 2 == 1 }.map { "k\($0)" })
        #expect(try store.index.snapshots(after: nil, limit: 100).count == 25)
    }

    @Test("a lazy layer takes what its files take that no older layer has, and changes with what lands")
    func usage() throws {
        let store = try scratch.open()
        let shared = FileBytes(pattern(5000, seed: 1))
        let own = FileBytes(pattern(9000, seed: 2))
        let older = try store.importLayer("older", [Entry("a", .file(shared))])
        let newer = try store.importLayer("newer", [Entry("a", .file(shared)), Entry("b", .file(own))])
        #expect(try store.index.usage(of: newer) == SnapshotUsage(bytes: 0, inodes: 0))
        for bytes in [shared, own] {
            let content = try store.index.content(bytes, in: scratch)
            try scratch.write(bytes.bytes, to: content, in: store)
            var landing = Landing()
            landing.merged = [(content.id, .proven)]
            let before = store.index.contentVersion
            try store.record(landing)
            #expect(store.index.contentVersion > before)
        }
        #expect(try store.index.usage(of: older) == SnapshotUsage(bytes: 8192, inodes: 1))
        #expect(try store.index.usage(of: newer) == SnapshotUsage(bytes: 12288, inodes: 1))

        let before = store.index.contentVersion
        _ = try store.commitLayer(digest("newer"), as: SnapshotKey("one"), parent: nil, labels: [:])
        _ = try make(store, "x")
        #expect(store.index.contentVersion == before, "snapshots change no content")
        let first = try #require(try store.index.snapshot(SnapshotKey("one")))
        #expect(try store.index.isFirst(first.id, of: newer))
        #expect(try !store.index.isFirst(SnapshotID(first.id.row + 1), of: newer))
        #expect(try store.index.unmergedSnapshotLayers().isEmpty)
    }
}
