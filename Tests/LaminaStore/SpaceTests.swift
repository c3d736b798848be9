import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Space and what was opened")
struct SpaceTests {
    let scratch = Scratch.inMemory()

    private func merge(_ file: FileBytes, _ store: Store) throws -> ContentRecord {
        let content = try store.index.content(file, in: scratch)
        try scratch.write(file.bytes, to: content, in: store)
        var landing = Landing()
        landing.merged = [(content.id, .proven)]
        try store.record(landing)
        return content
    }

    private func inode(_ path: String) throws -> Int64 {
        Int64(try scratch.sqlite3("SELECT inode FROM file WHERE path = '\(path)'").split(separator: "\n")[0]) ?? 0
    }

    @Test("what was used least recently may go first; what is pinned, and what nobody could bring back, does not")
    func order() throws {
        let store = try ExampleStore.make(in: scratch)
        let release = try merge(ExampleStore.release, store)
        let tool = try merge(ExampleStore.tool, store)
        let data = try merge(ExampleStore.data, store)
        try scratch.sqlite("UPDATE content SET used_at = id")
        #expect(try store.index.evictable(limit: 9).contents.map(\.id) == [release.id, tool.id, data.id].sorted())
        // An open makes it the last, and is counted.
        store.uses.note(try inode("/usr/bin/tool"), tool.id)
        store.uses.note(try inode("/usr/bin/tool"), tool.id)
        try store.recordUses()
        #expect(try store.index.evictable(limit: 9).contents.last?.id == tool.id)
        #expect(try scratch.integer("SELECT opens FROM content WHERE id = \(tool.id.row)") == 2)
        try store.setPinned(true, "docker.io/library/debian:12")
        #expect(try store.index.evictable(limit: 9).contents.map(\.id) == [data.id])
        try store.setPinned(false, "docker.io/library/debian:12")
        #expect(try store.index.evictable(limit: 2).contents.count == 2)
        #expect(throws: StoreError.self) { try store.setPinned(true, "localhost/none:1") }
    }

    @Test("what the store takes is what du says, within a page a file")
    func used() throws {
        let store = try ExampleStore.make(in: scratch)
        for file in [ExampleStore.release, ExampleStore.tool, ExampleStore.data] { _ = try merge(file, store) }
        let du = try scratch.shell("du -s --block-size=1 '\(scratch.root)'")
        let actual = Int64(du.prefix { $0.isNumber }) ?? 0
        let used = try store.spaceUsed()
        // du counts the directories too.
        #expect(used <= actual && used >= actual - 300 * 4096, "\(used) of \(actual)")
        let freed = try store.evict([try store.index.content(ExampleStore.tool, in: scratch)])
        #expect(freed == (1, 16_384))
    }

    @Test("first opens are kept by path, in their order, for the image and its next version")
    func opened() throws {
        let store = try ExampleStore.make(in: scratch)
        let app = try #require(try store.index.images(named: "localhost:5000/app:1").first)
        let base = try #require(try store.index.images(named: "docker.io/library/debian:12").first)
        #expect(try store.index.opened(of: app).isEmpty)
        let paths = ["/usr/bin/tool", "/srv/data", "/etc/app-release", "/usr/bin/tool"]
        for path in paths { store.uses.note(try inode(path), ContentID(1)) }
        try store.recordUses()
        // Again, and one more, as after a restart of the server.
        for path in ["/srv/data", "/etc/os-release"] { store.uses.note(try inode(path), ContentID(1)) }
        try store.recordUses()
        let wanted = ["usr/bin/tool", "srv/data", "etc/app-release", "etc/os-release"].map { Array($0.utf8) }
        #expect(try store.index.opened(of: app) == wanted)
        // It is not mounted: the opens count for the one that is.
        #expect(try store.index.opened(of: base).isEmpty)
        // The next version, and one of another repository.
        func image(_ reference: String, _ layers: [LayerID]) throws -> ImageRecord {
            _ = try store.addImage(
                reference: reference, manifest: digest(reference), platform: "linux/amd64", config: Array("{}".utf8),
                layers: layers, views: try store.views(of: layers))
            return try #require(try store.index.images(named: reference).first)
        }
        #expect(try store.index.opened(of: image("localhost:5000/app:2", app.layers)) == wanted)
        #expect(try store.index.opened(of: image("localhost:5000/application:1", app.layers)).isEmpty)
        // What the store lacks of them, each in the last layer that has it.
        let unmerged = try store.index.unmergedOpened(wanted, in: app.layers)
        #expect(unmerged[app.layers[0]]?.map(\.content.size) == [15_000])
        #expect(unmerged[app.layers[1]]?.map(\.content.size) == [5000])
        // It outlives the image.
        try store.removeImage("localhost:5000/app:1") { _ in false }
        _ = try store.markGarbage(open: [], dryRun: false)
        #expect(try store.index.opened(of: app) == wanted)
    }

    @Test("first opens in a container are of the image of its topmost layer, also in layers that other images have")
    func openedInContainers() throws {
        let store = try scratch.open()
        let base = FileBytes(pattern(10))
        try store.importLayer("base", [Entry("etc", .directory), Entry("etc/base", .file(base))])
        for name in ["a", "b"] {
            let file = FileBytes(pattern(20, seed: Int(name.utf8.first ?? 0)))
            try store.importLayer(name, [Entry(name, .file(file))])
        }
        func image(_ name: String) -> SnapshotImage {
            SnapshotImage(reference: "r/\(name):1", manifest: digest("manifest of " + name))
        }
        func commit(_ layer: String, _ parent: String?, _ name: String) throws {
            let found = try store.commitLayer(
                digest(layer), as: SnapshotKey(layer), parent: parent.map { SnapshotKey($0) },
                labels: [snapshotChainLabel: layer], image: image(name))
            #expect(found != nil)
        }
        // The lowest layer was requested with the one image, and the other one has it too.
        try commit("base", nil, "a")
        try commit("a", "base", "a")
        try commit("b", "base", "b")
        func opened(_ name: String) throws -> [String] {
            try store.index.opened(of: image(name)).map { String(decoding: $0, as: UTF8.self) }
        }
        func open(_ path: String) throws {
            store.uses.note(try inode(path), ContentID(1))
            try store.recordUses()
        }
        _ = try store.createSnapshot(SnapshotKey("c"), parent: SnapshotKey("b"), kind: .active, labels: [:]) { _, _ in }
        try open("/etc/base")
        try open("/b")
        #expect(try opened("b") == ["etc/base", "b"] && opened("a") == [])
        // No container is of it any more: the image that has the layer on top.
        try open("/a")
        #expect(try opened("a") == ["a"] && opened("b") == ["etc/base", "b"])
        // Its next version.
        let next = SnapshotImage(reference: "r/b:2", manifest: digest("another"))
        #expect(try store.index.opened(of: next).count == 2)
        let waiting = try store.index.unmergedSnapshotLayers()
        #expect(waiting.map(\.image) == [image("a"), image("a"), image("b")])
        #expect(waiting.last?.labels == [snapshotChainLabel: "b"])
    }

    @Test("a walk through a whole image is recorded in no time, and only its beginning")
    func walk() throws {
        let store = try scratch.open()
        let count = 12_000
        let files = (0..<count).map { Entry("file-\($0)", .file(FileBytes([]))) }
        let layer = try store.importLayer("walked", files)
        _ = try store.addImage(
            reference: "r/walked:1", manifest: digest("walked"), platform: "p", config: [], layers: [layer],
            views: try store.views(of: [layer]))
        let first = try inode("/file-0")
        for number in 0..<count { store.uses.note(first + Int64(number), ContentID(1)) }
        var before = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before)
        try store.recordUses()
        var after = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after)
        let image = try #require(try store.index.images(named: "r/walked:1").first)
        let opened = try store.index.opened(of: image)
        #expect(opened.count == 4096 && opened.first == Array("file-0".utf8) && Set(opened).count == 4096)
        // A look through the list for each path would be 40 million rows: over 4 s.
        #expect(after.tv_sec - before.tv_sec < 2)
    }

    @Test("a repository keeps the lists of its last four images")
    func lists() throws {
        let store = try ExampleStore.make(in: scratch)
        let app = try #require(try store.index.images(named: "localhost:5000/app:1").first)
        try store.removeMount(target: "/mnt/app")
        for (number, path) in ["/etc", "/usr", "/usr/bin", "/usr/lib", "/srv/data", "/usr/bin/tool"].enumerated() {
            for image in try store.index.images() { try store.removeImage(image.reference) { _ in false } }
            _ = try store.addImage(
                reference: "r/a:\(number)", manifest: digest("\(number)"), platform: "p", config: [],
                layers: app.layers, views: try store.views(of: app.layers))
            store.uses.note(try inode(path), ContentID(1))
            try store.recordUses()
        }
        #expect(try scratch.integers("SELECT count(*) FROM opened_image") == [4])
        #expect(try scratch.integers("SELECT count(*) FROM opened") == [4])
    }
}
