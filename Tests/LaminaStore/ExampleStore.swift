import LaminaDigest
import LaminaStore
import LaminaTestSupport

/// The small store whose answers schema/README.md shows.
///
/// Two images share a base layer. Of the base, the file of one chunk is merged and one chunk of three of the other has
/// landed; the layer of the application shares a file with the base. containerd has the base as a lazy layer, and the
/// application above it unpacked.
struct ExampleStore {
    static let release = FileBytes(Array("ID=debian\n".utf8))
    static let tool = FileBytes(chunks: [pattern(6000, seed: 1), pattern(6000, seed: 2), pattern(3000, seed: 3)])
    static let data = FileBytes(pattern(5000, seed: 4))

    static let base = [
        Entry("", .directory), Entry("etc", .directory), Entry("etc/os-release", .file(release)),
        Entry("etc/debian-release", .symlink("os-release")), Entry("usr", .directory), Entry("usr/bin", .directory),
        Entry("usr/bin/tool", .file(tool), permissions: 0o4755),
        Entry("usr/lib", .directory), Entry("usr/lib/os-release", .file(release)),
        Entry("usr/lib/empty", .file(FileBytes([]))),
    ]
    static let application = [
        Entry("etc", .implicit), Entry("etc/app-release", .file(release)), Entry("etc/debian-release", .whiteout),
        Entry("srv", .directory, permissions: 0o750, uid: 33, gid: 33),
        Entry("srv/data", .file(data), uid: 33, gid: 33),
    ]

    /// Fills an empty store, and sets the times that would otherwise be the current ones.
    static func make(in scratch: Scratch) throws -> Store {
        let store = try scratch.open()
        let base = try store.importLayer("base", Self.base)
        let application = try store.importLayer("application", Self.application)
        for (reference, layers) in [
            ("docker.io/library/debian:12", [base]), ("localhost:5000/app:1", [base, application]),
        ] {
            let image = try store.addImage(
                reference: reference, manifest: digest(reference), platform: "linux/amd64", config: Array("{}".utf8),
                layers: layers, views: try store.views(of: layers))
            if layers.count == 2 { try store.addMount(target: "/mnt/app", image: image, upper: nil) }
        }
        let release = try store.index.content(Self.release, in: scratch)
        let tool = try store.index.content(Self.tool, in: scratch)
        try scratch.write(Self.release.bytes, to: release, in: store)
        try scratch.write(Self.tool.chunks[0], to: tool, in: store)
        var landing = Landing()
        landing.merged = [(release.id, .proven)]
        landing.chunks = [(tool.id, 0)]
        try store.record(landing)
        let lowest = SnapshotKey("lamina-layer/base")
        _ = try store.commitLayer(digest("base"), as: lowest, parent: nil, labels: [snapshotChainLabel: "sha256:base"])
        _ = try store.createSnapshot(
            SnapshotKey("app/7/extract"), parent: lowest, kind: .active, labels: [:],
            refusal: "the manifest names no table of contents"
        ) { _, _ in }
        try store.commitSnapshot(
            SnapshotKey("app/7/extract"), as: SnapshotKey("app/8/application"), labels: [:],
            usage: SnapshotUsage(bytes: 8192, inodes: 3))
        try scratch.sqlite(
            """
            UPDATE layer SET indexed_at = 1763800000; UPDATE image SET pulled_at = 1763800001;
            UPDATE mount SET mounted_at = 1763800002;
            UPDATE snapshot SET created_at = 1763800003000000000;
            UPDATE content SET opens = 12, used_at = 1763800003000 WHERE id = \(release.id.row)
            """)
        return store
    }
}
