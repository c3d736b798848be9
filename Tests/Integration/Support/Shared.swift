import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport

/// What all tests share, made when it is first needed: a registry, and images too large to make twice.
enum Shared {
    static let registry = Result { try RegistryFixture() }

    /// Where the images' trees are. Removed with this process, however it ends: a shell waits for the end of its input.
    static let directory = Result<String, any Error> {
        var template = Array("\(Requirements.directory)/lamina-images-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw SystemError.last("make a directory in", Requirements.directory) }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        try Janitor.start(removing: path)
        return path
    }

    /// About 390 MB compressed: eight files of 64 MiB and 4,000 small ones.
    static let medium = Result {
        try GeneratedImage("medium", large: (0..<8).map { ("part\($0)", 64) }, smallFileCount: 4000)
    }

    /// One file of 1 GiB, about 730 MB compressed.
    static let large = Result { try GeneratedImage("large", large: [("large", 1024)], smallFileCount: 0) }

    /// A file of 2 GiB and 20,000 small ones.
    static let huge = Result { try GeneratedImage("huge", large: [("huge", 2048)], smallFileCount: 20_000) }

    /// A dozen small files, one of 3 MiB and one of 24 MiB in chunks of 4 MiB.
    static let small = Result {
        try GeneratedImage("small", large: [("middle", 3), ("larger", 24)], smallFileCount: 12)
    }
}

/// An image of made-up files in the shared registry, the same each time.
struct GeneratedImage {
    /// The repository.
    let name: String
    /// The directory that it was made of.
    let tree: String
    let layer: Digest
    /// Compressed bytes.
    let layerSize: Int64
    /// Bytes of all files.
    let byteCount: Int64

    init(_ name: String, large: [(name: String, mebibytes: Int)], smallFileCount: Int) throws {
        self.name = name
        let directory = try Shared.directory.get()
        tree = "\(directory)/\(name)"
        let sizes = large.map { "\($0.name):\($0.mebibytes)" }.joined(separator: ",")
        let started = now()
        try run(["python3", "-c", Scripts.generate, tree, name, sizes, "\(smallFileCount)"]).orThrow()
        // Level 1: the tests check what comes out, not how small it is.
        let layout = "\(directory)/\(name).oci"
        let converted = try run(
            [Requirements.lamina, "convert", "--json", "--level", "1", "dir:\(tree)", "oci:\(layout):latest"],
            seconds: 240
        ).orThrow()
        let report: ConvertReport = try decoded(converted.output)
        guard report.layers.count == 1, let only = report.layers.first, let digest = Digest(parsing: only.digest) else {
            throw Outcome.Failed(description: "convert made no image of one layer\n\(converted)")
        }
        layer = digest
        layerSize = only.compressedBytes
        byteCount = try TreeOracle.fileBytes(of: tree)
        try Shared.registry.get().push(layout: layout, sourceTag: "latest", name: name, tag: "latest")
        removeTree(layout)
        print("made the image \(name), \(layerSize >> 20) MiB compressed, in \(Int(now() - started)) s")
    }

    /// The image's name at a proxy of the registry.
    func reference(_ proxy: CountingProxy) -> String { "\(proxy.host)/\(name):latest" }
}

/// Removes a directory when this process has ended.
private enum Janitor {
    static func start(removing path: String) throws {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw SystemError.last("make", "a pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
        // A test runner waits until no process holds its output any more.
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        closeOthers(&actions)
        // Ctrl-C at the tests must not reach it.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP))
        let arguments = ["/bin/sh", "-c", "read -r line; rm -rf \"$1\"", "sh", path]
        var words = arguments.map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var child = pid_t()
        let error = posix_spawn(&child, "/bin/sh", &actions, &attributes, &words, environ)
        close(ends[0])
        // The writing end stays open as long as this process lives.
        guard error == 0 else { throw SystemError(code: error, operation: "start", subject: "/bin/sh") }
    }
}
