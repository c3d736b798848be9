import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Sealed chains in the index")
struct SealedChainTests {
    var scratch = Scratch.inMemory()

    func merge(_ file: FileBytes, _ store: Store) throws {
        for row in try scratch.integers("SELECT id FROM content WHERE digest = x'\(file.digest.hex)'") {
            guard let content = try store.index.content(ContentID(row)) else { continue }
            try scratch.write(file.bytes, to: content, in: store)
            var landing = Landing()
            landing.merged = [(content.id, .proven)]
            try store.record(landing)
        }
    }

    func complete(_ store: Store) throws -> ImageRecord {
        for file in [ExampleStore.release, ExampleStore.tool, ExampleStore.data] { try merge(file, store) }
        return try #require(try store.index.images(named: "localhost:5000/app:1").first)
    }

    @Test("only what has landed whole is sealed, once, and its image is there")
    func seal() throws {
        let store = try ExampleStore.make(in: scratch)
        let image = try #require(try store.index.images(named: "localhost:5000/app:1").first)
        #expect(try store.seal(image.views) == nil)
        _ = try complete(store)
        let chain = try #require(try store.seal(image.views))
        #expect(chain.views == image.views && !chain.isUsed)
        let path = "\(scratch.root)/\(Store.imagePath(of: chain.id))"
        let bytes = try readFile(path)
        #expect(Int64(bytes.count) == chain.bytes)
        #expect(try store.seal(image.views)?.id == chain.id)
        #expect(try store.index.sealedChains().map(\.id) == [chain.id])
        // One whose file is gone is written again, byte for byte.
        unlink(path)
        try store.rewriteImage(of: chain)
        #expect(try readFile(path) == bytes)
        // What a killed process left is removed; what is known stays.
        for name in ["new-0-1", "77.erofs"] { _ = try File("\(scratch.root)/sealed/\(name)", O_CREAT | O_WRONLY) }
        try store.removeUnknownImages()
        #expect(try File.names(inDirectory: scratch.root + "/sealed") == ["\(chain.id).erofs"])
    }

    @Test("threads that seal one chain at once get the same one, and one image is left")
    func race() throws {
        for _ in 0..<20 {
            let scratch = Scratch.inMemory()
            let store = try ExampleStore.make(in: scratch)
            let image = try SealedChainTests(scratch: scratch).complete(store)
            let found = Monitor<[Result<SealedID?, any Error>]>([])
            let threads = try (0..<8).map { number in
                try Thread("seal-\(number)") {
                    let result = Result { try store.seal(image.views)?.id }
                    found.withLock { $0.append(result) }
                }
            }
            threads.forEach { $0.join() }
            let ids = try found.withLock { $0 }.map { try $0.get() }
            let chain = try #require(try store.index.sealed(image.views))
            #expect(ids == Array(repeating: chain.id, count: 8))
            #expect(try File.names(inDirectory: scratch.root + "/sealed") == ["\(chain.id).erofs"])
            #expect(try Int64(readFile("\(scratch.root)/\(Store.imagePath(of: chain.id))").count) == chain.bytes)
        }
    }

    @Test(
        "of a chain that is used nothing is given up; one that nothing uses is forgotten with the first file that goes")
    func eviction() throws {
        let store = try ExampleStore.make(in: scratch)
        let image = try complete(store)
        let chain = try #require(try store.seal(image.views))
        let tool = try store.index.content(ExampleStore.tool, in: scratch)
        let row = try #require(try store.beginSealedMount(chain.id))
        #expect(try store.index.sealed(chain.id)?.isUsed == true)
        #expect(try store.index.evictable(limit: 9).contents.isEmpty)
        // Even if it was chosen before it was sealed.
        #expect(try store.evict([tool]).contents == 0)
        #expect(try store.index.content(tool.id)?.state == .merged && store.files.exists(tool.name))
        #expect(try store.index.sealedBytes() > 0)
        #expect(try !store.forget(chain.id))
        try store.settleSealedMount(row, device: "erofs-1")
        #expect(try store.index.sealedMounts().map(\.device) == ["erofs-1"])
        // Reads by the kernel alone are noticed at the end.
        try scratch.sqlite("UPDATE content SET used_at = 1")
        try store.noteUse(of: chain.id)
        #expect(try scratch.integer("SELECT count(*) FROM content WHERE used_at = 1") == 0)
        try store.settleSealedMount(row, device: nil)
        #expect(try store.index.sealed(chain.id)?.isUsed == false && store.index.sealedBytes() == 0)
        #expect(try store.evict([tool]).contents == 1)
        #expect(try store.index.sealedChains().isEmpty)
        // And code that still has its number must not mount it any more.
        #expect(try store.beginSealedMount(chain.id) == nil)
    }

    @Test("a chain that lost something is not mounted")
    func incomplete() throws {
        let store = try ExampleStore.make(in: scratch)
        let chain = try #require(try store.seal(try complete(store).views))
        let tool = try store.index.content(ExampleStore.tool, in: scratch)
        try store.takeBack([0..<6000], of: tool.id)
        #expect(try store.beginSealedMount(chain.id) == nil)
        try merge(ExampleStore.tool, store)
        #expect(try store.beginSealedMount(chain.id) != nil)
    }

    @Test("the collection of garbage leaves a used chain's layers, and takes another with its layers")
    func garbage() throws {
        let store = try ExampleStore.make(in: scratch)
        let chain = try #require(try store.seal(try complete(store).views))
        let row = try #require(try store.beginSealedMount(chain.id))
        for mount in try store.index.mounts() { try store.removeMount(target: mount.target) }
        for image in try store.index.images() { try store.removeImage(image.reference) { _ in false } }
        #expect(try store.markGarbage(open: [], dryRun: false).report.layers == 0)
        try store.settleSealedMount(row, device: nil)
        #expect(try store.markGarbage(open: [], dryRun: false).report.layers > 0)
        #expect(try store.index.sealedChains().isEmpty)
        try store.removeUnknownImages()
        #expect(try File.names(inDirectory: scratch.root + "/sealed").isEmpty)
    }

    @Test("mounts of another boot are forgotten, and mounts and snapshots say which way they went")
    func ways() throws {
        let store = try ExampleStore.make(in: scratch)
        let chain = try #require(try store.seal(try complete(store).views))
        _ = try #require(try store.beginSealedMount(chain.id))
        try store.forgetSealedMountsOfOtherBoots()
        #expect(try store.index.sealedMounts().count == 1)
        try scratch.sqlite("UPDATE sealed_mount SET boot = 'another'")
        try store.forgetSealedMountsOfOtherBoots()
        #expect(try store.index.sealedMounts().isEmpty)
        let target = try #require(try store.index.mounts().first).target
        try store.setWay(of: target, chain.id)
        #expect(try store.index.mounts().first?.sealed == chain.id)
        #expect(try store.index.mountStatus().first?.way == "sealed")
        let key = SnapshotKey("one")
        _ = try store.createSnapshot(key, parent: nil, kind: .active, labels: [:], sealed: chain.id) { _, _ in }
        #expect(try store.index.snapshotChain(key)?.sealed == chain.id)
        #expect(try scratch.sqlite3("SELECT way FROM snapshot_status WHERE name = 'one'") == "sealed\n")
        #expect(try store.index.answeredChains() == [chain.id])
        try store.commitSnapshot(
            key, as: SnapshotKey("two"), labels: [:], usage: SnapshotUsage(bytes: 0, inodes: 0))
        try store.setWay(of: target, nil)
        #expect(try store.index.answeredChains().isEmpty)
    }
}

extension SealedChainTests {
    @Test("a lost file of a sealed chain is written beside its name, and never shows a hole by it")
    func aside() throws {
        let store = try ExampleStore.make(in: scratch)
        let chain = try #require(try store.seal(try complete(store).views))
        let tool = try store.index.content(ExampleStore.tool, in: scratch)
        let path = "\(scratch.root)/content/\(tool.name.path)"
        // If nothing uses the chain, it is done as usual: in place.
        unlink(path)
        #expect(try store.takeBackDamage(of: tool) == .absent)
        try scratch.write(ExampleStore.tool.chunks[1], to: tool, at: 6000, in: store)
        #expect(access(path, F_OK) == 0)
        try merge(ExampleStore.tool, store)
        _ = try #require(try store.beginSealedMount(chain.id))
        unlink(path)
        #expect(try store.takeBackDamage(of: store.index.content(ExampleStore.tool, in: scratch)) == .absent)
        try scratch.write(ExampleStore.tool.chunks[1], to: tool, at: 6000, in: store)
        var landing = Landing()
        landing.chunks = [(tool.id, 6000)]
        try store.record(landing)
        // Nothing under the name, but lamina finds what has landed.
        #expect(access(path, F_OK) != 0)
        #expect(store.files.isThere(tool.name, size: tool.size))
        #expect(try store.files.open(tool.name).read(6000, at: 6000) == ExampleStore.tool.chunks[1])
        #expect(try store.removeUnknownFiles(dryRun: false).files == 0)
        #expect(store.files.isThere(tool.name, size: tool.size))
        try merge(ExampleStore.tool, store)
        #expect(try readFile(path) == ExampleStore.tool.bytes)
        // For one that is too short, the rest comes in the same way.
        truncate(path, 7000)
        let short = try store.index.content(ExampleStore.tool, in: scratch)
        #expect(try store.takeBackDamage(of: short) == .short(size: 7000))
        try scratch.write(ExampleStore.tool.chunks[2], to: tool, at: 12_000, in: store)
        #expect(try readFile(path).count == 7000)
        #expect(try store.files.open(tool.name).read(6000, at: 0) == ExampleStore.tool.chunks[0])
        try merge(ExampleStore.tool, store)
        #expect(try readFile(path) == ExampleStore.tool.bytes)
        #expect(access(path + ".aside", F_OK) != 0)
    }
}
