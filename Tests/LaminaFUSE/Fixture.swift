import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

/// A mounted `MemoryFilesystem` in its own directory, removed when the body returns.
struct Fixture {
    let filesystem: MemoryFilesystem
    let session: FUSESession
    /// Where it is mounted.
    let root: String
    /// An ordinary directory for the test's files.
    let scratch: String

    static func with(
        _ configure: (inout FUSEConfiguration) -> Void = { _ in },
        tree build: (inout Tree, _ scratch: String) throws -> Void, _ body: (Fixture) throws -> Void
    ) throws {
        let base = try temporaryDirectory()
        defer { try? remove(base) }
        let root = base + "/mount point"
        let scratch = base + "/scratch"
        try createDirectories(root)
        try createDirectories(scratch)
        var tree = Tree()
        try build(&tree, scratch)
        let filesystem = MemoryFilesystem(tree)
        var configuration = FUSEConfiguration()
        configure(&configuration)
        let session = try FUSESession(configuration: configuration, handler: filesystem)
        filesystem.attach(session)
        defer { filesystem.attach(nil) }
        try session.start(at: root)
        do {
            try body(Fixture(filesystem: filesystem, session: session, root: root, scratch: scratch))
        } catch {
            try? session.stop()
            throw error
        }
        try session.stop()
        #expect(try !Mount.all().contains { $0.directory == root }, "a mount was left behind")
        #expect(!session.isRunning)
    }

    func path(_ name: String) -> String { "\(root)/\(name)" }
}

func temporaryDirectory() throws -> String {
    var template = Array("/tmp/lamina-fuse-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemError.last("make directory", "/tmp") }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// Removes a tree of ordinary files.
func remove(_ path: String) throws {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    if status.st_mode & S_IFMT == S_IFDIR {
        for entry in try list(path).map({ String(decoding: $0.name, as: UTF8.self) })
        where entry != "." && entry != ".." {
            try remove("\(path)/\(entry)")
        }
    }
    guard Glibc.remove(path) == 0 else { throw SystemError.last("remove", path) }
}

/// Bytes that all differ from their neighbours.
func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    return (0..<count).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return UInt8(truncatingIfNeeded: state >> 32)
    }
}

/// Writes a file and opens it for reading.
func makeFile(_ path: String, _ bytes: [UInt8], mode: mode_t = 0o644) throws -> File {
    let file = try File(path, O_RDWR | O_CREAT | O_TRUNC, mode: mode)
    try bytes.withUnsafeBytes { try file.write($0, at: 0) }
    return try File(path, O_RDONLY)
}

/// A separate process that reads, so that one that hangs does not hang the test.
struct Child {
    let pid: pid_t

    init(_ arguments: [String]) throws {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for descriptor in [0, 1, 2] as [Int32] {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
        }
        // Children would inherit the threads' masks (Swift's block all signals), and an ignored SIGINT if the tests run in the
        // background.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGINT)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))
        var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for argument in argv { free(argument) } }
        var pid: pid_t = 0
        let error = posix_spawnp(&pid, arguments[0], &actions, &attributes, &argv, environ)
        guard error == 0 else { throw SystemError(code: error, operation: "spawn", subject: arguments[0]) }
        self.pid = pid
    }

    /// How it ended: the exit code, or 128 and the signal; nil after `seconds`, and then the process is killed.
    func wait(seconds: Double) -> Int32? {
        let end = now() + seconds
        var status: Int32 = 0
        while now() < end {
            if waitpid(pid, &status, WNOHANG) == pid {
                return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
            }
            usleep(2000)
        }
        kill(pid, SIGKILL)
        return nil
    }
}

/// Seconds on the monotonic clock.
func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
