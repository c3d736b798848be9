import FoundationEssentials
import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// User 65534 against a server: what it can see of the store, what it can become by an image, and whom it can keep waiting.
extension EndToEnd {
    @Suite("a user without rights", Requirements.tools("setpriv:util-linux", "flock:util-linux", "prlimit:util-linux"))
    struct Strangers {
        private static let stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        private static let image = "oci:\(Fixtures.layout("estargz"))"

        func asStranger(_ words: [String], groups: String? = nil, seconds: Double = 120) throws -> Outcome {
            let who =
                groups.map { ["setpriv", "--reuid=65534", "--regid=65534", "--groups=\($0)"] } ?? Self.stranger
            return try run(who + words, seconds: seconds)
        }

        /// A sandbox that others can come into, as they can into /var/lib.
        static func with(_ body: (Sandbox) throws -> Void) throws {
            try Sandbox.with { sandbox in
                chmod(sandbox.directory, 0o755)
                try body(sandbox)
            }
        }

        // MARK: The store

        @Test(
            "it can read no file of the store, take no lock in it, connect to no socket in it; and it reads the mounts")
        func store() throws {
            try Self.with { sandbox in
                let supervised = try sandbox.supervise()
                let mount = try sandbox.mount(Self.image)
                chmod(mount, 0o755)
                _ = try run(["grep", "-rc", "", mount])
                // As an earlier lamina left it: the next server takes it away.
                let names = ["index.db", "index.db-wal", "index.db-shm", "lock"] + ["content", "fs", "sealed"]
                for path in [sandbox.root] + names.map({ "\(sandbox.root)/\($0)" }) + sandbox.backingFiles().prefix(20)
                {
                    let outcome = try asStranger(["test", "-r", path])
                    #expect(outcome.exitCode == 1, "\(path)")
                }
                for name in ["index.db-shm", "index.db", "lock"] {
                    let outcome = try asStranger(["flock", "--nonblock", "\(sandbox.root)/\(name)", "true"])
                    #expect(outcome.exitCode != 0 && outcome.errors.contains("Permission denied"), "\(outcome)")
                }
                let control = try asStranger([
                    "curl", "-sS", "--unix-socket", sandbox.root + "/control.sock", "http://lamina/v1/status",
                ])
                #expect(control.exitCode != 0 && control.output.isEmpty, "\(control)")
                let read = try asStranger(["cat", mount + "/etc/hello"])
                #expect(read.exitCode == 0 && !read.output.isEmpty, "\(read)")
                withExtendedLifetime(supervised) {}
            }
        }

        @Test(
            "ls, status and sql say that a right is missing, with exit code 77 and what to do",
            arguments: [true, false])
        func refused(isServed: Bool) throws {
            try Self.with { sandbox in
                if isServed { _ = try sandbox.serve() }
                try sandbox.lamina("pull", Self.image)
                for words in [
                    ["ls"], ["status"], ["sql", "SELECT 1"], ["ls", Self.image], ["check"], ["inspect", Self.image],
                ] {
                    let outcome = try asStranger([Requirements.lamina] + words + ["--root", sandbox.root])
                    #expect(outcome.exitCode == 77 && outcome.output.isEmpty, "\(words): \(outcome)")
                    #expect(
                        outcome.errors.contains(sandbox.root) && outcome.errors.contains("sudo"), "\(words): \(outcome)"
                    )
                }
            }
        }

        @Test(
            "a store that somebody else owns, writes to or leads to by a link is refused by every command, with 77 and the way out"
        )
        func foreignStores() throws {
            try Self.with { sandbox in
                let mount = try sandbox.mountPoint()
                try createDirectories(sandbox.root)
                let link = sandbox.directory + "/link"
                symlink(sandbox.root, link)
                #expect(lchown(link, 65534, 65534) == 0)
                for words in [
                    ["pull", Self.image], ["mount", Self.image, mount], ["serve"], ["serve", "--supervise"], ["status"],
                ] {
                    let byLink = try run([Requirements.lamina] + words + ["--root", link])
                    #expect(byLink.exitCode == 77 && byLink.errors.contains(link), "\(words): \(byLink)")
                    chmod(sandbox.root, 0o777)
                    if words != ["status"] {
                        let written = try sandbox.start(words).wait()
                        #expect(written.exitCode == 77 && written.errors.contains("chmod 0700"), "\(words): \(written)")
                    }
                    chmod(sandbox.root, 0o755)
                    chown(sandbox.root, 65534, 65534)
                    let owned = try sandbox.start(words).wait()
                    #expect(owned.exitCode == 77 && owned.errors.contains("(65534)"), "\(words): \(owned)")
                    chown(sandbox.root, 0, 0)
                }
                #expect(names(in: sandbox.root).isEmpty)
                #expect(try sandbox.mounts().isEmpty)
            }
        }

        @Test("[store] group lets its members ask the server for the views, and nobody else, and never the file")
        func group() throws {
            try Self.with { sandbox in
                let server = try sandbox.start(["serve", "--set", "store.group=23456"])
                #expect(
                    try eventually { try sandbox.attempt("status").exitCode == 0 && sandbox.status().server != nil })
                try sandbox.lamina("pull", Self.image)
                func ask(_ words: String..., groups: String = "23456") throws -> Outcome {
                    try asStranger([Requirements.lamina] + words + ["--root", sandbox.root], groups: groups)
                }
                for words in [["ls"], ["ls", "-l"], ["ls", Self.image], ["ls", "--json"]] {
                    let own = try sandbox.start(words).wait().orThrow()
                    let theirs = try asStranger(
                        [Requirements.lamina] + words + ["--root", sandbox.root], groups: "23456")
                    #expect(theirs.exitCode == 0 && theirs.output == own.output && !own.output.isEmpty, "\(theirs)")
                }
                let status = try ask("status").orThrow().output
                #expect(status.contains("process \(server.pid)") && status.contains(Self.image), "\(status)")
                for query in [
                    "SELECT * FROM image_status",
                    "SELECT digest, digest_bytes, bytes FROM content_status ORDER BY 1 LIMIT 5",
                    "SELECT f.path, typeof(f.bytes) FROM file f JOIN layer_status l ON l.digest = f.layer ORDER BY 1 LIMIT 50",
                ] {
                    let theirs = try ask("sql", query)
                    #expect(
                        try theirs.exitCode == 0 && theirs.output == sandbox.lamina("sql", query).output, "\(theirs)")
                }
                let tables = try ask("sql", "SELECT * FROM content")
                #expect(tables.exitCode != 0 && tables.errors.contains("no such table"), "\(tables)")
                for words in [["ls"], ["status"], ["sql", "SELECT 1"]] {
                    let others = try asStranger(
                        [Requirements.lamina] + words + ["--root", sandbox.root], groups: "23457")
                    #expect(others.exitCode == 77 && others.errors.contains("[store] group"), "\(others)")
                }
                #expect(try asStranger(["test", "-r", sandbox.root + "/index.db"], groups: "23456").exitCode != 0)
                // What it may look at it may not change.
                let change = try ask("pull", Self.image)
                #expect(change.exitCode == 77, "\(change)")
                server.send(SIGTERM)
                server.wait(seconds: 30)
                #expect(try ask("ls").exitCode == 77)
            }
        }

        // MARK: What images may make of it

        /// `TARGET TYPE`: who a set-user-ID copy of id(1) runs as, and whether a device of the image gives a byte.
        private func rights(_ mount: String) throws -> (user: String, opensDevices: Bool) {
            let user = try asStranger([mount + "/id", "-u"]).orThrow().output.filter { $0 != "\n" }
            return (user, try asStranger(["head", "-c1", mount + "/zero"]).exitCode == 0)
        }

        @Test(
            "a program of an image that is root's with the set-user-ID bit does not make it root, and no device opens, but for --suid and --dev, after a restart too",
            arguments: [false, true])
        func setUserID(isSealed: Bool) throws {
            try Self.with { sandbox in
                sandbox.seals = isSealed
                let tree = sandbox.directory + "/tree"
                try createDirectories(tree)
                try run(["cp", "/usr/bin/id", tree + "/id"]).orThrow()
                chmod(tree + "/id", 0o4755)
                try run(["mknod", "-m", "0666", tree + "/zero", "c", "1", "5"]).orThrow()
                let layout = sandbox.directory + "/image"
                try run([Requirements.lamina, "convert", "dir:\(tree)", "oci:\(layout):latest"]).orThrow()
                let supervised = try sandbox.supervise()
                var mounts: [(path: String, suid: Bool, dev: Bool)] = []
                for (index, options) in [[], ["--suid"], ["--dev"], ["--suid", "--dev"]].enumerated() {
                    for isWritable in [false, true] {
                        let name = "m\(index)\(isWritable ? "w" : "")"
                        var words = ["mount"] + options + (isSealed ? ["--sealed"] : [])
                        if isWritable { words += ["--rw", try sandbox.mountPoint(name + ".upper")] }
                        let target = try sandbox.mountPoint(name)
                        try sandbox.start(words + ["oci:\(layout):latest", target]).wait().orThrow()
                        mounts.append((target, options.contains("--suid"), options.contains("--dev")))
                    }
                }
                func check(_ when: String) throws {
                    for mount in mounts {
                        let found = try rights(mount.path)
                        #expect(found.user == (mount.suid ? "0" : "65534"), "\(when): \(mount)")
                        #expect(found.opensDevices == mount.dev, "\(when): \(mount)")
                    }
                    let ways = Set(try sandbox.status().mounts.map(\.way))
                    #expect(ways == [isSealed ? "sealed" : "fuse"], "\(when)")
                }
                try check("at first")
                try supervised.killServer()
                try check("after a kill")
                try sandbox.lamina("shutdown")
                supervised.child.wait(seconds: 30)
                // Sealed mounts need no server; as after a restart of the machine they are gone.
                for mount in mounts { _ = try run(["umount", "-l", mount.path]) }
                let next = try sandbox.supervise()
                try check("of the next server")
                withExtendedLifetime(next) {}
                for mount in mounts { try sandbox.lamina("umount", mount.path) }
            }
        }

        // MARK: Whom it can keep waiting

        @Test("nobody but root comes to the supervisor's socket, and what a killed supervisor left is taken away")
        func supervisor() throws {
            try Self.with { sandbox in
                let supervised = try sandbox.supervise()
                let server = try #require(supervised.server)
                let environment = try readFile("/proc/\(server)/environ").split(separator: 0)
                    .map { String(decoding: $0, as: UTF8.self) }
                let prefix = "NOTIFY_SOCKET="
                let path = try #require(environment.first { $0.hasPrefix(prefix) }).dropFirst(prefix.count)
                #expect(path.hasPrefix(sandbox.root + "/"), "no abstract name: \(path)")
                // A descriptor that takes a minute to be closed: SO_LINGER on a connection whose other end does not read.
                let attack = """
                    import array, socket, struct, sys
                    listener = socket.create_server(("127.0.0.1", 0))
                    held = socket.create_connection(listener.getsockname())
                    held.setblocking(False)
                    try:
                        while True: held.send(b"x" * 65536)
                    except BlockingIOError: pass
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
                    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    sender.sendmsg([b"WATCHDOG=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [held.fileno()]))], 0, sys.argv[1])
                    """
                let outcome = try asStranger(["/usr/bin/python3", "-c", attack, String(path)])
                #expect(outcome.exitCode != 0 && outcome.errors.contains("PermissionError"), "\(outcome)")
                // It is not waiting for anything.
                try supervised.killServer()
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
                supervised.child.send(SIGKILL)
                supervised.child.wait()
                for pid in processes(withArgumentContaining: sandbox.root) { kill(pid, SIGKILL) }
                #expect(eventually { processes(withArgumentContaining: sandbox.root).isEmpty })
                let next = try sandbox.supervise()
                let left = names(in: sandbox.root).filter { $0.hasPrefix("notify-") }
                #expect(left.count == 1, "\(left)")
                next.child.send(SIGTERM)
                next.child.wait(seconds: 30)
                #expect(names(in: sandbox.root).filter { $0.hasPrefix("notify-") }.isEmpty)
            }
        }

        /// `DIRECTORY SECONDS`: opens and reads files of it for so long, one after the other; prints how many and the 99th percentile, in ms.
        private static let openings = """
            import os, sys, time
            files = [os.path.join(top, name) for top, _, names in os.walk(sys.argv[1]) for name in names]
            files = [path for path in files if os.path.isfile(path) and not os.path.islink(path)]
            times, end, turn = [], time.monotonic() + float(sys.argv[2]), 0
            while time.monotonic() < end:
                began = time.perf_counter()
                with open(files[turn % len(files)], "rb") as file: file.read(4096)
                times.append(time.perf_counter() - began)
                turn += 1
                time.sleep(0.001)
            times.sort()
            print(len(times), times[int(len(times) * 0.99)] * 1000)
            """

        private func expectOthersGoOn(_ directory: String, seconds: Double = 5, _ what: String) throws {
            let outcome = try run(["python3", "-c", Self.openings, directory, "\(seconds)"], seconds: seconds + 60)
                .orThrow()
            let numbers = outcome.output.split { $0 == " " || $0 == "\n" }.compactMap { Double($0) }
            try #require(numbers.count == 2)
            print("\(what): \(Int(numbers[0])) opens of others, 99% within \(numbers[1]) ms")
            #expect(numbers[0] > 100 && numbers[1] <= 100, "\(what)")
        }

        @Test("65,536 opens of one file by one user: the opens of others go on within 100 ms")
        func manyOpens() throws {
            try Self.with { sandbox in
                let supervised = try sandbox.supervise()
                let image = try Shared.small.get()
                let mount = try sandbox.mount(image.reference(try sandbox.proxy()))
                _ = try run(["grep", "-rc", "", mount])
                // In four processes: the hard limit of one may be lower.
                let script = """
                    import os, sys, time
                    held = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(16384)]
                    print("held", flush=True)
                    time.sleep(300)
                    """
                let words = ["prlimit", "--nofile=17000:17000"] + Self.stranger
                let holders = try (0..<4).map { _ in
                    try sandbox.startProgram(words + ["/usr/bin/python3", "-c", script, mount + "/larger"])
                }
                defer { for holder in holders { holder.send(SIGKILL) } }
                try expectOthersGoOn(mount, "while a user opens one file 65,536 times")
                let areHeld = eventually(seconds: 120) { holders.allSatisfy { $0.outputSoFar.contains("held") } }
                #expect(areHeld, "\(holders.map(\.errorsSoFar))")
                try expectOthersGoOn(mount, "while it holds them")
                #expect(try sandbox.status().server?.pid == supervised.server)
                for holder in holders { holder.send(SIGKILL) }
                try expectOthersGoOn(mount, "while they are closed")
            }
        }

        @Test(
            "six readers whose registry stalls: the opens of others go on within 100 ms, of what is there and of what is not"
        )
        func stalledReaders() throws {
            try Self.with { sandbox in
                _ = try sandbox.supervise()
                let image = try Shared.small.get()
                let there = try sandbox.mount(Self.image, at: "there")
                _ = try run(["grep", "-rc", "", there])
                let proxy = try sandbox.proxy()
                let mount = try sandbox.mount(image.reference(proxy), at: "stalled")
                proxy.faults.stallAfter = 0
                let readers = try (0..<6).map { number in
                    try sandbox.startProgram(
                        Self.stranger + [
                            "dd", "if=\(mount)/larger", "of=/dev/null", "bs=64k", "count=1", "skip=\(number * 64)",
                        ])
                }
                defer { for reader in readers { reader.send(SIGKILL) } }
                usleep(500_000)
                try expectOthersGoOn(there, "while six readers are stalled")
                // Of another repository, whose registry answers, nothing is there yet: each open fetches.
                let layer = HandmadeLayer(
                    (0..<200).map { .init("\($0)", noise(3000 + $0, seed: 300 + UInt64($0))) })
                let fresh = try HandmadeImage(sandbox.directory + "/fresh.oci", layer)
                try expectOthersGoOn(sandbox.mount(fresh.reference, at: "fresh"), "of what is not there")
                #expect(readers.allSatisfy { $0.isRunning })
                proxy.faults = Faults()
            }
        }

        @Test(
            "1,200 idle connections to the metrics' port of a server that may open 1,024 files: opens go on, and metrics are there again"
        )
        func idleConnections() throws {
            try Self.with { sandbox in
                let settings = sandbox.directory + "/config.toml"
                try write("[metrics]\naddress = \"127.0.0.1:0\"\n".utf8, to: settings)
                let limited =
                    "ulimit -n 1024 && exec setpriv --inh-caps=-sys_resource --bounding-set=-sys_resource '\(Requirements.lamina)' serve --supervise --config '\(settings)' --root '\(sandbox.root)'"
                let child = try sandbox.startProgram(["sh", "-c", limited])
                let supervised = Supervised(child: child, sandbox: sandbox)
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
                func address() -> String? {
                    child.errorsSoFar.split(separator: "\n").last { $0.contains("metrics are served") }
                        .flatMap { $0.split(separator: "address=").last }.map { String($0.prefix { $0 != " " }) }
                }
                #expect(eventually(seconds: 20) { address() != nil })
                let place = try #require(address())
                let mount = try sandbox.mount(Self.image)
                let script = """
                    import resource, socket, sys, time
                    host, port = sys.argv[1].rsplit(":", 1)
                    held = []
                    for number in range(1200):
                        one = socket.socket()
                        one.setblocking(False)
                        one.connect_ex((host, int(port)))
                        held.append(one)
                    print("held", flush=True)
                    time.sleep(60)
                    """
                let holder = try sandbox.startProgram(
                    ["prlimit", "--nofile=4096:4096"] + Self.stranger + ["/usr/bin/python3", "-c", script, place])
                defer { holder.send(SIGKILL) }
                #expect(eventually(seconds: 30) { holder.outputSoFar.contains("held") })
                usleep(300_000)
                let server = try #require(supervised.server)
                let descriptors = names(in: "/proc/\(server)/fd").count
                #expect(descriptors < 200, "\(descriptors) descriptors")
                try expectOthersGoOn(mount, "with 1,200 idle connections")
                #expect(try sandbox.status().server?.pid == server)
                // Those that say nothing are closed, so somebody who asks comes to his turn.
                let asked = try run(["curl", "-sf", "--max-time", "55", "http://\(place)/healthz"])
                #expect(asked.output == "ok\n", "\(asked)")
            }
        }
    }
}
