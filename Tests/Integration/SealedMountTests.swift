import FoundationEssentials
import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// Sealed images: EROFS for the names, overlayfs for the bytes, and no process that the kernel has to ask.
extension EndToEnd {
    @Suite("sealed images", Requirements.tools("fsck.erofs:erofs-utils", "losetup:mount"))
    struct Sealed {
        static func with(_ body: (Sandbox) throws -> Void) throws {
            try Sandbox.with { sandbox in
                sandbox.seals = true
                try body(sandbox)
                #expect(try !run(["losetup", "-a"]).output.contains(sandbox.directory))
            }
        }

        /// Waits until an image is sealed in the background.
        private func waitForSeal(_ sandbox: Sandbox, count: Int64 = 1) throws {
            #expect(try eventually(seconds: 30) { try sandbox.number("SELECT count(*) FROM sealed_status") >= count })
        }

        private func way(_ target: String, _ sandbox: Sandbox) throws -> String? {
            try sandbox.status().mounts.first { $0.target == target }?.way
        }

        private func checkImages(_ sandbox: Sandbox) throws {
            let images = names(in: sandbox.root + "/sealed").filter { $0.hasSuffix(".erofs") }
            #expect(!images.isEmpty)
            for image in images {
                // erofs-utils before 1.7 does not know the feature that saves a part of each name.
                let outcome = try run(["fsck.erofs", "\(sandbox.root)/sealed/\(image)"])
                let text = outcome.output + outcome.errors
                #expect(outcome.exitCode == 0 || text.contains("incompatible feature 40"), "\(text)")
            }
        }

        @Test(
            "the vectors, mounted sealed, are containerd's tree, and what FUSE shows of them",
            arguments: FixtureImages.names)
        func vectors(_ name: String) throws {
            try Self.with { sandbox in
                _ = try sandbox.serve()
                let reference = "oci:\(Fixtures.layout(name))"
                let fuse = try sandbox.mount(reference, at: "fuse")
                #expect(try way(fuse, sandbox) == "fuse")
                let sealed = try sandbox.mountPoint("sealed")
                let said = try sandbox.lamina("mount", "--sealed", reference, sealed).output
                #expect(said.contains("no server is needed"))
                #expect(try way(sealed, sandbox) == "sealed")
                try TreeOracle.expectFixture(
                    at: sealed, in: sandbox, "sealed", keepsFractions: FixtureImages.keepsFractions(name))
                try TreeOracle.expectSame(fuse, at: sealed, in: sandbox, keepsFractions: true, "FUSE against sealed")
                // One file system, for programs that stay on one.
                let all = try run(["find", sealed]).orThrow().output
                #expect(try run(["find", sealed, "-xdev"]).orThrow().output == all)
                try checkImages(sandbox)
                // What started through FUSE stays there.
                #expect(try way(fuse, sandbox) == "fuse")
                for mount in [fuse, sealed] { try sandbox.lamina("umount", mount) }
                #expect(try eventually { try sandbox.mounts().allSatisfy { $0.directory == sandbox.root + "/fs" } })
                #expect(try eventually { try sandbox.number("SELECT count(*) FROM sealed_use") == 0 })
            }
        }

        /// `DIRECTORY`: twelve tars in it, 0.tar to 11.tar: each has files of its own, hides some of the ones below, replaces a
        /// whole directory, and has files in directories that it does not list.
        private static let tars = """
            import io, sys, tarfile
            def add(out, name, data=None, **more):
                info = tarfile.TarInfo(name)
                info.mtime, info.mode, info.uid, info.gid = 1_500_000_000 + len(name), 0o640, 1000, 70000
                for key, value in more.items(): setattr(info, key, value)
                if data is None and info.type == tarfile.REGTYPE: info.type, info.mode = tarfile.DIRTYPE, 0o751
                if data is not None: info.size = len(data)
                out.addfile(info, io.BytesIO(data or b""))
            for number in range(12):
                with tarfile.open(f"{sys.argv[1]}/{number}.tar", "w", format=tarfile.PAX_FORMAT) as out:
                    if number == 0:
                        for name in ["etc", "etc/deep", "etc/deep/er", "opt", "var"]: add(out, name)
                        for index in range(40): add(out, f"var/f{index}", b"%d\\n" % index)
                    add(out, f"etc/deep/er/of{number}", b"layer %d\\n" % number)
                    add(out, f"var/.wh.f{number}", b"")
                    add(out, f"var/f{number + 20}", b"again %d\\n" % number)
                    if number % 3 == 2:
                        add(out, "opt")
                        add(out, "opt/.wh..wh..opq", b"")
                    add(out, f"opt/only{number}", b"o" * (number * 1000 + 1))
                    add(out, f"unlisted/{number}/x/y", b"u")
                    add(out, f"link{number}", type=tarfile.SYMTYPE, linkname=f"var/f{number}")
                    add(out, f"hard{number}", type=tarfile.LNKTYPE, linkname=f"opt/only{number}")
                    add(out, f"fifo{number}", type=tarfile.FIFOTYPE)
                    add(out, f"dev{number}", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
                    if number == 6: add(out, "link2", b"a file now")
                    if number == 7: add(out, "link3/below", b"a directory now")
                    if number == 8: add(out, ".wh.link1", b"")
            """

        @Test(
            "a chain of twelve layers with whiteouts, opaque and unlisted directories is what containerd unpacks of it")
        func twelve() throws {
            try Self.with { sandbox in
                let tars = try sandbox.mountPoint("tars")
                try run(["python3", "-c", Self.tars, tars]).orThrow()
                let layout = sandbox.directory + "/twelve.oci"
                try LayeredImages.make(layout, of: (0..<12).map { "\(tars)/\($0).tar" })
                let reference = "oci:\(layout):latest"
                _ = try sandbox.serve()
                let fuse = try sandbox.mount(reference, at: "fuse")
                let sealed = try sandbox.mountPoint("sealed")
                try sandbox.lamina("mount", "--sealed", reference, sealed)
                try TreeOracle.expectSame(fuse, at: sealed, in: sandbox, keepsFractions: true, "FUSE against sealed")
                let plain = try sandbox.mountPoint("plain")
                for number in 0..<12 { try run(["mkdir", "\(plain)/\(number)"]).orThrow() }
                let differences = try PlainImages.differences(fromUmoci: layout, at: sealed, in: sandbox)
                // umoci leaves out nothing, but makes unlisted directories again in each layer, with the time of unpacking.
                let lines = (differences ?? "").split(separator: "\n").filter { !$0.contains("unlisted") }
                #expect(lines.allSatisfy { !$0.contains("bytes") && !$0.contains("missing") }, "\(lines)")
                try checkImages(sandbox)
            }
        }

        @Test(
            "an image of which everything has landed is sealed in the background, and the next mount is the kernel's alone"
        )
        func background() throws {
            try Self.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                _ = try sandbox.serve()
                try sandbox.lamina("pull", reference)
                try waitForSeal(sandbox)
                let read = try sandbox.mount(reference, at: "read")
                #expect(try way(read, sandbox) == "sealed")
                try TreeOracle.expectSame(image.tree, at: read, in: sandbox, ignoringDirectoryTimes: true)
                #expect(try sandbox.opens().passthrough == 0)
                let status = try sandbox.lamina("status").output
                #expect(status.contains("server needed") && status.contains("sealed"), "\(status)")
                // Writable, above it.
                let (write, upper) = (try sandbox.mountPoint("write"), try sandbox.mountPoint("upper"))
                try sandbox.lamina("mount", "--rw", upper, reference, write)
                #expect(try way(write, sandbox) == "sealed")
                try run([
                    "/bin/sh", "-c", "echo more >>\"$1\"/middle; mv \"$1\"/larger \"$1\"/moved; chmod 700 \"$1\"/files",
                    "sh", write,
                ])
                .orThrow()
                // Copied up as a whole, without anything that only lamina's kernel mounts know.
                #expect(try run(["stat", "-c", "%s", upper + "/moved"]).orThrow().output == "\(24 << 20)\n")
                #expect(try run(["getfattr", "-m", "-", "-d", upper + "/moved"]).output.contains("metacopy") == false)
                #expect(try run(["cmp", upper + "/moved", image.tree + "/larger"]).exitCode == 0)
                for mount in [read, write] { try sandbox.lamina("umount", mount) }
            }
        }

        @Test("with only sealed mounts the server ends, they read on without the binary, and umount leaves nothing")
        func withoutServer() throws {
            try Self.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let program = sandbox.directory + "/lamina-copy"
                try run(["cp", Requirements.lamina, program]).orThrow()
                try sandbox.lamina("seal", reference)
                let mount = try sandbox.mountPoint("mnt")
                // Any server for it ends by itself.
                let mounted = try Child(
                    [program, "mount", reference, mount, "--root", sandbox.root],
                    environment: ["LAMINA_SEAL_MODE": "auto"])
                try mounted.wait().orThrow()
                #expect(eventually(seconds: 40) { processes(withArgumentContaining: sandbox.directory).isEmpty })
                unlink(program)
                #expect(try !sandbox.mounts().contains { $0.directory == sandbox.root + "/fs" })
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox, ignoringDirectoryTimes: true)
                // The next server does not touch it, neither at its start nor at its end.
                let server = try sandbox.serve()
                #expect(try way(mount, sandbox) == "sealed")
                server.send(SIGTERM)
                server.wait(seconds: 30)
                #expect(try run(["cmp", mount + "/larger", image.tree + "/larger"]).exitCode == 0)
                // From a mount namespace that does not have it, nothing ends, and the answer says where it is.
                let blind = try run([
                    "unshare", "--mount", "--propagation", "private", "sh", "-c",
                    "umount \"$2\"; exec \"$1\" umount --root \"$3\" \"$2\"",
                    "sh", Requirements.lamina, mount, sandbox.root,
                ])
                #expect(blind.exitCode != 0 && blind.errors.contains("another mount namespace"), "\(blind)")
                #expect(try way(mount, sandbox) == "sealed")
                #expect(try run(["cmp", mount + "/larger", image.tree + "/larger"]).exitCode == 0)
                try sandbox.lamina("umount", mount)
                #expect(try sandbox.mounts().isEmpty)
                #expect(try sandbox.number("SELECT count(*) FROM sealed_use") == 0)
            }
        }

        @Test("readers notice nothing of SIGKILL to server and supervisor")
        func killed() throws {
            try Self.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                try sandbox.lamina("seal", reference)
                var supervised = try sandbox.supervise()
                let mount = try sandbox.mount(reference)
                #expect(try way(mount, sandbox) == "sealed")
                let reader = try sandbox.startProgram([
                    "/bin/sh", "-c",
                    "while [ ! -e \"$3\" ]; do diff -r --no-dereference \"$1\" \"$2\" || exit 1; done", "sh",
                    image.tree, mount,
                    sandbox.directory + "/stop",
                ])
                for _ in 0..<3 {
                    // The supervisor first: it would start another server.
                    let server = try #require(supervised.server)
                    supervised.child.send(SIGKILL)
                    supervised.child.wait(seconds: 20)
                    kill(server, SIGKILL)
                    #expect(
                        eventually(seconds: 30) {
                            processes(withArgumentContaining: "serve").allSatisfy { !isOurs($0, sandbox) }
                        })
                    usleep(300_000)
                    supervised = try sandbox.supervise()
                    #expect(try way(mount, sandbox) == "sealed")
                }
                _ = try File(sandbox.directory + "/stop", O_CREAT | O_WRONLY)
                let outcome = reader.wait(seconds: 60)
                #expect(outcome.exitCode == 0, "\(outcome)")
                try sandbox.lamina("umount", mount)
                #expect(try eventually { try sandbox.mounts().allSatisfy { $0.directory == sandbox.root + "/fs" } })
            }
        }

        private func isOurs(_ process: pid_t, _ sandbox: Sandbox) -> Bool {
            ((try? readFile("/proc/\(process)/cmdline")).map { String(decoding: $0, as: UTF8.self) } ?? "").contains(
                sandbox.root)
        }

        @Test("after a restart of the machine an image is mounted sealed again, with no registry to be reached")
        func reboot() throws {
            try Self.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("seal", reference)
                let server = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                #expect(try way(mount, sandbox) == "sealed")
                server.send(SIGKILL)
                server.wait(seconds: 20)
                proxy.stop()
                // What a restart leaves: no mounts, another boot.
                for mount in try sandbox.mounts().reversed() { try Mount.unmount(mount.directory, detach: true) }
                try run([
                    "sqlite3", sandbox.root + "/index.db",
                    "UPDATE store SET boot = 'before'; UPDATE sealed_mount SET boot = 'before'; UPDATE session SET boot = 'before'",
                ]).orThrow()
                _ = try sandbox.serve()
                #expect(try way(mount, sandbox) == "sealed")
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox, ignoringDirectoryTimes: true)
                #expect(try sandbox.number("SELECT count(*) FROM sealed_mount") == 1)
                try sandbox.lamina("umount", mount)
            }
        }

        @Test(
            "max_bytes, rm and gc take nothing that a sealed mount shows, and check --repair brings back what was taken"
        )
        func space() throws {
            try Self.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let other = "oci:\(Fixtures.layout("estargz"))"
                let config = sandbox.directory + "/limit.toml"
                try write("[store]\nmax_bytes = \(20 << 20)\n".utf8, to: config)
                try sandbox.lamina("seal", reference)
                let first = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                first.send(SIGTERM)
                first.wait(seconds: 30)
                let server = try sandbox.start(["serve", "--config", config])
                #expect(eventually { (try? sandbox.status().server?.pid) == server.pid })
                #expect(try way(mount, sandbox) == "sealed")
                let status = try sandbox.lamina("status", "--config", config).output
                #expect(status.contains("cannot be kept"), "\(status)")
                // Too much for the limit; what is mounted stays.
                _ = try sandbox.attempt("pull", other, "--config", config)
                #expect(try sandbox.attempt("rm", reference).exitCode == 1)
                try sandbox.lamina("gc")
                try TreeOracle.expectSame(
                    image.tree, at: mount, in: sandbox, ignoringDirectoryTimes: true, "after eviction")
                // A file that was lost, and one that was changed.
                let files = sandbox.backingFiles().filter { (try? File($0, O_RDONLY).size()) == 24 << 20 }
                let lost = try #require(files.first)
                unlink(lost)
                let middle = try #require(sandbox.backingFiles().first { (try? File($0, O_RDONLY).size()) == 3 << 20 })
                let changed = try File(middle, O_RDWR)
                try [UInt8](repeating: 0xEE, count: 4096).withUnsafeBytes { try changed.write($0, at: 8192) }
                server.send(SIGTERM)
                server.wait(seconds: 30)
                _ = try sandbox.attempt("check", "--read-data", "--repair", seconds: 240)
                try TreeOracle.expectSame(
                    image.tree, at: mount, in: sandbox, ignoringDirectoryTimes: true, "after repair")
                #expect(sandbox.backingFiles().allSatisfy { !$0.hasSuffix(".aside") })
                try sandbox.lamina("umount", mount)
                // And then it is garbage like anything else.
                try sandbox.lamina("rm", reference)
                _ = try sandbox.attempt("rm", other)
                #expect(
                    sandbox.backingFiles().isEmpty
                        && names(in: sandbox.root + "/sealed").allSatisfy { !$0.hasSuffix(".erofs") })
            }
        }

        @Test(
            "with mode off, or where it cannot work, mounts go by way of FUSE, and status, doctor and metrics say why")
        func off() throws {
            try Self.with { sandbox in
                let reference = "oci:\(Fixtures.layout("estargz"))"
                sandbox.seals = false
                let server = try sandbox.serve()
                try sandbox.lamina("pull", reference)
                let mount = try sandbox.mount(reference)
                #expect(try way(mount, sandbox) == "fuse")
                let seal = try #require(try sandbox.status().server?.seal)
                #expect(!seal.on && seal.reason?.contains("off") == true)
                #expect(try sandbox.lamina("status").output.contains("[seal] mode"))
                let refused = try sandbox.attempt("mount", "--sealed", reference, sandbox.mountPoint("other"))
                #expect(refused.exitCode != 0 && refused.errors.contains("[seal] mode"), "\(refused)")
                let metrics = try run([
                    "curl", "-s", "--unix-socket", sandbox.root + "/control.sock", "http://x/metrics",
                ]).output
                #expect(metrics.contains("lamina_seal_possible 0") && metrics.contains("lamina_seal_off_info{reason="))
                #expect(try sandbox.lamina("doctor").output.contains("sealed images"))
                server.send(SIGTERM)
                server.wait(seconds: 30)
            }
        }
    }
}
