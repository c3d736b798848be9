import FoundationEssentials
import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("rm, gc and a store with a limit")
    struct Space {
        private struct Garbage: Decodable, Equatable {
            var layers: Int
            var contents: Int
            var files: Int
            var bytes: Int64
        }

        private struct Removed: Decodable {
            var reference: String
            var garbage: Garbage?
        }

        private func gc(_ sandbox: Sandbox, _ options: String...) throws -> Garbage {
            try decoded(sandbox.start(["gc", "--json"] + options).wait(seconds: 60).orThrow().output)
        }

        private func bytesOnDisk(_ path: String) throws -> Int64 {
            let text = try run(["du", "-s", "-x", "--block-size=1", path]).orThrow().output
            return Int64(text.prefix { $0.isNumber }) ?? -1
        }

        @Test("rm frees what no other image holds, with a server and without one; gc --dry-run says the same before")
        func removed() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let fixture = "oci:\(Fixtures.layout("estargz"))"
                for serves in [false, true] {
                    let server = serves ? try sandbox.serve() : nil
                    try sandbox.lamina("pull", fixture)
                    let before = try bytesOnDisk(sandbox.root + "/content")
                    try sandbox.lamina("pull", reference)
                    let kept: [Removed] = try decoded(sandbox.lamina("rm", "--no-gc", "--json", reference).output)
                    #expect(kept.count == 1 && kept[0].garbage == nil)
                    let dry = try gc(sandbox, "--dry-run")
                    #expect(dry.layers == 1 && dry.bytes >= image.byteCount && dry.files == 14)
                    #expect(try gc(sandbox, "--dry-run") == dry)
                    #expect(try gc(sandbox) == dry)
                    #expect(try bytesOnDisk(sandbox.root + "/content") <= before + (1 << 20))
                    #expect(try gc(sandbox) == Garbage(layers: 0, contents: 0, files: 0, bytes: 0))
                    // The other one is whole.
                    let mount = try sandbox.mount(fixture, at: "other-\(serves)")
                    try TreeOracle.expectFixture(at: mount, in: sandbox, "after gc")
                    try sandbox.lamina("umount", mount)
                    #expect(try sandbox.attempt("rm", reference).exitCode == 1)
                    let text = try sandbox.lamina("rm", fixture).output
                    #expect(text.contains("removed") && text.contains("freed"))
                    #expect(sandbox.backingFiles().isEmpty)
                    server?.send(SIGTERM)
                    server?.wait(seconds: 20)
                    // The server that `mount` left ends after the last umount, not with it.
                    #expect(
                        eventually(seconds: 20) {
                            (try? run(["flock", "--nonblock", sandbox.root + "/lock", "true"]))?.exitCode == 0
                        })
                }
                #expect(try sandbox.sql("PRAGMA foreign_key_check; PRAGMA integrity_check") == ["ok"])
            }
        }

        @Test(
            "an image that is mounted is refused with the way out; files that are open are read to their end after it")
        func open() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                _ = try sandbox.serve()
                try sandbox.lamina("pull", "--lazy", reference)
                let mount = try sandbox.mount(reference)
                let refused = try sandbox.attempt("rm", reference)
                #expect(refused.exitCode == 1 && refused.errors.contains("lamina umount \(mount)"), "\(refused)")
                // One that the kernel reads, and one that comes through the server and is not merged yet.
                var faults = Faults()
                faults.bytesPerSecond = 4 << 20
                let proxy = try sandbox.proxy()
                let passthrough = try File("\(mount)/files/000/00000", O_RDONLY)
                proxy.faults = faults
                let cached = try File("\(mount)/larger", O_RDONLY)
                try run(["umount", "-l", mount]).orThrow()
                #expect(try sandbox.lamina("rm", reference).output.contains("removed"))
                _ = try gc(sandbox)
                for (file, name) in [(passthrough, "files/000/00000"), (cached, "larger")] {
                    let expected = try File("\(image.tree)/\(name)", O_RDONLY)
                    let size = Int(try expected.size())
                    #expect(try file.read(size + 1, at: 0) == expected.read(size + 1, at: 0), "\(name)")
                }
                #expect(try sandbox.number("SELECT count(*) FROM layer") == 1)
                // Mounted again, it is another layer with other numbers.
                proxy.faults = Faults()
                let again = try sandbox.mount(reference, at: "again")
                try TreeOracle.expectSame(image.tree, at: again, in: sandbox)
            }
        }

        @Test("the kernel forgets the layers that are gone, and what is mounted again under the same name is new")
        func forgotten() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                _ = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                let view = try #require(try sandbox.sql("SELECT id FROM layer_view").first)
                #expect(names(in: sandbox.root + "/fs") == [view])
                try sandbox.lamina("umount", mount)
                try sandbox.lamina("rm", reference)
                #expect(names(in: sandbox.root + "/fs").isEmpty)
                #expect(access("\(sandbox.root)/fs/\(view)/larger", F_OK) != 0)
                try sandbox.lamina("mount", reference, mount)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                #expect(!names(in: sandbox.root + "/fs").contains(view))
            }
        }

        @Test("gc again and again during a pull takes nothing of it")
        func duringPull() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.medium.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                _ = try sandbox.serve()
                let pull = try sandbox.start(["pull", "--json", reference])
                var collections = 0
                // Not to its very end, when nothing holds files without a name any more.
                while pull.isRunning, proxy.sentByteCount(of: image.layer) < image.layerSize * 8 / 10 {
                    let garbage = try gc(sandbox)
                    #expect(garbage.layers == 0 && garbage.contents == 0 && garbage.files == 0)
                    collections += 1
                    usleep(200_000)
                    // Its name is deleted too, in the middle: the pull still has its layers.
                    if collections == 3 { _ = try sandbox.attempt("rm", reference) }
                }
                #expect(collections >= 3)
                let outcome = try pull.wait(seconds: 60).orThrow()
                let report: PullReport = try decoded(outcome.output)
                #expect(report.landedBytes == report.bytes || report.bytes == 0, "\(outcome)")
                // The end of the blob already comes with the table of contents.
                #expect(proxy.repeatedByteCount(of: image.layer) < 1 << 20)
                let again: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(again.complete)
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
            }
        }

        @Test("SIGKILL at random moments of gc leaves nothing wrong: the next process finishes it")
        func killed() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.medium.get()
                let reference = image.reference(try sandbox.proxy())
                var interrupted = 0
                for round in 0..<3 {
                    try sandbox.lamina("pull", reference)
                    try sandbox.lamina("rm", "--no-gc", reference)
                    let collection = try sandbox.start(["gc"])
                    // In the middle of the unlinking, if it can be hit.
                    let count = sandbox.backingFiles().count
                    _ = eventually(seconds: 10) {
                        if round == 0 { return true }
                        return sandbox.backingFiles().count < count - round * 100 || !collection.isRunning
                    }
                    collection.send(SIGKILL)
                    if collection.wait(seconds: 10).signal == SIGKILL { interrupted += 1 }
                    #expect(try sandbox.sql("PRAGMA integrity_check") == ["ok"])
                    if round % 2 == 0 { continue }
                    // Any command that opens the store repairs it.
                    _ = try gc(sandbox)
                    #expect(sandbox.backingFiles().isEmpty)
                    #expect(try sandbox.number("SELECT count(*) FROM garbage") == 0)
                }
                #expect(interrupted > 0)
                try sandbox.lamina("pull", reference)
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
            }
        }

        @Test(
            "with max_bytes at half the image, a full read of the mounted image gives right bytes, the store stays under the limit, and it is no slower than twice an unlimited read"
        )
        func limit() throws {
            let image = try Shared.medium.get()
            /// Reads all of the image through a mount, in the order of names: returns how many seconds it took, and the most
            /// that the store took on disk meanwhile.
            func readAll(limit: Int64?) throws -> (seconds: Double, most: Int64, fetched: Int64) {
                try Sandbox.with { sandbox in
                    let proxy = try sandbox.proxy()
                    let reference = image.reference(proxy)
                    let config = sandbox.directory + "/config.toml"
                    try write("[store]\nmax_bytes = \(limit ?? 0)\n".utf8, to: config)
                    try sandbox.lamina("pull", "--lazy", reference, "--config", config)
                    let mount = try sandbox.mountPoint()
                    try sandbox.lamina("mount", reference, mount, "--config", config)
                    let started = now()
                    let reader = try sandbox.startProgram(["python3", "-c", Self.compare, image.tree, mount])
                    var most: Int64 = 0
                    while reader.isRunning {
                        most = max(most, try bytesOnDisk(sandbox.root))
                        usleep(20_000)
                    }
                    let seconds = now() - started
                    try reader.wait().orThrow()
                    let status = try sandbox.status()
                    #expect(status.server?.passthrough == true)
                    // Again: what was evicted comes back, and what is there is right.
                    if limit != nil {
                        try run(["python3", "-c", Self.compare, image.tree, mount], seconds: 240).orThrow()
                    }
                    return (seconds, most, status.server?.fetchedBytes ?? 0)
                }
            }
            let limit = image.byteCount / 2
            var (unlimited, limited) = (try readAll(limit: nil), try readAll(limit: limit))
            // Once more if other programs used the machine during one of the two and not the other.
            for _ in 0..<2 where limited.seconds > 2 * unlimited.seconds + 1 {
                let most = limited.most
                (unlimited, limited) = (try readAll(limit: nil), try readAll(limit: limit))
                limited.most = max(limited.most, most)
            }
            print(
                "a store of \(limit >> 20) MiB for an image of \(image.byteCount >> 20) MiB: at most \(limited.most >> 20) MiB, "
                    + "\(limited.seconds) s, without a limit \(unlimited.seconds) s; fetched \(limited.fetched) and \(unlimited.fetched)"
            )
            #expect(unlimited.most > limit)
            // One file of 64 MiB is open.
            #expect(limited.most <= limit + (64 << 20))
            #expect(limited.seconds <= 2 * unlimited.seconds + 1)
        }

        /// Compares every file of a tree with the same file of a mount, by reads, in the order of names.
        private static let compare = """
            import os, sys
            expected, actual = sys.argv[1:]
            for directory, subdirectories, names in os.walk(expected):
                subdirectories.sort()
                for name in sorted(names):
                    path = os.path.join(directory, name)
                    with open(path, 'rb') as left, open(actual + path[len(expected):], 'rb') as right:
                        while True:
                            a, b = left.read(1 << 20), right.read(1 << 20)
                            if a != b: sys.exit('differs: ' + path)
                            if not a: break
            """

        @Test("a pinned image stays where another one needs its room, by pull --pin and by pin; unpinned it goes")
        func pinned() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let config = sandbox.directory + "/config.toml"
                let fixture = "oci:\(Fixtures.layout("estargz"))"
                try write("[store]\nmax_bytes = \(image.byteCount * 4)\n".utf8, to: config)
                let pull: PullReport = try decoded(
                    sandbox.lamina("pull", "--pin", "--json", reference, "--config", config).output)
                #expect(pull.complete)
                #expect(try sandbox.number("SELECT pinned FROM image_status") == 1)
                let others = try bytesOnDisk(sandbox.root) - image.byteCount
                // Room for the image and what the index takes, and not for another one.
                try write("[store]\nmax_bytes = \(image.byteCount + others + 65_536)\n".utf8, to: config)
                _ = try sandbox.attempt("pull", fixture, "--config", config)
                #expect(try sandbox.number("SELECT merged_contents = contents FROM image_status WHERE pinned") == 1)
                try sandbox.lamina("unpin", reference, "--config", config)
                try sandbox.lamina("pull", fixture, "--config", config)
                #expect(try sandbox.number("SELECT count(*) FROM content WHERE state = 0") > 0)
                #expect(try sandbox.lamina("pin", reference, "--config", config).output.contains("pinned"))
                #expect(try sandbox.attempt("pin", "127.0.0.1:1/none:x").exitCode == 1)
            }
        }

        @Test("an image that does not fit is refused before it is fetched, naming what it needs and what there is")
        func refused() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                let config = sandbox.directory + "/config.toml"
                try write("[store]\nmax_bytes = \(image.byteCount / 2)\n".utf8, to: config)
                let outcome = try sandbox.attempt("pull", reference, "--config", config)
                #expect(outcome.exitCode == 1)
                #expect(outcome.errors.contains("max_bytes") && outcome.errors.contains("--lazy"), "\(outcome)")
                #expect(proxy.sentByteCount(of: image.layer) < 1 << 20)
                // As the message says, it can be mounted lazily.
                let mount = try sandbox.mountPoint()
                try sandbox.lamina("mount", reference, mount, "--config", config)
                try run(["cmp", "\(mount)/files/000/00007", "\(image.tree)/files/000/00007"]).orThrow()
            }
        }

        @Test("inspect --opened lists first opens in order, convert takes them, and a later pull fetches them first")
        func opened() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                _ = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                let first = ["files/000/00007", "middle", "files/000/00002"]
                for name in first { try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"]).orThrow() }
                try sandbox.lamina("umount", mount)
                let list = try sandbox.lamina("inspect", "--opened", reference).output
                #expect(list == first.map { $0 + "\n" }.joined())
                let json: [String] = try decoded(sandbox.lamina("inspect", "--opened", "--json", reference).output)
                #expect(json == first)
                try write(list.utf8, to: sandbox.directory + "/list")
                let converted = "oci:\(sandbox.directory)/converted:x"
                try sandbox.lamina("convert", "--prioritize", sandbox.directory + "/list", reference, converted)
                try sandbox.lamina("rm", reference)
                try sandbox.lamina("pull", converted)
                let places = try sandbox.sql(
                    """
                    SELECT f.path FROM file f JOIN content c ON 'sha256:' || lower(hex(c.digest)) = f.digest
                    JOIN chunk_source s ON s.content = c.id AND s.offset = 0
                    ORDER BY s.blob_offset, s.inner_offset LIMIT 3
                    """)
                #expect(places == first.map { "/" + $0 })
                // Removed from the store and pulled slowly: those come first.
                try sandbox.lamina("rm", converted)
                var faults = Faults()
                faults.bytesPerSecond = 2 << 20
                proxy.faults = faults
                let pull = try sandbox.start(["pull", reference])
                let isFirst = try eventually(seconds: 30) {
                    try sandbox.number("SELECT count(*) FROM content WHERE state = 2") >= 3
                }
                let merged = try Set(
                    sandbox.sql("SELECT path FROM file WHERE type = 'file' AND state = 'merged'"))
                #expect(isFirst && merged.isSuperset(of: first.map { "/" + $0 }), "\(merged)")
                #expect(merged.count < 14)
                proxy.faults = Faults()
                try pull.wait(seconds: 60).orThrow()
            }
        }
    }
}
