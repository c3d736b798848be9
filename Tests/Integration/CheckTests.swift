import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("lamina check")
    struct Check {
        static let chunkSize = 64 << 10
        static let files = [
            ("large", noise(2_000_000)), ("middle", noise(150_000, seed: 2)), ("small", noise(3000, seed: 3)),
            ("tiny", noise(1, seed: 4)),
        ]

        /// An image at the sandbox's proxy; the sandbox has its files as they should be.
        private static func push(_ sandbox: Sandbox) throws -> (layer: Digest, reference: String) {
            let layer = HandmadeLayer(files.map { .init($0.0, $0.1, chunkSize: chunkSize) })
            let image = try HandmadeImage(sandbox.directory + "/layout", layer)
            try Shared.registry.get().push(layout: image.directory, name: "check", tag: "x")
            try createDirectories(sandbox.directory + "/expected")
            for (name, bytes) in files { try write(bytes, to: "\(sandbox.directory)/expected/\(name)") }
            return (image.layers[0], "\(try sandbox.proxy().host)/check:x")
        }

        /// The backing file of one of the files.
        private static func backing(_ name: String, _ sandbox: Sandbox) throws -> String {
            let bytes = try #require(files.first { $0.0 == name }).1
            let digest = SHA256.hash(bytes).hex
            return try #require(sandbox.backingFiles().first { $0.contains("/\(digest)") })
        }

        private static func flip(_ path: String, at offset: Int64) throws {
            let file = try File(path, O_RDWR)
            let byte = try #require(try file.read(1, at: offset).first)
            try [byte ^ 0x10].withUnsafeBytes { try file.write($0, at: offset) }
        }

        private static func check(
            _ sandbox: Sandbox, _ options: String..., expecting exitCode: Int32
        ) throws -> CheckReport {
            let child = try sandbox.start(["check", "--json"] + options)
            let outcome = child.wait()
            guard outcome.exitCode == exitCode else { throw Outcome.Failed(description: "\(outcome)") }
            return try decoded(outcome.output)
        }

        /// Readers that keep every file open and mapped, until ``stop``.
        ///
        /// - Parameter bits: how many bits of a file may be wrong meanwhile.
        private static func readers(_ mount: String, _ sandbox: Sandbox, bits: Int = 1) throws -> Child {
            let child = try sandbox.startProgram([
                "python3", "-c", Scripts.heldReaders, mount, sandbox.directory + "/expected",
                sandbox.directory + "/stop", "\(bits)",
            ])
            #expect(eventually(seconds: 20) { child.outputSoFar.contains("open") || !child.isRunning })
            return child
        }

        private static func stop(_ readers: Child, _ sandbox: Sandbox) throws {
            try write([], to: sandbox.directory + "/stop")
            try readers.wait(seconds: 60).orThrow()
        }

        @Test(
            "a flipped byte in a backing file, at 100 random places, is found by check --read-data and healed by fetching that chunk alone, while readers hold the file open"
        )
        func flippedBytes() throws {
            try Sandbox.with { sandbox in
                let (layer, reference) = try Self.push(sandbox)
                let proxy = try sandbox.proxy()
                try sandbox.lamina("pull", reference)
                let mount = try sandbox.mount(reference)
                let readers = try Self.readers(mount, sandbox)
                // While it proves the files, the server itself finds damage, and repairs it.
                #expect(
                    try eventually(seconds: 30) {
                        try sandbox.number("SELECT count(*) FROM layer WHERE files_proven_at IS NULL") == 0
                    })
                let inodes = try sandbox.backingFiles().map { try File($0, O_RDONLY).status().st_ino }
                var random = SystemRandomNumberGenerator()
                for _ in 0..<100 {
                    // Each file in proportion to its size, but the small ones at least now and then.
                    let (name, bytes) =
                        Int.random(in: 0..<4, using: &random) == 0
                        ? try #require(Self.files.randomElement(using: &random)) : Self.files[0]
                    let offset = Int.random(in: 0..<bytes.count, using: &random)
                    let path = try Self.backing(name, sandbox)
                    try Self.flip(path, at: Int64(offset))
                    proxy.reset()
                    let report = try Self.check(sandbox, "--read-data", "--repair", expecting: 2)
                    let size = min(Self.chunkSize, bytes.count - offset / Self.chunkSize * Self.chunkSize)
                    let chunk = CheckReport.Chunk(
                        offset: Int64(offset / Self.chunkSize * Self.chunkSize), size: Int64(size))
                    #expect(report.damage.map(\.chunks) == [[chunk]], "\(name) at \(offset)")
                    #expect(report.damage.allSatisfy { $0.kind == "digest" && $0.repaired }, "\(report.damage)")
                    // The member: the chunk, what the tar has up to the next file, and gzip around it.
                    let sent = proxy.sentByteCount(of: layer)
                    #expect(sent > Int64(size) && sent <= Int64(size) + 4096, "\(sent) bytes for a chunk of \(size)")
                    #expect(try readFile(path) == bytes)
                }
                #expect(try sandbox.backingFiles().map { try File($0, O_RDONLY).status().st_ino } == inodes)
                try Self.stop(readers, sandbox)
                #expect(try Self.check(sandbox, "--read-data", expecting: 0).damage.isEmpty)
                #expect(try sandbox.opens().cached == 0)
            }
        }

        @Test("without --repair damage is told and nothing is changed")
        func onlyLooks() throws {
            try Sandbox.with { sandbox in
                let (layer, reference) = try Self.push(sandbox)
                try sandbox.lamina("pull", reference)
                let path = try Self.backing("large", sandbox)
                try Self.flip(path, at: 70_000)
                truncate(try Self.backing("middle", sandbox), 70_000)
                let proxy = try sandbox.proxy()
                proxy.reset()
                let before = try sandbox.sql("SELECT * FROM content") + sandbox.sql("SELECT * FROM chunk")
                let text = try sandbox.attempt("check", "--read-data", reference)
                #expect(text.exitCode == 2 && text.output.contains("content/"), "\(text)")
                let report = try Self.check(sandbox, "--read-data", expecting: 2)
                #expect(Set(report.damage.map(\.kind)) == ["size", "digest"] && report.damage.count == 2)
                #expect(report.damage.allSatisfy { !$0.repaired })
                #expect(try Self.check(sandbox, expecting: 2).damage.map(\.kind) == ["size"])
                #expect(try sandbox.sql("SELECT * FROM content") + sandbox.sql("SELECT * FROM chunk") == before)
                #expect(proxy.sentByteCount(of: layer) == 0)
            }
        }

        @Test(
            "a truncated file, a lengthened one, one with a hole and a missing one are found without reading, and healed under their readers",
            arguments: [true, false])
        func files(isServed: Bool) throws {
            try Sandbox.with { sandbox in
                let (layer, reference) = try Self.push(sandbox)
                let proxy = try sandbox.proxy()
                try sandbox.lamina("pull", reference)
                var readers: Child?
                if isServed { readers = try Self.readers(try sandbox.mount(reference), sandbox, bits: .max) }
                let large = try Self.backing("large", sandbox)
                let punch = try run(["fallocate", "-p", "-o", "\(20 * Self.chunkSize)", "-l", "8192", large])
                #expect(punch.exitCode == 0)
                truncate(large, 30 * Self.chunkSize)
                truncate(try Self.backing("small", sandbox), 5000)
                unlink(try Self.backing("middle", sandbox))
                proxy.reset()
                let report = try Self.check(sandbox, "--repair", expecting: 2)
                #expect(report.damage.map(\.kind).sorted() == ["missing", "size", "size"], "\(report.damage)")
                #expect(report.repaired == report.damage.count, "\(report.damage)")
                // One chunk of the hole, one that was cut off, and a file of three; the lengthened one needs no bytes.
                let sent = proxy.sentByteCount(of: layer)
                #expect(sent > 220_000 && sent < 300_000, "\(sent)")
                for (name, bytes) in Self.files { #expect(try readFile(Self.backing(name, sandbox)) == bytes) }
                if let readers { try Self.stop(readers, sandbox) }
                #expect(try Self.check(sandbox, "--read-data", expecting: 0).damage.isEmpty)
            }
        }

        @Test("who has read wrong bytes through lamina in cached mode sees the right ones after the repair")
        func cachedReaders() throws {
            try Sandbox.with { sandbox in
                let (_, reference) = try Self.push(sandbox)
                try sandbox.lamina("pull", reference)
                try write(Array("[fuse]\npassthrough = false\n".utf8), to: sandbox.directory + "/config.toml")
                let server = try sandbox.start(["serve", "--config", sandbox.directory + "/config.toml"])
                #expect(
                    eventually(seconds: 20) { access(sandbox.root + "/control.sock", F_OK) == 0 || !server.isRunning })
                let mount = try sandbox.mount(reference)
                try Self.flip(Self.backing("large", sandbox), at: 1_000_000)
                let held = try File(mount + "/large", O_RDONLY)
                #expect(try held.read(1, at: 1_000_000) != [Self.files[0].1[1_000_000]])
                let report = try Self.check(sandbox, "--read-data", "--repair", expecting: 2)
                #expect(report.damage.map(\.repaired) == [true])
                #expect(try held.read(2_000_000, at: 0) == Self.files[0].1)
                #expect(try sandbox.opens().cached > 0)
            }
        }

        @Test("what another content has is copied from there, and nothing is fetched")
        func otherCopy() throws {
            try Sandbox.with { sandbox in
                let (_, reference) = try Self.push(sandbox)
                let other = HandmadeLayer([.init("other", Self.files[0].1, chunkSize: 1 << 20)])
                let image = try HandmadeImage(sandbox.directory + "/other", other)
                // Two separate files: neither was there when the other came.
                let mount = try sandbox.mount(reference)
                try sandbox.lamina("pull", "--lazy", image.reference)
                try run(["cmp", "\(mount)/large", sandbox.directory + "/expected/large"]).orThrow()
                let files = sandbox.backingFiles().filter { $0.contains(SHA256.hash(Self.files[0].1).hex) }
                #expect(files.count == 1)
                try sandbox.lamina("pull", image.reference)
                // One file with two names by now; if they were two, a copy could be whole when the other is not.
                for path in sandbox.backingFiles().filter({ $0.contains(SHA256.hash(Self.files[0].1).hex) }).dropFirst()
                {
                    try run(["cp", path, path + ".x"]).orThrow()
                    rename(path + ".x", path)
                }
                try Self.flip(files[0], at: 1_500_000)
                let proxy = try sandbox.proxy()
                proxy.reset()
                let report = try Self.check(sandbox, "--read-data", "--repair", expecting: 2)
                #expect(report.damage.count == 1 && report.repaired == 1, "\(report.damage)")
                #expect(report.fetchedBytes == 0)
                #expect(try readFile(files[0]) == Self.files[0].1)
            }
        }

        @Test("one file under two names is healed for both")
        func sharedFile() throws {
            try Sandbox.with { sandbox in
                let (_, reference) = try Self.push(sandbox)
                let other = HandmadeLayer([.init("other", Self.files[0].1, chunkSize: 1 << 20)])
                let image = try HandmadeImage(sandbox.directory + "/other", other)
                try sandbox.lamina("pull", reference)
                try sandbox.lamina("pull", image.reference)
                let paths = sandbox.backingFiles().filter { $0.contains(SHA256.hash(Self.files[0].1).hex) }
                #expect(paths.count == 2)
                let inodes = try paths.map { try File($0, O_RDONLY).status().st_ino }
                #expect(Set(inodes).count == 1)
                let mount = try sandbox.mount(reference)
                let readers = try Self.readers(mount, sandbox)
                try Self.flip(paths[0], at: 1_500_000)
                let report = try Self.check(sandbox, "--read-data", "--repair", expecting: 2)
                #expect(!report.damage.isEmpty && report.repaired == report.damage.count, "\(report.damage)")
                #expect(try paths.map { try File($0, O_RDONLY).status().st_ino } == inodes)
                #expect(try readFile(paths[1]) == Self.files[0].1)
                try Self.stop(readers, sandbox)
                #expect(try Self.check(sandbox, "--read-data", expecting: 0).damage.isEmpty)
            }
        }

        @Test("what cannot be had is said, is not served, and comes when the registry is back")
        func sourceDown() throws {
            try Sandbox.with { sandbox in
                let (_, reference) = try Self.push(sandbox)
                try sandbox.lamina("pull", reference)
                let mount = try sandbox.mount(reference)
                let proxy = try sandbox.proxy()
                try Self.flip(Self.backing("middle", sandbox), at: 100_000)
                var faults = Faults()
                faults.status = 404
                proxy.faults = faults
                let report = try Self.check(sandbox, "--read-data", "--repair", expecting: 2)
                #expect(report.damage.count == 1 && report.repaired == 0, "\(report.damage)")
                #expect(report.damage.first?.reason?.isEmpty == false)
                #expect(try sandbox.number("SELECT count(*) FROM chunk WHERE landed = 0") == 1)
                let read = try run(["cmp", "\(mount)/middle", sandbox.directory + "/expected/middle"], seconds: 60)
                #expect(read.exitCode == 2 && read.errors.contains("Input/output error"), "\(read)")
                proxy.faults = Faults()
                try run(["cmp", "\(mount)/middle", sandbox.directory + "/expected/middle"], seconds: 60).orThrow()
            }
        }

        @Test("a part of the bytes at a time, or for a time, it comes round: the position is kept")
        func position() throws {
            try Sandbox.with { sandbox in
                let (_, reference) = try Self.push(sandbox)
                try sandbox.lamina("pull", reference)
                try Self.flip(Self.backing("tiny", sandbox), at: 0)
                var (damage, rounds, checks) = (0, 0, 0)
                while rounds == 0, checks < 10 {
                    let child = try sandbox.start(["check", "--json", "--read-data=30"]).wait()
                    #expect([0, 2].contains(child.exitCode), "\(child)")
                    let report: CheckReport = try decoded(child.output)
                    damage += report.damage.count
                    rounds += report.roundFinished ? 1 : 0
                    checks += 1
                }
                #expect(damage == 1 && rounds == 1 && checks > 1)
                #expect(try sandbox.number("SELECT count(*) FROM check_position WHERE scope = ''") == 1)
                // Even without time, one file is read, and the next one next time.
                try sandbox.lamina("check", "--repair")
                for _ in Self.files { _ = try sandbox.attempt("check", "--read-data", "--repair", "--time", "0.001") }
                #expect(try Self.check(sandbox, "--read-data", expecting: 0).damage.isEmpty)
            }
        }

        @Test("a file of a layer without a table of contents is read from the layer's stream again")
        func plainLayer() throws {
            try Sandbox.with { sandbox in
                let tree = sandbox.directory + "/expected"
                try run(["python3", "-c", Scripts.generate, tree, "5", "large:3", "20"]).orThrow()
                let tar = sandbox.directory + "/layer.tar"
                try run(["tar", "-C", tree, "-cf", tar, "--format=posix", "."]).orThrow()
                let image = try PlainImages.layout(of: tar, "gzip", in: sandbox)
                let reference = "oci:\(image.layout):latest"
                try sandbox.lamina("pull", reference)
                let mount = try sandbox.mount(reference)
                let large = try SHA256.hash(readFile(tree + "/large"))
                let path = try #require(sandbox.backingFiles().first { $0.contains(large.hex) })
                let held = try File(mount + "/large", O_RDONLY)
                let inode = try File(path, O_RDONLY).status().st_ino
                try Self.flip(path, at: 2_000_000)
                let report = try Self.check(sandbox, "--read-data", "--repair", expecting: 2)
                #expect(report.damage.count == 1 && report.repaired == 1, "\(report.damage)")
                #expect(try File(path, O_RDONLY).status().st_ino == inode)
                #expect(try SHA256.hash(held.read(4 << 20, at: 0)) == large)
                #expect(Glibc.access(sandbox.root + "/content/stream/restream-\(large.hex)", F_OK) != 0)
                try run(["diff", "-r", tree, mount]).orThrow()
            }
        }

        @Test(
            "an index that is deleted, cut to nothing or damaged is named, and made anew from the files: a pull fetches none of them again",
            arguments: ["deleted", "empty", "damaged"])
        func lostIndex(how: String) throws {
            try Sandbox.with { sandbox in
                let (layer, reference) = try Self.push(sandbox)
                let proxy = try sandbox.proxy()
                try sandbox.lamina("pull", reference)
                for suffix in ["-wal", "-shm"] { unlink(sandbox.root + "/index.db" + suffix) }
                let index = sandbox.root + "/index.db"
                switch how {
                case "deleted": unlink(index)
                case "empty": truncate(index, 0)
                default:
                    let file = try File(index, O_RDWR)
                    for page in 2..<(try file.size() / 4096) {
                        try [UInt8](repeating: 0xee, count: 300).withUnsafeBytes { try file.write($0, at: page * 4096) }
                    }
                    let listing = try sandbox.attempt("ls")
                    #expect(listing.exitCode == 2, "\(listing)")
                    for word in [index, "lamina check --repair"] {
                        #expect(listing.errors.contains(word), "\(listing)")
                    }
                }
                let found = try Self.check(sandbox, expecting: 2)
                #expect(found.damage.map(\.kind) == ["index"] && found.repaired == 0)
                let repair = try Self.check(sandbox, "--repair", expecting: 2)
                #expect(repair.repaired == 1 && repair.unknown.adopted == Self.files.count, "\(repair)")
                proxy.reset()
                try sandbox.lamina("pull", reference)
                // The table of contents.
                let toc = proxy.sentByteCount(of: layer)
                #expect(toc < 300_000, "\(toc)")
                let mount = try sandbox.mount(reference)
                proxy.reset()
                try run(["diff", "-r", mount, sandbox.directory + "/expected"]).orThrow()
                #expect(proxy.sentByteCount(of: layer) == 0)
                #expect(try Self.check(sandbox, "--read-data", expecting: 0).damage.isEmpty)
            }
        }

        @Test("where there is no store, none is made")
        func noStore() throws {
            try Sandbox.with { sandbox in
                let outcome = try sandbox.attempt("check", "--repair")
                #expect(outcome.exitCode == 1 && outcome.errors.contains("there is no store"), "\(outcome)")
                #expect(access(sandbox.root, F_OK) != 0)
            }
        }
    }
}
