import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Garbage")
struct GarbageTests {
    let scratch = Scratch.inMemory()

    /// The store of the documentation without containerd's snapshots, with every content of its two images merged.
    private func filled() throws -> Store {
        let store = try ExampleStore.make(in: scratch)
        try scratch.sqlite("DELETE FROM snapshot_label; DELETE FROM snapshot")
        for file in [ExampleStore.release, ExampleStore.tool, ExampleStore.data] { try merge(file, store) }
        return store
    }

    private func merge(_ file: FileBytes, _ store: Store) throws {
        let content = try store.index.content(file, in: scratch)
        try scratch.write(file.bytes, to: content, in: store)
        var landing = Landing()
        landing.merged = [(content.id, .proven)]
        try store.record(landing)
    }

    private func files() throws -> Int {
        Int(
            try scratch.shell("find '\(scratch.root)/content' -type f | wc -l").split(separator: "\n")[0].filter(
                \.isNumber)) ?? -1
    }

    @Test("what an image or a mount holds stays, to the last row")
    func held() throws {
        let store = try filled()
        let before = try scratch.sqlite3(".dump")
        let marked = try store.markGarbage(open: [], dryRun: false)
        #expect(marked.report == GarbageReport() && marked.views.isEmpty && marked.inodes.isEmpty)
        _ = try store.sweep()
        #expect(try store.removeUnknownFiles(dryRun: false).files == 0)
        #expect(try scratch.sqlite3(".dump") == before)
        #expect(try files() == 3)
    }

    @Test("an image that is mounted is not removed, and the error says the way out")
    func mounted() throws {
        let store = try filled()
        let error = #expect(throws: StoreError.self) {
            try store.removeImage("localhost:5000/app:1") { $0 == "/mnt/app" }
        }
        #expect(error?.code == .conflict && error?.message.contains("lamina umount /mnt/app") == true)
        #expect(throws: StoreError.self) { try store.removeImage("localhost:5000/none:1") { _ in false } }
        #expect(try store.index.images().count == 2)
    }

    @Test("an image takes with it what no other holds; a dry run says the same and does nothing")
    func removed() throws {
        let store = try filled()
        // Its mount is recorded, but does not exist any more.
        try store.removeImage("localhost:5000/app:1") { _ in false }
        #expect(try store.index.mounts().isEmpty)
        let dry = try store.markGarbage(open: [], dryRun: true)
        #expect(dry.report.layers == 1 && dry.report.contents == 1 && dry.report.files == 1 && dry.report.bytes > 0)
        #expect(try files() == 3 && store.index.layerStatus().count == 2 && !store.hasMarkedFiles())
        let marked = try store.markGarbage(open: [], dryRun: false)
        let swept = try store.sweep()
        #expect(marked.report.layers == dry.report.layers && marked.views == dry.views && marked.inodes == dry.inodes)
        #expect(swept.files == dry.report.files && swept.bytes == dry.report.bytes)
        #expect(try files() == 2)
        #expect(try store.index.layerStatus().map(\.digest) == [digest("base").description])
        for table in ["inode", "dirent", "xattr", "implicit_directory"] {
            let column = table == "dirent" ? "parent" : table == "inode" ? "id" : "inode"
            for range in marked.inodes {
                let sql =
                    "SELECT count(*) FROM \(table) WHERE \(column) BETWEEN \(range.lowerBound) AND \(range.upperBound)"
                #expect(try scratch.integer(sql) == 0, "\(table)")
            }
        }
        #expect(try scratch.sqlite3("PRAGMA foreign_key_check; PRAGMA integrity_check") == "ok\n")
        // The view of the other image is still in the root, the deleted ones are not.
        let names = try scratch.sqlite3("SELECT CAST(name AS TEXT) FROM dirent WHERE parent = 1")
        #expect(!marked.views.isEmpty && marked.views.allSatisfy { !names.split(separator: "\n").contains("\($0)") })
    }

    @Test("numbers are never used again: a merge under way may know its content and its layer by them")
    func numbers() throws {
        let store = try filled()
        let layers = try scratch.integer("SELECT max(id) FROM layer") ?? 0
        let contents = try scratch.integer("SELECT max(id) FROM content") ?? 0
        for image in try store.index.images() { try store.removeImage(image.reference) { _ in false } }
        _ = try store.markGarbage(open: [], dryRun: false)
        _ = try store.sweep()
        #expect(try scratch.integer("SELECT count(*) FROM content") == 0)
        #expect(try scratch.integer("SELECT count(*) FROM layer") == 0)
        #expect(try scratch.integer("SELECT count(*) FROM inode") == 1)
        let layer = try store.importLayer("base", ExampleStore.base)
        #expect(layer.row > layers)
        #expect(try scratch.integers("SELECT id FROM content").allSatisfy { $0 > contents })
        // What the merge then records does not affect other contents, and is no error.
        var landing = Landing()
        landing.merged = [(ContentID(contents), .proven)]
        landing.tarParts = [(LayerID(layers), 0, 10, [1, 2, 3])]
        try store.record(landing)
        #expect(try scratch.integer("SELECT count(*) FROM content WHERE state > 0") == 0)
    }

    @Test("a crash between mark and unlink is healed, and files that came back meanwhile stay")
    func crash() throws {
        var store: Store? = try filled()
        try store?.removeImage("localhost:5000/app:1") { _ in false }
        try store?.removeImage("docker.io/library/debian:12") { _ in false }
        _ = try store?.markGarbage(open: [], dryRun: false)
        // The process ends here; its files are there and the index knows none of them.
        store = nil
        let next = try scratch.open()
        #expect(try next.hasMarkedFiles() && files() == 3)
        // One image comes back before the files are removed: its rows say that nothing has landed, and a merge fetches it
        // again.
        try next.importLayer("base", ExampleStore.base)
        try merge(ExampleStore.release, next)
        let swept = try next.sweep()
        // Nothing has landed of the other file of that image: what is there is not known to the index.
        #expect(swept.files == 2)
        #expect(try !next.hasMarkedFiles() && files() == 1)
        let content = try next.index.content(ExampleStore.release, in: scratch)
        #expect(content.state == .merged)
        #expect(try next.files.open(content.name).read(100, at: 0) == ExampleStore.release.bytes)
    }

    @Test("layers that a pull holds, and those of open files, stay without an image")
    func holds() throws {
        let store = try filled()
        for image in try store.index.images() { try store.removeImage(image.reference) { _ in false } }
        let first = try scratch.integer("SELECT first_inode FROM layer ORDER BY id LIMIT 1") ?? 0
        var hold: LayerHold? = store.hold([digest("application"), digest("one that is not there yet")])
        #expect(try store.markGarbage(open: [first + 2], dryRun: false).report == GarbageReport())
        #expect(try store.markGarbage(open: [], dryRun: false).report.layers == 1)
        #expect(try store.index.layerStatus().map(\.digest) == [digest("application").description])
        withExtendedLifetime(hold) {}
        hold = nil
        #expect(try store.markGarbage(open: [], dryRun: false).report.layers == 1)
    }

    @Test("a reference that was pulled again keeps its old layers as long as they are mounted")
    func pulledAgain() throws {
        let store = try filled()
        let base = try #require(try store.layer(digest("base")))
        let layers = [base]
        _ = try store.addImage(
            reference: "localhost:5000/app:1", manifest: digest("new"), platform: "linux/amd64",
            config: Array("{}".utf8), layers: layers, views: try store.views(of: layers))
        #expect(try store.index.mounts().first?.views.count == 2)
        #expect(try store.markGarbage(open: [], dryRun: false).report == GarbageReport())
        try store.removeMount(target: "/mnt/app")
        let marked = try store.markGarbage(open: [], dryRun: false)
        #expect(marked.report.layers == 1 && marked.report.contents == 1)
    }

    @Test("contents of a stream that was given up go; those of one that goes on stay")
    func streams() throws {
        let store = try scratch.open()
        for name in ["given up", "goes on"] {
            let stream = try store.stream(of: digest(name), origin: "oci:/own")
            let bytes = pattern(5000, seed: name.count)
            var lease = store.files.lease(writing: BackingName(digest: SHA256.hash(bytes), claim: nil))
            try bytes.withUnsafeBytes {
                try lease.write($0, as: BackingName(digest: SHA256.hash(bytes), claim: nil), keepsCached: true)
            }
            var step = StreamStep()
            step.landed = [.init(digest: SHA256.hash(bytes), size: 5000, spool: nil)]
            step.state = [1]
            _ = try store.record(step, of: stream.id, under: lease)
            lease.recorded()
            _ = try store.files.openSpool(ContentFiles.spoolName(stream.id, of: digest(name), offset: 512))
        }
        #expect(try files() == 4)
        var hold: LayerHold? = store.hold([digest("goes on")])
        let marked = try store.markGarbage(open: [], dryRun: false)
        #expect(marked.report.streams == 1 && marked.report.contents == 1)
        #expect(try store.sweep().files == 1)
        // The spool of the one that was given up; what the other one writes exists before it is known.
        #expect(try store.removeUnknownFiles(dryRun: false).files == 1)
        withExtendedLifetime(hold) {}
        hold = nil
        #expect(try store.markGarbage(open: [], dryRun: true).report.streams == 1)
        #expect(try store.removeUnknownFiles(dryRun: false).files == 0)
        #expect(try store.stream(of: digest("goes on"), origin: "oci:/own").state == [1] && files() == 2)
    }

    @Test("files that nothing is known of go, those with names of a moment too; not what somebody writes just now")
    func strays() throws {
        let store = try filled()
        let known = try store.index.content(ExampleStore.release, in: scratch).name.path
        try store.files.make(BackingName(digest: digest("stray"), claim: nil), size: 0).write(pattern(9000), at: 0)
        try store.files.make(BackingName(digest: digest("stray"), claim: digest("claim")), size: 0)
            .write(pattern(9000), at: 0)
        _ = try scratch.shell("touch '\(scratch.root)/content/\(known).link'")
        let name = BackingName(digest: digest("written"), claim: nil)
        do {
            let lease = store.files.lease(writing: name)
            _ = try lease.create(name, size: 9000)
            let dry = try store.removeUnknownFiles(dryRun: true)
            #expect(dry.files == 3 && dry.bytes >= 18_000)
            let removed = try store.removeUnknownFiles(dryRun: false)
            #expect(removed.files == 3 && removed.bytes == dry.bytes)
            #expect(try files() == 4)
        }
        // Its writer has ended its lease without a record.
        try store.settleGivenUp()
        #expect(try files() == 3)
    }
}

extension File {
    func write(_ bytes: [UInt8], at offset: Int64) throws { try bytes.withUnsafeBytes { try write($0, at: offset) } }
}
