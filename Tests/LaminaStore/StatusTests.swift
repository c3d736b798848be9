import LaminaDigest
import LaminaTestSupport
import Testing

// The rows' memberwise initializers.
@testable import LaminaStore

@Suite("What the store says of itself")
struct StatusTests {
    let scratch = Scratch.inMemory()

    @Test("images")
    func images() throws {
        let store = try ExampleStore.make(in: scratch)
        let images = try store.index.imageStatus()
        #expect(
            images == [
                ImageStatus(
                    reference: "docker.io/library/debian:12",
                    manifestDigest: digest("docker.io/library/debian:12").description, platform: "linux/amd64",
                    layers: 1,
                    compressedBytes: 1 << 20, contents: 2, mergedContents: 1, bytes: 15_010, landedBytes: 6010,
                    state: "partial", mounts: 0, pulledAt: "2025-11-22T08:26:41Z", pinned: false),
                ImageStatus(
                    reference: "localhost:5000/app:1", manifestDigest: digest("localhost:5000/app:1").description,
                    platform: "linux/amd64", layers: 2, compressedBytes: 2 << 20, contents: 3, mergedContents: 1,
                    bytes: 20_010, landedBytes: 6010, state: "partial", mounts: 1, pulledAt: "2025-11-22T08:26:41Z",
                    pinned: false),
            ])
    }

    @Test("layers")
    func layers() throws {
        let layers = try ExampleStore.make(in: scratch).index.layerStatus()
        let base = try #require(layers.first { $0.digest == digest("base").description })
        #expect(base.contents == 2 && base.mergedContents == 1 && base.bytes == 15_010 && base.landedBytes == 6010)
        #expect(
            base.state == "partial" && base.images == 2 && base.format == "estargz" && base.compressedBytes == 1 << 20)
        let application = try #require(layers.first { $0.digest == digest("application").description })
        #expect(application.contents == 2 && application.bytes == 5010 && application.landedBytes == 10)
        #expect(application.images == 1)
    }

    @Test("a layer goes from absent over partial to complete, and one without files is complete")
    func states() throws {
        let store = try scratch.open()
        let file = FileBytes(chunks: [pattern(10), pattern(10, seed: 1)])
        try store.importLayer("a", [Entry("x", .file(file))])
        #expect(try store.index.layerStatus().map(\.state) == ["absent"])
        let content = try store.index.content(file, in: scratch)
        var landing = Landing()
        landing.chunks = [(content.id, 0)]
        try store.record(landing)
        #expect(try store.index.layerStatus().map(\.state) == ["partial"])
        #expect(try store.index.mergeProgress().map(\.percent) == [50])
        landing.merged = [(content.id, .claimed)]
        try store.record(landing)
        #expect(try store.index.layerStatus().map(\.state) == ["complete"])
        #expect(try store.index.mergeProgress() == [])
        try store.importLayer("b", [Entry("x", .fifo)])
        #expect(try store.index.layerStatus().map(\.state) == ["complete", "complete"])
    }

    @Test("the cache, merges under way and mounts")
    func rest() throws {
        let index = try ExampleStore.make(in: scratch).index
        #expect(
            try index.cacheUsage()
                == CacheUsage(
                    images: 2, layers: 2, contents: 3, mergedContents: 1, logicalBytes: 10 + 15_000 + 10 + 10 + 5000,
                    allocatedBytes: 4096 + 8192, sharedBytes: 20))
        #expect(
            try index.mergeProgress() == [
                MergeProgress(
                    digest: ExampleStore.tool.digest.description, bytes: 15_000, landedBytes: 6000, chunks: 3,
                    landedChunks: 1, percent: 40)
            ])
        #expect(
            try index.mountStatus() == [
                MountStatus(
                    target: "/mnt/app", reference: "localhost:5000/app:1", writable: nil,
                    mountedAt: "2025-11-22T08:26:42Z", platform: "linux/amd64", way: "fuse")
            ])
    }

    @Test("the files of an image, layer by layer")
    func files() throws {
        let index = try ExampleStore.make(in: scratch).index
        let image = try #require(try index.images(named: "localhost:5000/app:1").first)
        let files = try index.files(of: image)
        #expect(files.filter { $0.layer == digest("base").description }.count == ExampleStore.base.count)
        #expect(
            files.map(\.path) == [
                "/", "/etc", "/etc/debian-release", "/etc/os-release", "/usr", "/usr/bin", "/usr/bin/tool", "/usr/lib",
                "/usr/lib/empty", "/usr/lib/os-release", "/", "/etc", "/etc/app-release", "/etc/debian-release", "/srv",
                "/srv/data",
            ])
        #expect(
            files[6]
                == FileStatus(
                    path: "/usr/bin/tool", type: "file", mode: "4755", uid: 0, gid: 0, bytes: 15_000,
                    modifiedAt: "2023-11-14T22:13:20Z", target: nil, digest: ExampleStore.tool.digest.description,
                    state: "partial", layer: digest("base").description))
        #expect(files[2].target == "os-release" && files[2].type == "symlink" && files[2].digest == nil)
        #expect(files[8].digest == nil && files[8].state == nil, "an empty file has no content")
        #expect(files[13].type == "character device")
        #expect(files[15].uid == 33 && files[15].state == "absent")
    }

    @Test("an adopted content takes no more room, and counts as shared")
    func adopted() throws {
        let store = try scratch.open()
        let bytes = pattern(9000)
        let whole = FileBytes(bytes)
        try store.importLayer("a", [Entry("x", .file(whole))])
        try store.importLayer(
            "b", [Entry("x", .file(FileBytes(chunks: [Array(bytes[..<5000]), Array(bytes[5000...])])))])
        let ids = try scratch.integers("SELECT id FROM content ORDER BY id").map(ContentID.init)
        let first = try #require(try store.index.content(ids[0]))
        try scratch.write(bytes, to: first, in: store)
        var landing = Landing()
        landing.merged = [(first.id, .proven)]
        try store.record(landing)
        try store.adopt(first, as: try #require(try store.index.content(ids[1])))
        let usage = try store.index.cacheUsage()
        #expect(usage.allocatedBytes == 12_288)
        #expect(usage.sharedBytes == 9000)
        #expect(usage.logicalBytes == 18_000)
        #expect(usage.mergedContents == 2)
    }

    @Test(
        "an image is replaced by what its reference names later for the same platform, and another platform's stays beside it"
    )
    func replaced() throws {
        let store = try ExampleStore.make(in: scratch)
        let before = try #require(try store.index.images(named: "localhost:5000/app:1").first)
        #expect(before.layers.count == 2 && before.views.count == 2 && before.platform == "linux/amd64")
        let layer = try #require(before.layers.first)
        let id = try store.addImage(
            reference: "localhost:5000/app:1", manifest: digest("new"), platform: "linux/amd64", config: [],
            layers: [layer],
            views: try store.views(of: [layer]))
        #expect(id == before.id)
        let after = try #require(try store.index.image(id))
        #expect(after.layers == [layer])
        #expect(after.manifestDigest == digest("new") && after.platform == "linux/amd64")
        #expect(try store.index.images().map(\.reference) == ["docker.io/library/debian:12", "localhost:5000/app:1"])
        #expect(try store.index.images(named: "none").isEmpty)

        let arm = try store.addImage(
            reference: "localhost:5000/app:1", manifest: digest("arm"), platform: "linux/arm64", config: [],
            layers: [layer], views: try store.views(of: [layer]))
        #expect(arm != id)
        #expect(try store.index.images(named: "localhost:5000/app:1").map(\.id) == [id, arm])
        #expect(try store.index.image(id)?.manifestDigest == digest("new"))
        try store.removeImage("localhost:5000/app:1") { _ in false }
        #expect(try store.index.images(named: "localhost:5000/app:1").isEmpty)
    }

    @Test("an image that takes the place of other platforms' has their mounts and their pin")
    func takesPlace() throws {
        let store = try ExampleStore.make(in: scratch)
        let reference = "localhost:5000/app:1"
        let mounted = try #require(try store.index.images(named: reference).first)
        func add(_ platform: String, replacing outdated: [ImageID]) throws -> ImageID {
            try store.addImage(
                reference: reference, manifest: digest(platform), platform: platform, config: [],
                layers: mounted.layers,
                views: mounted.views, replacing: outdated)
        }
        let pinned = try add("linux/arm64", replacing: [])
        try store.setPinned(true, reference, image: pinned)
        #expect(
            try scratch.integers("SELECT pinned FROM image WHERE reference = '\(reference)' ORDER BY id") == [0, 1])
        // One that was removed meanwhile, and one of another reference, do not matter.
        let stranger = try #require(try store.index.images(named: "docker.io/library/debian:12").first).id
        let new = try add("linux/386", replacing: [mounted.id, pinned, stranger])
        let left = try store.index.images(named: reference)
        #expect(left.map(\.platform) == ["linux/386"] && left.map(\.id) == [new])
        #expect(left.first?.manifestDigest == digest("linux/386") && left.first?.layers == mounted.layers)
        #expect(try store.index.mounts().map(\.image) == [new])
        #expect(try scratch.integer("SELECT pinned FROM image WHERE reference = '\(reference)'") == 1)
        #expect(try store.index.image(stranger) != nil)
        #expect(try store.index.problems().isEmpty)
    }

    @Test("mounts are recorded, replaced and forgotten by their target")
    func mounts() throws {
        let store = try ExampleStore.make(in: scratch)
        let image = try #require(try store.index.images(named: "docker.io/library/debian:12").first)
        try store.addMount(target: "/mnt/other", image: image.id, upper: "/var/upper")
        try store.addMount(target: "/mnt/app", image: image.id, upper: nil)
        let mounts = try store.index.mounts()
        #expect(mounts.map(\.target) == ["/mnt/other", "/mnt/app"])
        #expect(mounts.map(\.upper) == ["/var/upper", nil])
        #expect(mounts.map(\.reference) == [image.reference, image.reference])
        try store.removeMount(target: "/mnt/other")
        try store.removeMount(target: "/never")
        #expect(try store.index.mounts().map(\.target) == ["/mnt/app"])
        let error = #expect(throws: StoreError.self) {
            try store.addMount(target: "/x", image: ImageID(99), upper: nil)
        }
        #expect(error?.code == .notFound)
    }
}
