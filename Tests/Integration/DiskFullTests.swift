import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("a full disk", Requirements.tools("mkfs.ext4:e2fsprogs", "losetup:util-linux"))
    struct DiskFull {
        /// A file system for the store alone, and what fills it.
        private struct Disk {
            let sandbox: Sandbox
            private var filler: String { sandbox.root + "/filler" }

            init(_ sandbox: Sandbox, mebibytes: Int) throws {
                self.sandbox = sandbox
                let image = sandbox.directory + "/disk"
                try run(["truncate", "-s", "\(mebibytes)M", image]).orThrow()
                try run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", image]).orThrow()
                try createDirectories(sandbox.root)
                try run(["mount", "-o", "loop", image, sandbox.root]).orThrow()
            }

            /// Leaves this many bytes free, or none, to the last block.
            func fill(leaving bytes: Int64) throws {
                try run(["sync", "-f", sandbox.root]).orThrow()
                var statistics = statvfs()
                guard statvfs(sandbox.root, &statistics) == 0 else { throw SystemError.last("statfs", sandbox.root) }
                let free = Int64(statistics.f_bavail) * Int64(statistics.f_frsize)
                if free > bytes {
                    let file = try File(filler, O_RDWR | O_CREAT)
                    _ = posix_fallocate(file.descriptor, off_t(try file.size()), off_t(free - bytes))
                }
                guard bytes == 0 else { return }
                // What a single call does not reach.
                let file = try File(filler, O_RDWR | O_CREAT)
                while posix_fallocate(file.descriptor, off_t(try file.size()), 4096) == 0 {}
            }

            func clear() { unlink(filler) }
        }

        /// Expects that everything that is merged in the index is there, byte for byte.
        private func expectTrue(_ sandbox: Sandbox, _ location: SourceLocation = #_sourceLocation) throws {
            #expect(try sandbox.sql("PRAGMA integrity_check") == ["ok"], sourceLocation: location)
            let merged = try sandbox.sql(
                "SELECT lower(hex(digest)) || '|' || lower(hex(claim)) FROM content WHERE state = 2")
            for line in merged {
                let parts = line.split(separator: "|").map(String.init)
                let name = parts[0].prefix(2) + "/" + parts.joined(separator: ".")
                let file = try File("\(sandbox.root)/content/\(name)", O_RDONLY)
                #expect(
                    try SHA256.hash(file.read(Int(file.size()), at: 0)).hex == parts[0], "\(name)",
                    sourceLocation: location)
            }
        }

        @Test(
            "a pull that does not fit says so before it fetches; one that is overtaken keeps what landed, and goes on from there"
        )
        func pull() throws {
            try Sandbox.with { sandbox in
                let disk = try Disk(sandbox, mebibytes: 96)
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                for serves in [false, true] {
                    let server = serves ? try sandbox.serve() : nil
                    try sandbox.lamina("pull", "--lazy", reference)
                    try disk.fill(leaving: 12 << 20)
                    let before = proxy.sentByteCount(of: image.layer)
                    let refused = try sandbox.attempt("pull", reference)
                    #expect(refused.exitCode == 1 && refused.errors.contains("are free"), "\(refused)")
                    #expect(refused.errors.contains("No space left on device"), "\(refused)")
                    #expect(proxy.sentByteCount(of: image.layer) - before < 1 << 20)
                    disk.clear()
                    // There is room, until another program takes it.
                    var faults = Faults()
                    faults.bytesPerSecond = 6 << 20
                    proxy.faults = faults
                    let pull = try sandbox.start(["pull", reference])
                    #expect(
                        try eventually(seconds: 30) {
                            try sandbox.number("SELECT coalesce(sum(landed_bytes), 0) FROM image_status") > 4 << 20
                        })
                    try disk.fill(leaving: 0)
                    proxy.faults = Faults()
                    let failed = pull.wait(seconds: 60)
                    #expect(failed.exitCode == 1, "\(failed)")
                    #expect(failed.errors.contains("No space left on device"), "\(failed)")
                    try expectTrue(sandbox)
                    disk.clear()
                    let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                    #expect(report.complete)
                    #expect(report.fetchedBytes < image.layerSize * 9 / 10, "what landed was fetched again")
                    try expectTrue(sandbox)
                    server?.send(SIGTERM)
                    server?.wait(seconds: 20)
                    // Again from nothing, through a server.
                    try sandbox.lamina("rm", reference)
                }
            }
        }

        @Test("a reader gets ENOSPC, and with room reads on without anybody's help")
        func reader() throws {
            try Sandbox.with { sandbox in
                let disk = try Disk(sandbox, mebibytes: 96)
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let server = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                let kept = try File("\(mount)/larger", O_RDONLY)
                try disk.fill(leaving: 0)
                // Small ones wait in open, large ones in read.
                for name in ["files/000/00003", "middle"] {
                    let error = #expect(throws: SystemError.self) { try File("\(mount)/\(name)", O_RDONLY) }
                    #expect(error?.code == ENOSPC, "\(name): \(String(describing: error))")
                }
                let error = #expect(throws: SystemError.self) { try kept.read(24 << 20, at: 0) }
                #expect(error?.code == ENOSPC, "\(String(describing: error))")
                #expect(server.isRunning)
                disk.clear()
                for name in ["files/000/00003", "middle", "larger"] {
                    try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"], seconds: 60).orThrow()
                }
                let expected = try File("\(image.tree)/larger", O_RDONLY)
                #expect(try kept.read(24 << 20, at: 0) == expected.read(24 << 20, at: 0))
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                #expect(
                    try eventually(seconds: 20) {
                        try sandbox.number("SELECT count(*) FROM image_status WHERE state = 'complete'") == 1
                    })
                try expectTrue(sandbox)
            }
        }

        @Test("the index is refused whole: a layer is in it, or is not; rm and gc work on a disk without a free block")
        func index() throws {
            try Sandbox.with { sandbox in
                let disk = try Disk(sandbox, mebibytes: 64)
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let fixtures = ["estargz", "plain-gzip"].map { "oci:\(Fixtures.layout($0))" }
                try sandbox.lamina("pull", reference)
                try disk.fill(leaving: 0)
                for other in fixtures {
                    for options in [["--lazy"], []] {
                        let failed = try sandbox.start(["pull", other] + options).wait(seconds: 60)
                        #expect(failed.exitCode == 1, "\(failed)")
                        #expect(failed.errors.contains("full") || failed.errors.contains("No space left"), "\(failed)")
                    }
                }
                // Room without taking the filler away.
                let text = try sandbox.lamina("rm", reference).output
                #expect(text.contains("freed") && sandbox.backingFiles().isEmpty, "\(text)")
                // Nothing that was refused was left.
                #expect(try sandbox.number("SELECT count(*) FROM image") == 0)
                #expect(try sandbox.number("SELECT count(*) FROM layer") == 0)
                for other in fixtures { try sandbox.lamina("pull", other) }
                let mount = try sandbox.mount(fixtures[0])
                try TreeOracle.expectFixture(at: mount, in: sandbox, "after rm on a full disk")
                try expectTrue(sandbox)
            }
        }

        @Test("what the store has is mounted and unmounted without a free block, by servers that are started for it")
        func started() throws {
            try Sandbox.with { sandbox in
                let disk = try Disk(sandbox, mebibytes: 64)
                let image = "oci:\(Fixtures.layout("estargz"))"
                try sandbox.lamina("pull", image)
                // There is no room for temporary files either.
                let temporary = try sandbox.mountPoint("tmp")
                try run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", temporary]).orThrow()
                _ = try run(["dd", "if=/dev/zero", "of=\(temporary)/filler", "status=none"])
                try disk.fill(leaving: 0)
                for _ in 0..<2 {
                    let mount = try sandbox.mountPoint()
                    func attempt(_ arguments: String...) throws {
                        let words = ["env", "TMPDIR=\(temporary)", Requirements.lamina] + arguments
                        try run(words + ["--root", sandbox.root]).orThrow()
                    }
                    try attempt("mount", image, mount)
                    try TreeOracle.expectFixture(at: mount, in: sandbox, "on a full disk")
                    try attempt("status")
                    try attempt("umount", mount)
                    #expect(eventually(seconds: 60) { processes(withArgumentContaining: sandbox.root).isEmpty })
                }
                try run(["umount", temporary]).orThrow()
                try expectTrue(sandbox)
            }
        }

        @Test("a server that is killed on a full disk is followed by one that serves what is there")
        func restarted() throws {
            try Sandbox.with { sandbox in
                let disk = try Disk(sandbox, mebibytes: 96)
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let supervised = try sandbox.supervise()
                try sandbox.lamina("pull", reference)
                let mount = try sandbox.mount(reference)
                try disk.fill(leaving: 0)
                let before = try sandbox.status().server?.pid ?? 0
                kill(before, SIGKILL)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                #expect(try eventually { try sandbox.status().server.map { $0.pid != before } ?? false })
                #expect(supervised.child.isRunning)
                try sandbox.lamina("umount", mount)
                try sandbox.lamina("rm", reference)
                disk.clear()
                try sandbox.lamina("pull", reference)
                try expectTrue(sandbox)
            }
        }
    }
}
