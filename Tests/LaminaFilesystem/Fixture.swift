import Glibc
import LaminaFUSE
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaFilesystem
@testable import LaminaMerge

/// All tests with mounts, one after another: they count opens and requests.
@Suite("the file system", .serialized, .enabled(if: Requirements.missing == nil, "\(Requirements.missing ?? "")"))
struct FilesystemTests {}

/// What real mounts need. A test that cannot run says which thing is missing.
enum Requirements {
    static let missing: String? = {
        if access("/dev/fuse", R_OK | W_OK) != 0 { return "/dev/fuse cannot be opened" }
        if geteuid() != 0 { return "mount(2) needs root" }
        return nil
    }()
}

/// A store with images of forged layers, its engine, and its file system, mounted; removed when the body returns.
final class Fixture {
    let directory: String
    let store: Store
    let engine: MergeEngine
    let filesystem: LayerFilesystem
    /// Where the layers' bytes come from.
    let source: ControlledSource
    /// By tag.
    private(set) var images: [String: ImageRecord] = [:]
    /// What an operator would have been told.
    let messages = Problems()

    /// - Parameter images: tags, each with its layers, bottom first.
    static func with(
        _ images: KeyValuePairs<String, [ForgedLayer]>, _ configure: (inout FilesystemOptions) -> Void = { _ in },
        _ body: (Fixture) throws -> Void
    ) throws {
        let directory = try temporaryDirectory("filesystem")
        defer { removeTree(directory) }
        var options = FilesystemOptions()
        configure(&options)
        let fixture = try Fixture(directory, images, options)
        do {
            try body(fixture)
        } catch {
            try? fixture.end()
            throw error
        }
        try fixture.end()
        #expect(try Mount.all().allSatisfy { !$0.directory.hasPrefix(directory) }, "a mount was left behind")
    }

    private init(
        _ directory: String, _ images: KeyValuePairs<String, [ForgedLayer]>, _ options: FilesystemOptions
    ) throws {
        self.directory = directory
        let layout = directory + "/layout"
        for (tag, layers) in images { try writeImage(layers.map { ImageLayer($0) }, tag: tag, layout: layout) }
        store = try Self.openStore(directory + "/store")
        engine = try MergeEngine(store: store, options: .init())
        engine.setErrorReporter { [messages] error in messages.add("\(error)") }
        for (tag, _) in images {
            self.images[tag] = try ImagePull(engine, shouldStop: { false }, report: { _ in }).index(
                try ImageReference(parsing: "oci:\(layout):\(tag)"), platform: nil, plainHTTP: true)
        }
        source = ControlledSource(OCILayoutSource(directory: layout))
        engine.sources.add(source)
        filesystem = try LayerFilesystem(store: store, engine: engine, options: options) { [messages] message in
            messages.add(message)
        }
        try filesystem.start()
    }

    /// A process that another test starts may hold the store's lock between its fork and its exec.
    private static func openStore(_ root: String) throws -> Store {
        for _ in 0..<100 {
            if let store = try? Store(root: root) { return store }
            usleep(20_000)
        }
        return try Store(root: root)
    }

    private func end() throws {
        let target = directory + "/target"
        if try Mount.all().contains(where: { $0.directory == target }) { try Mount.unmount(target, detach: true) }
        engine.stop()
        try filesystem.stop()
        #expect(!filesystem.isRunning)
    }

    /// The path of a file in a layer of an image.
    func path(_ name: String = "", _ tag: String = "a", layer: Int = 0) throws -> String {
        let image = try #require(images[tag])
        return "\(filesystem.directory)/\(image.views[layer])" + (name.isEmpty ? "" : "/" + name)
    }

    /// Merges an image to its end.
    func merge(_ tag: String = "a") throws {
        try ImagePull(engine, shouldStop: { false }, report: { _ in }).merge(try #require(images[tag]))
    }

    /// Mounts an image by overlayfs.
    func mountImage(_ tag: String = "a", upper: String? = nil) throws -> String {
        let target = directory + "/target"
        try createDirectories(target)
        try ImageMount.mount(try #require(images[tag]).views, root: store.root, at: target, upper: upper)
        return target
    }

    func content(_ size: Int) throws -> ContentRecord {
        var row: Int64 = 1
        while let content = try store.index.content(ContentID(row)) {
            if content.size == Int64(size) { return content }
            row += 1
        }
        throw SystemError(code: ENOENT, operation: "find", subject: "a content of \(size) bytes")
    }

    /// Takes a page out of a backing file, as a crash or a careless tool may.
    func punchHole(_ content: ContentRecord, at offset: Int) throws {
        var lease = store.files.lease(writing: content.name)
        defer { lease.recorded() }
        let file = try lease.create(content.name, size: content.size)
        let rest = try file.read(Int(content.size), at: Int64(offset) + 4096)
        try file.truncate(to: Int64(offset))
        try file.truncate(to: content.size)
        try rest.withUnsafeBytes { try file.write($0, at: Int64(offset) + 4096) }
    }

    var statistics: FilesystemCounters { filesystem.statistics }
}

/// A layer that `fill` fills.
func forge(_ fill: (inout ForgedLayer) -> Void) -> ForgedLayer {
    var layer = ForgedLayer()
    fill(&layer)
    layer.finish()
    return layer
}

/// The bytes of a file.
func bytes(_ path: String) throws -> [UInt8] {
    let file = try File(path, O_RDONLY)
    return try file.read(Int(file.size()), at: 0)
}

/// Drops what the kernel has cached of an open file.
func dropCache(_ file: File) { posix_fadvise(file.descriptor, 0, 0, POSIX_FADV_DONTNEED) }

/// errno of an open; 0 when it succeeds.
func openError(_ path: String) -> Int32 {
    do {
        _ = try File(path, O_RDONLY)
        return 0
    } catch {
        return error.code
    }
}

/// Sentences from any thread.
final class Problems: Sendable {
    private let list = Mutex<[String]>([])
    func add(_ problem: String) { list.withLock { $0.append(problem) } }
    var all: [String] { list.withLock { $0 } }
    func contain(_ text: String) -> Bool { all.contains { $0.contains(text) } }
}

/// Starts a thread; an error of it is reported as a problem.
func thread(_ problems: Problems, _ body: @escaping @Sendable () throws -> Void) throws -> Thread {
    try Thread("test") {
        do { try body() } catch { problems.add("\(error)") }
    }
}

/// A process that reads a file, to be killed.
struct Reader {
    let pid: pid_t

    init(_ path: String) throws {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for descriptor in [0, 1, 2] as [Int32] {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
        }
        var arguments = [strdup("cat"), strdup(path), nil]
        defer { for argument in arguments { free(argument) } }
        var child: pid_t = 0
        let error = posix_spawnp(&child, "cat", &actions, nil, &arguments, environ)
        guard error == 0 else { throw SystemError(code: error, operation: "start", subject: "cat") }
        pid = child
    }

    /// Kills it; returns whether it ended within `seconds`.
    func kill(seconds: Double) -> Bool {
        Glibc.kill(pid, SIGKILL)
        return eventually(seconds: seconds) { waitpid(pid, nil, WNOHANG) == pid }
    }
}
