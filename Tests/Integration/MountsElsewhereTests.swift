import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("mounts that live on elsewhere", Requirements.tools("unshare:util-linux", "nsenter:util-linux"))
    struct MountsElsewhere {
        private static let image = "oci:\(Fixtures.layout("estargz"))"

        /// Mounts an image, with a server that ends when nothing is mounted: the mount point and the server.
        private func mounted(_ sandbox: Sandbox, at name: String = "mnt") throws -> (mount: String, server: pid_t) {
            let mount = try sandbox.mount(Self.image, at: name)
            return (mount, try #require(try sandbox.status().server?.pid))
        }

        /// Waits until the server has noticed that the kernel still needs it, and has removed the store's own mount.
        private func expectHeld(_ sandbox: Sandbox, _ server: pid_t, times: Int = 1) throws {
            let isHeld = try eventually(seconds: 60) {
                let log = String(decoding: try readFile(sandbox.root + "/server.log"), as: UTF8.self)
                return log.split(separator: "\n").count { $0.contains("the kernel needs the file system still") }
                    >= times
            }
            #expect(isHeld && isAlive(server))
        }

        private func expectEnd(_ sandbox: Sandbox, _ server: pid_t) throws {
            #expect(eventually(seconds: 60) { !isAlive(server) })
            #expect(try sandbox.mounts().filter { $0.type.contains("lamina") || $0.type == "overlay" }.isEmpty)
            #expect(try sandbox.sql("SELECT * FROM session").isEmpty)
        }

        @Test(
            "the server answers for an image after its umount, as long as another namespace has it, and ends with that",
            arguments: [Holder.Way.private, .chroot, .pivot, .bind])
        func elsewhere(_ way: Holder.Way) throws {
            try Sandbox.with { sandbox in
                let (mount, server) = try mounted(sandbox)
                let holder = try Holder(way, of: mount, in: sandbox)
                try sandbox.lamina("umount", mount)
                try expectHeld(sandbox, server)
                #expect(try holder.read() > 1000)
                try holder.end()
                try expectEnd(sandbox, server)
            }
        }

        @Test("a bind mount in the same namespace keeps the image too, and mounting again goes to the same server")
        func bind() throws {
            try Sandbox.with { sandbox in
                let (mount, server) = try mounted(sandbox)
                let other = try sandbox.mountPoint("other")
                try run(["mount", "--bind", mount, other]).orThrow()
                try sandbox.lamina("umount", mount)
                try expectHeld(sandbox, server)
                try run(["grep", "-rc", "", other + "/etc"]).orThrow()
                try sandbox.lamina("mount", Self.image, mount)
                #expect(try sandbox.status().server?.pid == server)
                try run(["cat", mount + "/etc/hello"]).orThrow()
                try sandbox.lamina("umount", mount)
                try expectHeld(sandbox, server, times: 2)
                try run(["umount", other]).orThrow()
                try expectEnd(sandbox, server)
            }
        }

        @Test(
            "what is mounted elsewhere stays in the store, whatever is removed and collected, and goes when that has ended"
        )
        func garbage() throws {
            try Sandbox.with { sandbox in
                let (mount, server) = try mounted(sandbox)
                let other = try sandbox.mountPoint("other")
                try run(["mount", "--bind", mount, other]).orThrow()
                let holder = try Holder(.pivot, of: mount, in: sandbox)
                try sandbox.lamina("umount", mount)
                try sandbox.lamina("rm", Self.image)
                try sandbox.lamina("gc")
                try run(["grep", "-rc", "", other + "/etc"]).orThrow()
                try run(["umount", other]).orThrow()
                try sandbox.lamina("gc")
                #expect(try holder.read() > 1000)
                try holder.end()
                try expectEnd(sandbox, server)
                try sandbox.lamina("gc")
                #expect(sandbox.backingFiles().isEmpty)
            }
        }

        @Test("a process that has a file open after umount -l can read on, and then the server ends")
        func lazily() throws {
            try Sandbox.with { sandbox in
                let (mount, server) = try mounted(sandbox)
                let directory = try File(mount + "/etc", O_RDONLY | O_DIRECTORY)
                try run(["umount", "-l", mount]).orThrow()
                try expectHeld(sandbox, server)
                try run([
                    "find", "/proc/\(getpid())/fd/\(directory.descriptor)/", "-type", "f", "-exec", "cat", "{}", "+",
                ]).orThrow()
                close(dup2(0, directory.descriptor))
                try expectEnd(sandbox, server)
            }
        }

        @Test("namespaces may end in any order", arguments: [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]])
        func order(_ order: [Int]) throws {
            try Sandbox.with { sandbox in
                let (mount, server) = try mounted(sandbox)
                let ways: [Holder.Way] = [.private, .pivot, .bind]
                let holders = try ways.enumerated().map {
                    try Holder($1, of: mount, in: sandbox, name: "number\($0)")
                }
                try sandbox.lamina("umount", mount)
                try expectHeld(sandbox, server)
                for number in order {
                    #expect(isAlive(server))
                    #expect(try holders[number].read() > 1000)
                    try holders[number].end()
                }
                try expectEnd(sandbox, server)
            }
        }

        @Test("where mounts propagate an umount ends all of them", arguments: [Holder.Way.slave, .shared])
        func propagated(_ way: Holder.Way) throws {
            try Sandbox.with { sandbox in
                let shared = try sandbox.mountPoint("shared")
                try run(["mount", "--bind", shared, shared]).orThrow()
                try run(["mount", "--make-shared", shared]).orThrow()
                // The store's own mount must propagate too: otherwise the namespace would keep it.
                try createDirectories(sandbox.root)
                try run(["mount", "--bind", sandbox.root, sandbox.root]).orThrow()
                try run(["mount", "--make-shared", sandbox.root]).orThrow()
                let (mount, server) = try mounted(sandbox, at: "shared/mnt")
                let holder = try Holder(way, of: mount, in: sandbox)
                try sandbox.lamina("umount", mount)
                #expect(eventually(seconds: 60) { !isAlive(server) })
                #expect(try holder.read() == 0)
                try holder.end()
            }
        }

        @Test("the server is killed while only another namespace has its mount: the next one goes on with it")
        func killed() throws {
            try Sandbox.with { sandbox in
                let (mount, server) = try mounted(sandbox)
                let holder = try Holder(.pivot, of: mount, in: sandbox)
                try sandbox.lamina("umount", mount)
                try expectHeld(sandbox, server)
                kill(server, SIGKILL)
                #expect(eventually(seconds: 60) { !isAlive(server) })
                #expect(try holder.read() > 1000)
                let next = try #require(try sandbox.status().server?.pid)
                #expect(next != server)
                try holder.end()
                try expectEnd(sandbox, next)
            }
        }
    }
}
