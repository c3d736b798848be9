import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("the server, and who has the store")
    struct Server {
        @Test("while one pull has the store, a second one says who holds it, and ends with 75")
        func locked() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                var faults = Faults()
                faults.bytesPerSecond = 1 << 20
                proxy.faults = faults
                let first = try sandbox.start(["pull", image.reference(proxy)])
                #expect(eventually { proxy.sentByteCount(of: image.layer) > 1 << 20 })
                for _ in 0..<2 {
                    let second = try sandbox.attempt("pull", "oci:\(Fixtures.layout("estargz"))")
                    #expect(second.exitCode == 75, "\(second)")
                    #expect(second.errors.contains("in use by lamina pull, process \(first.pid)"), "\(second.errors)")
                }
                // Reading takes no lock.
                #expect(try sandbox.attempt("ls").exitCode == 0)
                #expect(try sandbox.attempt("status").exitCode == 0)
                proxy.faults = Faults()
                try first.wait(seconds: 60).orThrow()
                try sandbox.lamina("pull", "oci:\(Fixtures.layout("estargz"))")
            }
        }

        @Test("with a server running, a pull goes through it, with the same output")
        func throughServer() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                let server = try sandbox.serve()
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(report.complete && report.landedBytes == image.byteCount)
                #expect(try sandbox.status().server?.fetchedBytes ?? 0 > image.layerSize / 2)
                #expect(try sandbox.status().server?.pid == server.pid)
                let failed = try sandbox.attempt("pull", "\(try sandbox.proxy().host)/nothing:here")
                #expect(failed.exitCode == 1, "\(failed)")
                #expect(failed.errors.contains("nothing"))
                server.send(SIGINT)
                // 130 is for commands that were interrupted; a server that is told to end has done its work.
                let end = server.wait(seconds: 20)
                #expect(end.exitCode == 0 || end.exitCode == 130, "\(end)")
                #expect(try sandbox.mounts().isEmpty)
                #expect(access(sandbox.root + "/control.sock", F_OK) != 0)

                try sandbox.lamina("pull", reference)
            }
        }

        @Test("Ctrl-C of a pull that goes through the server ends the pull and not the server")
        func interruptedThroughServer() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                let server = try sandbox.serve()
                var faults = Faults()
                faults.bytesPerSecond = 1 << 20
                proxy.faults = faults
                let pull = try sandbox.start(["pull", reference])
                #expect(eventually { proxy.sentByteCount(of: image.layer) > 2 << 20 })
                pull.send(SIGINT)
                let outcome = pull.wait(seconds: 30)
                #expect(outcome.exitCode == 130, "\(outcome)")
                #expect(server.isRunning)
                proxy.faults = Faults()
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(report.complete)
            }
        }

        @Test(
            "lamina mount leaves a server that ends after the last umount, also by umount(8)", arguments: [true, false])
        func endsWithLastMount(_ byLamina: Bool) throws {
            try Sandbox.with { sandbox in
                let image = "oci:\(Fixtures.layout("estargz"))"
                let first = try sandbox.mount(image, at: "first")
                let second = try sandbox.mount("oci:\(Fixtures.layout("estargz-64k"))", at: "second")
                let third = try sandbox.mount(image, at: "third")
                let pid = try #require(try sandbox.status().server?.pid)
                func end(_ mount: String) throws {
                    if byLamina { try sandbox.lamina("umount", mount) } else { try run(["umount", mount]).orThrow() }
                }
                try end(first)
                try end(third)
                usleep(2_500_000)
                #expect(isAlive(pid), "something is mounted still")
                try run(["cat", "\(second)/etc/hello"]).orThrow()
                #expect(try sandbox.status().mounts.map(\.target).contains(second))
                try end(second)
                #expect(eventually { !isAlive(pid) }, "the server stays with nothing mounted")
                #expect(try sandbox.mounts().isEmpty)
                #expect(try sandbox.status().mounts.isEmpty)

                // And the next mount starts another server.
                _ = try sandbox.mount(image, at: "first")
                #expect(try sandbox.status().server?.pid != pid)
            }
        }

        @Test("mounting twice at one directory, or at none, is refused; so is umount of what is no mount, or in use")
        func refusals() throws {
            try Sandbox.with { sandbox in
                let image = "oci:\(Fixtures.layout("estargz"))"
                let mount = try sandbox.mount(image)
                #expect(try sandbox.attempt("mount", image, mount).exitCode == 1)
                #expect(try sandbox.attempt("mount", image, sandbox.directory + "/nowhere").exitCode == 1)
                let none = try sandbox.attempt("umount", try sandbox.mountPoint("none"))
                #expect(none.exitCode == 1 && none.errors.contains("none"), "\(none)")
                let user = try sandbox.startProgram(["sleep", "60"])
                let holder = try sandbox.startProgram(["sh", "-c", "exec sleep 60 <\"$1\"", "sh", "\(mount)/etc/hello"])
                #expect(eventually { File.linkTarget(of: "/proc/\(holder.pid)/fd/0") == "\(mount)/etc/hello" })
                let busy = try sandbox.attempt("umount", mount)
                #expect(busy.exitCode == 1 && busy.errors.contains("in use"), "\(busy)")
                for child in [user, holder] {
                    child.send(SIGKILL)
                    child.wait()
                }
                try sandbox.lamina("umount", mount)
            }
        }

        @Test("with the registry gone after a full pull, mount, read and restart work")
        func registryGone() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("pull", reference)
                proxy.stop()
                let first = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                first.send(SIGTERM)
                #expect(first.wait(seconds: 20).exitCode == 0)
                let second = try sandbox.serve()
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                second.send(SIGKILL)
                second.wait()
                let other = try sandbox.mount(reference, at: "other")
                try TreeOracle.expectSame(image.tree, at: other, in: sandbox)
            }
        }

        @Test("with the registry gone before, a read is an error and no hang, and goes on when the registry is back")
        func registryAway() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("pull", "--lazy", reference)
                let mount = try sandbox.mount(reference)
                var faults = Faults()
                faults.status = 503
                proxy.faults = faults
                let failed = try run(["cat", "\(mount)/middle"], seconds: 100)
                #expect(failed.exitCode == 1 && failed.errors.contains("Input/output error"), "\(failed)")
                proxy.faults = Faults()
                try run(["cmp", "\(mount)/middle", "\(image.tree)/middle"], seconds: 30).orThrow()
            }
        }
    }
}
