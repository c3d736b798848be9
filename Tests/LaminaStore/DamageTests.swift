import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("A damaged index")
struct DamageTests {
    /// A generator that gives the same numbers each time.
    private struct Seeded: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ (state >> 29)
        }
    }

    /// Makes every query that an index supports; every failure must be a `StoreError`.
    private func readAll(_ root: String) throws -> Bool {
        do {
            let index = try Index(root: root)
            _ = try index.imageStatus()
            _ = try index.layerStatus()
            _ = try index.cacheUsage()
            _ = try index.mergeProgress()
            _ = try index.mountStatus()
            _ = try index.mounts()
            let images = try index.images()
            for image in images where image.layers.count < 100 {
                _ = try index.files(of: image)
                for layer in image.layers {
                    _ = try index.blob(of: layer)
                    for item in try index.unmerged(in: layer, after: nil, limit: 100) {
                        _ = try index.chunks(of: item.content, preferring: layer)
                        _ = try index.twin(of: item.content)
                    }
                }
            }
            let reader = try IndexReader(index)
            for id in 1...30 as ClosedRange<Int64> {
                _ = try reader.inode(id)
                _ = try reader.names(of: id)
                _ = try reader.xattrs(of: id)
                _ = try reader.target(id) { _ in }
            }
            return true
        } catch is StoreError {
            return false
        }
    }

    @Test(
        "bytes changed at random are an error of the store or change nothing that was asked, never a crash",
        arguments: [1, 2, 3, 4])
    func fuzz(seed: Int) throws {
        let scratch = Scratch.inMemory()
        _ = try ExampleStore.make(in: scratch)
        let whole = try readFile(scratch.index)
        let file = try File(scratch.index, O_RDWR)
        var random = Seeded(state: UInt64(seed))
        var failures = 0
        for _ in 0..<250 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                // Most of a page is free; its front and its end matter.
                let page = Int.random(in: 0..<(bytes.count / 4096), using: &random) * 4096
                let place =
                    Bool.random(using: &random)
                    ? Int.random(in: 0..<64, using: &random) : 4095 - Int.random(in: 0..<600, using: &random)
                bytes[page + place] = UInt8.random(in: 0...255, using: &random)
            }
            if Int.random(in: 0..<20, using: &random) == 0 {
                bytes.removeLast(Int.random(in: 1..<bytes.count, using: &random))
            }
            try file.truncate(to: Int64(bytes.count))
            try bytes.withUnsafeBytes { try file.write($0, at: 0) }
            if try !readAll(scratch.root) { failures += 1 }
            unlink(scratch.index + "-wal")
            unlink(scratch.index + "-shm")
        }
        #expect(failures > 20, "the changes hit something")
    }

    @Test("an index that is damaged is reported as such when the store is opened and when it is read")
    func reported() throws {
        let scratch = Scratch.inMemory()
        _ = try ExampleStore.make(in: scratch)
        let file = try File(scratch.index, O_RDWR)
        let size = try file.size()
        for page in 1..<(size / 4096) {
            try [UInt8](repeating: 0xee, count: 100).withUnsafeBytes { try file.write($0, at: page * 4096) }
        }
        let write = #expect(throws: StoreError.self) { _ = try scratch.open() }
        #expect(write?.code == .damaged)
        let read = #expect(throws: StoreError.self) { _ = try Index(root: scratch.root).images() }
        #expect(read?.code == .damaged)
        #expect(read?.description.contains(scratch.index) == true)
        // A server meets it again and again: that costs no descriptors.
        func descriptors() throws -> Int {
            try scratch.shell("ls -l /proc/$PPID/fd | grep -cF '\(scratch.root)' || true").split(separator: "\n").first
                .flatMap { Int($0) } ?? -1
        }
        let before = try descriptors()
        for _ in 0..<20 { #expect(throws: StoreError.self) { _ = try Index(root: scratch.root).images() } }
        #expect(try descriptors() <= before + 1)
    }

    @Test("rows that make no sense are named")
    func nonsense() throws {
        let scratch = Scratch.inMemory()
        let store = try ExampleStore.make(in: scratch)
        try scratch.sqlite("PRAGMA ignore_check_constraints = ON; UPDATE content SET state = 7 WHERE id = 1")
        let error = #expect(throws: StoreError.self) { _ = try store.index.content(ContentID(1)) }
        #expect(error?.code == .damaged)
        #expect(error?.message.contains("content 1") == true)
    }
}
