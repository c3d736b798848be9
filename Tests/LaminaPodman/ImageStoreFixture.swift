import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport

@testable import LaminaPodman
@testable import LaminaStore

/// A store, an image store made of it, and a graph root of podman's, whose records are written by hand.
final class ImageStoreFixture: Sendable {
    private let scratch = Scratch(in: access("/dev/shm", W_OK) == 0 ? "/dev/shm" : nil)
    let store: Store

    var path: String { scratch.path }
    var directory: String { path + "/images" }
    var graphRoot: String { path + "/graph" }
    var proc: String { path + "/proc" }
    var storageFile: String { path + "/storage.conf" }

    init() throws {
        store = try Self.open(scratch.path + "/store")
        try configure()
        try createDirectories(proc)
    }

    /// A process, as the kernel would show it.
    func process(_ number: Int, namespace: Int, mountinfo: String, root: String = "/") throws {
        let place = "\(proc)/\(number)"
        try createDirectories(place + "/ns")
        _ = symlink("mnt:[\(namespace)]", place + "/ns/mnt")
        _ = symlink(root, place + "/root")
        try replaceFile(place + "/cmdline", with: Array("process \(number)".utf8), mode: 0o600)
        try replaceFile(place + "/mountinfo", with: Array(mountinfo.utf8), mode: 0o600)
    }

    /// Writes podman's own configuration.
    func configure(_ more: String = "", graphRoot: String? = nil) throws {
        let text = """
            [storage]
            driver = "overlay"
            graphroot = "\(graphRoot ?? self.graphRoot)"
            runroot = "\(path)/run"
            \(more)

            """
        try replaceFile(storageFile, with: Array(text.utf8), mode: 0o600)
    }

    /// A process that another test starts holds every lock of this one between its fork and its exec.
    private static func open(_ root: String) throws -> Store {
        try retried(while: { if case .locked = ($0 as? StoreError)?.code { true } else { false } }) {
            try Store(root: root)
        }
    }

    func imageStore() throws -> PodmanImageStore {
        var options = PodmanImageStore.Options()
        options.storageFiles = [storageFile]
        options.proc = proc
        return try PodmanImageStore(store: store, directory: directory, options: options) { _ in }
    }

    /// A layer with nothing but its root, whose diff ID is proven.
    func layer(_ name: String) throws -> LayerID {
        var record = LayerRecord(
            digest: .of("\(name) blob"), diffID: .of(name), tocDigest: .of("\(name) toc"), format: 1, size: 100,
            prioritizedEnd: nil, location: "r.example/layers")
        record.diffIDState = .proven
        return try store.importLayer(record, inodeCount: 1) { importer in
            let root = Inode(
                id: 0, mode: S_IFDIR | 0o755, uid: 0, gid: 0, size: 0, mtime: 0, mtimeNanoseconds: 0, device: 0,
                nlink: 2, content: nil)
            _ = try importer.addInode(root, in: nil, target: nil)
        }
    }

    /// Pulls an image of these layers, as far as the index is concerned.
    ///
    /// - Returns: the image's id for podman.
    @discardableResult
    func image(_ reference: String, _ names: String...) throws -> Digest {
        let layers = try names.map { try layer($0) }
        let diffIDs = names.map { "\"\(Digest.of($0))\"" }.joined(separator: ",")
        let config = Array(
            (#"{"architecture":"\#(Platform.host.architecture)","os":"linux","rootfs":{"type":"layers","diff_ids":"#
                + "[\(diffIDs)]}}").utf8)
        _ = try store.addImage(
            reference: reference, manifest: .of(reference), manifestBytes: Array("{}".utf8),
            platform: "\(Platform.host)", config: config, layers: layers, views: try store.views(of: layers))
        return config.withUnsafeBytes { SHA256.hash($0) }
    }

    /// Writes one of podman's files below the graph root, or another directory.
    func put(_ name: String, _ text: String, in directory: String? = nil) throws {
        let path = "\(directory ?? graphRoot)/\(name)"
        try createDirectories(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
        try replaceFile(path, with: Array(text.utf8), mode: 0o600)
    }

    /// podman's record of a container of an image.
    func container(_ name: String, of image: Digest, above layer: Digest) throws {
        try put("overlay-layers/layers.json", #"[{"id":"\#(Digest.of(name).hex)","parent":"\#(layer.hex)"}]"#)
        try put(
            "overlay-containers/containers.json",
            #"[{"id":"\#(Digest.of(name).hex)","names":["\#(name)"],"image":"\#(image.hex)","#
                + #""layer":"\#(Digest.of(name).hex)"}]"#)
    }
}
