import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

extension SessionTests {
    /// The process before: answers INIT by hand, then takes requests and answers none, until it is killed. Reports what it
    /// took.
    private static let predecessor = """
        import os, struct, sys
        device, told = int(sys.argv[1]), sys.argv[2]
        request = os.read(device, 1 << 21)
        length, opcode, unique = struct.unpack_from("<IIQ", request)
        major, minor, readahead, flags, flags2 = struct.unpack_from("<IIIII", request, 40)
        flags &= 1 << 0 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 30   # async reads, readdirplus, parallel, more flags
        flags2 &= 1 << 5 | 1 << 7                                 # passthrough, resend
        reply = struct.pack("<IIIIHHIIHHII24x", 7, 38, readahead, flags, 16, 12, 1 << 20, 1, 256, 0, flags2, 1)
        os.write(device, struct.pack("<IiQ", 16 + len(reply), 0, unique) + reply)
        with open(told + ".new", "wb") as file: file.write(request)
        os.rename(told + ".new", told)
        with open(told + ".requests", "ab", buffering=0) as file:
            while True:
                request = os.read(device, 1 << 21)
                file.write(struct.pack("<I", struct.unpack_from("<II", request)[1]))
        """

    /// A mount whose process was killed with unanswered requests.
    private struct Abandoned {
        var device: File
        var initRequest: [UInt8]
        var readers: [Child]
    }

    /// Mounts at `root`, starts processes that read `paths`, and kills the serving process once it has taken their requests.
    private static func abandon(_ root: String, _ scratch: String, readers paths: [[String]]) throws -> Abandoned {
        let device = try File("/dev/fuse", O_RDWR)
        try Mount.mount(
            type: "fuse.lamina", source: "lamina", at: root, flags: [.readOnly],
            data: FUSESession.mountOptions(for: device, FUSEConfiguration()))
        let told = scratch + "/told"
        _ = fcntl(device.descriptor, F_SETFD, 0)
        let server = try Child(["python3", "-c", predecessor, "\(device.descriptor)", told])
        _ = fcntl(device.descriptor, F_SETFD, FD_CLOEXEC)
        try #require(eventually { access(told, R_OK) == 0 })
        let readers = try paths.map { try Child($0) }
        let taken = eventually {
            ((try? readFile(told + ".requests").count) ?? 0) / 4 >= paths.count
        }
        try #require(taken, "the requests did not come")
        kill(server.pid, SIGKILL)
        #expect(server.wait(seconds: 30) == 128 + SIGKILL)
        return Abandoned(device: device, initRequest: try readFile(told), readers: readers)
    }

    private static func eventually(_ condition: () -> Bool) -> Bool {
        let end = now() + 10
        while !condition() {
            if now() > end { return false }
            usleep(2000)
        }
        return true
    }

    private static func withDirectories(_ body: (_ root: String, _ scratch: String) throws -> Void) throws {
        let base = try temporaryDirectory()
        defer { try? remove(base) }
        let (root, scratch) = (base + "/mount", base + "/scratch")
        try createDirectories(root)
        try createDirectories(scratch)
        defer { try? Mount.unmount(root, detach: true, force: true) }
        try body(root, scratch)
    }

    @Test(
        "a session goes on where a killed process stopped: what that one had taken is answered, and no caller notices")
    func resume() throws {
        try Self.withDirectories { root, scratch in
            let bytes = pattern(300_000)
            try bytes.withUnsafeBytes { try File(scratch + "/want", O_RDWR | O_CREAT).write($0, at: 0) }
            let abandoned = try Self.abandon(
                root, scratch,
                readers: [
                    ["cmp", root + "/file", scratch + "/want"], ["test", "-d", root + "/directory"],
                    ["cmp", root + "/through", scratch + "/want"],
                ])
            var tree = Tree()
            tree.add("file", .bytes(bytes))
            tree.add("directory", mode: 0o755, .directory)
            tree.add("through", .passthrough(try File(scratch + "/want", O_RDONLY)))
            let filesystem = MemoryFilesystem(tree)
            let session = try FUSESession(device: abandoned.device, handler: filesystem)
            filesystem.attach(session)
            defer { filesystem.attach(nil) }
            #expect(FUSESession.isConnected(abandoned.device))
            try session.resume(mountedAt: root, initRequest: abandoned.initRequest)
            try #require(session.canResend, "this kernel does not send requests again")
            for reader in abandoned.readers { #expect(reader.wait(seconds: 10) == 0) }
            #expect(session.initRequest == abandoned.initRequest)
            #expect(session.requestCount(.initialize) == 0, "the kernel sends INIT once")
            try session.stop()
            #expect(!FUSESession.isConnected(abandoned.device))
        }
    }

    @Test("what is no INIT request is refused, and the connection stays as it is for who knows better")
    func badInit() throws {
        try Self.withDirectories { root, scratch in
            let abandoned = try Self.abandon(root, scratch, readers: [["cat", root + "/file"]])
            var other = abandoned.initRequest
            other[4] = 1
            let bad = [
                [], [1, 2, 3], Array(abandoned.initRequest.dropLast()), other, [UInt8](repeating: 0, count: 5000),
            ]
            for bytes in bad {
                let session = try FUSESession(device: abandoned.device, handler: MemoryFilesystem(Tree()))
                let error = #expect(throws: FUSEError.self) {
                    try session.resume(mountedAt: root, initRequest: bytes)
                }
                #expect(error?.code == .handshakeFailed)
            }
            #expect(FUSESession.isConnected(abandoned.device))
            var tree = Tree()
            tree.add("file", .bytes([1]))
            let session = try FUSESession(device: abandoned.device, handler: MemoryFilesystem(tree))
            try session.resume(mountedAt: root, initRequest: abandoned.initRequest)
            for reader in abandoned.readers { #expect(reader.wait(seconds: 10) == 0) }
            try session.stop()
        }
    }

    @Test("a backing ID of a killed process is good for the next one, and unregisters once")
    func adoptedBacking() throws {
        try Fixture.with { tree, scratch in
            tree.add("file", .passthrough(try makeFile(scratch + "/content", pattern(10_000))))
        } _: { fixture in
            let content = try File(fixture.scratch + "/content", O_RDONLY)
            let first = try fixture.session.registerBacking(content.descriptor)
            let second = try fixture.session.registerBacking(content.descriptor)
            #expect(second.value > first.value, "the kernel numbers them in ascending order")
            let adopted = fixture.session.adoptBacking(first.value)
            #expect(adopted.unregister())
            #expect(!adopted.unregister())
            #expect(!first.unregister(), "the kernel does not have it any more")
            let third = try fixture.session.registerBacking(content.descriptor)
            #expect(third.value > second.value, "a number is not used again")
        }
    }
}
