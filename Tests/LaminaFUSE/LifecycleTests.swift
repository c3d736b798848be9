import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

extension SessionTests {
    @Test("stop ends a mount with open files and parked requests; passthrough files stay readable")
    func stopWhileBusy() throws {
        let bytes = pattern(300_000)
        try Fixture.with { tree, scratch in
            tree.add("cached", .bytes(bytes))
            tree.add("passthrough", .passthrough(try makeFile(scratch + "/content", bytes)))
            tree.add("parked", .parkedOpen)
        } _: { fixture in
            let cached = try File(fixture.path("cached"), O_RDONLY)
            let passthrough = try File(fixture.path("passthrough"), O_RDONLY)
            let child = try Child(["cat", fixture.path("parked")])
            let parked: ParkedReply<OpenReply>? = fixture.filesystem.events.wait(seconds: 30) { $0.opens.first }
            let start = now()
            try fixture.session.stop()
            // At once, and not only when it was answered.
            #expect(now() - start < 20)
            #expect(try !Mount.all().contains { $0.directory == fixture.root })
            let ended = child.wait(seconds: 30)
            #expect(ended != nil && ended != 0)
            #expect(throws: SystemError.self) { try cached.read(1, at: 0) }
            #expect(try passthrough.read(400_000, at: 0) == bytes)
            if let reply = parked?.take() {
                let accepted = reply.cached(handle: 1)
                #expect(!accepted, "nobody waits for it any more")
            }
            #expect(throws: FUSEError.self) { try fixture.session.start(at: fixture.root) }
        }
    }

    @Test("stop in the middle of requests is a stop, and no connection that broke")
    func stopAmongRequests() throws {
        for _ in 0..<40 {
            let isOver = Monitor(false)
            var threads: [Thread] = []
            defer {
                isOver.withLock { $0 = true }
                for thread in threads { thread.join() }
            }
            try Fixture.with(tree: { _, _ in }) { fixture in
                for number in 0..<6 {
                    // Names that the kernel has not asked for yet.
                    let path = fixture.path("\(number)-")
                    threads.append(
                        try Thread("asks") {
                            var count = 0
                            while !isOver.withLock({ $0 }) {
                                access(path + "\(count)", F_OK)
                                count += 1
                            }
                        })
                }
                usleep(5000)
            }
        }
    }

    @Test("an unmount from outside ends the session, and stop leaves what is mounted there since alone")
    func unmountedFromOutside() throws {
        try Fixture.with { tree, _ in
            tree.add("file", .bytes([1]))
        } _: { fixture in
            #expect(access(fixture.path("file"), R_OK) == 0)
            #expect(try Child(["umount", fixture.root]).wait(seconds: 30) == 0)
            try fixture.session.wait()
            #expect(!fixture.session.isRunning)
            try Mount.mount(type: "tmpfs", source: "other", at: fixture.root)
            try fixture.session.stop()
            #expect(try Mount.all().contains { $0.directory == fixture.root })
            try Mount.unmount(fixture.root)
        }
    }

    @Test("stop ends the connection of a mount that is bound elsewhere too")
    func boundElsewhere() throws {
        try Fixture.with { tree, _ in
            tree.add("file", .bytes([1]))
        } _: { fixture in
            let other = fixture.scratch + "/other"
            try createDirectories(other)
            try Mount.mount(type: "none", source: fixture.root, at: other, flags: .bind)
            defer { try? Mount.unmount(other, detach: true) }
            try fixture.session.stop()
            #expect(access(other + "/file", R_OK) == -1)
        }
    }

    @Test("a device that was opened and mounted by someone else is served")
    func adoptedDevice() throws {
        let base = try temporaryDirectory()
        defer { try? remove(base) }
        var tree = Tree()
        tree.add("file", .bytes([42]))
        let configuration = FUSEConfiguration()
        let device = try File("/dev/fuse", O_RDWR)
        try Mount.mount(
            type: "fuse.lamina", source: "lamina", at: base, flags: [.readOnly],
            data: FUSESession.mountOptions(for: device, configuration))
        let session = try FUSESession(device: device, configuration: configuration, handler: MemoryFilesystem(tree))
        try session.start(mountedAt: base)
        #expect(try File(base + "/file", O_RDONLY).read(10, at: 0) == [42])
        try session.stop()
        #expect(try !Mount.all().contains { $0.directory == base })
    }

    @Test("a directory that cannot be mounted at is an error that names it, and leaves nothing behind")
    func badDirectory() throws {
        let session = try FUSESession(handler: MemoryFilesystem(Tree()))
        let error = #expect(throws: FUSEError.self) { try session.start(at: "/tmp/lamina-no-such-directory/x") }
        #expect(error?.code == .mountFailed)
        #expect(error?.description.contains("/tmp/lamina-no-such-directory") == true)
        try session.stop()
    }

    @Test(
        "threads that are stuck in requests, and did not say that they might be, keep nobody waiting as long as one is left"
    )
    func stuck() throws {
        try Fixture.with {
            $0.threadCount = 4
        } tree: { tree, _ in
            for number in 0..<3 { tree.add("stuck\(number)", .stuckLookup) }
            let directory = tree.add("many", mode: 0o755, .directory)
            for index in 0..<2000 { tree.add("f\(index)", in: directory, .bytes([1])) }
        } _: { fixture in
            let events = fixture.filesystem.events
            var status = stat()
            var children: [Child] = []
            for number in 0..<3 {
                children.append(try Child(["stat", fixture.path("stuck\(number)")]))
                let isStuck: Void? = events.wait(seconds: 30) { $0.stuck == number + 1 ? () : nil }
                #expect(isStuck != nil)
                var times: [Double] = []
                for index in 0..<500 {
                    let start = now()
                    #expect(lstat(fixture.path("many/f\(number * 500 + index)"), &status) == 0)
                    times.append(now() - start)
                    if index % 50 == 0 { usleep(3000) }
                }
                times.sort()
                print(
                    "with \(number + 1) of 4 threads stuck: p99 \(times[494] * 1000) ms, at most \(times[499] * 1000) ms"
                )
                #expect(times[494] < 0.005)
            }
            events.withLock(notify: true) { $0.goesOn = true }
            for child in children { #expect(child.wait(seconds: 30) == 0) }
        }
    }

    @Test("requests are spread over as many threads as were asked for")
    func threads() throws {
        try Fixture.with {
            $0.threadCount = 3
        } tree: { tree, _ in
            tree.add("parked", .parkedOpen)
        } _: { fixture in
            let events = fixture.filesystem.events
            // Parked requests hold no thread: many more than there are threads wait at once.
            let children = try (0..<12).map { _ in try Child(["cat", fixture.path("parked")]) }
            let waiting: Int? = events.wait(seconds: 30) { $0.opens.count == 12 ? 12 : nil }
            #expect(waiting == 12)
            let (threads, uniques) = events.withLock { ($0.threads, $0.uniques) }
            #expect(threads.isSubset(of: [0, 1, 2]))
            #expect(Set(uniques).count == 12)
            for parked in events.withLock({ $0.opens }) {
                if let reply = parked.take() { reply.error(EACCES) }
            }
            for child in children { #expect(child.wait(seconds: 30) == 1) }
        }
    }
}
