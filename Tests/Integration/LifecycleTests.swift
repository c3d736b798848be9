import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("the end of a server, and of its mounts", Requirements.passthrough)
    struct Lifecycle {
        private static let image = "oci:\(Fixtures.layout("estargz"))"

        @Test("SIGTERM to a server leaves its mounts to the next; lamina shutdown ends all, the supervisor too")
        func leavesAndEnds() throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise()
                let mount = try sandbox.mount(Self.image)
                let hello = try File("\(mount)/etc/hello", O_RDONLY)
                let before = try Mount.all().filter { $0.directory.hasPrefix(sandbox.directory) }
                try supervised.killServer(SIGTERM)
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
                #expect(try Mount.all().filter { $0.directory.hasPrefix(sandbox.directory) } == before)
                #expect(try hello.size() > 0)
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
                try sandbox.lamina("shutdown")
                #expect(supervised.child.wait(seconds: 20).exitCode == 0)
                #expect(try sandbox.mounts().isEmpty)
                #expect(try sandbox.sql("SELECT * FROM session").isEmpty)
                #expect(sandbox.attemptQuietly("shutdown") == 69)
                withExtendedLifetime(hello) {}
            }
        }

        @Test("SIGTERM or SIGINT to the supervisor ends the server and the mounts", arguments: [SIGTERM, SIGINT])
        func supervisorEnds(_ signal: Int32) throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise()
                _ = try sandbox.mount(Self.image)
                supervised.child.send(signal)
                #expect(supervised.child.wait(seconds: 20).exitCode == 0)
                #expect(try sandbox.mounts().isEmpty)
            }
        }

        @Test(
            "SIGTERM to the supervisor at any moment of its server's start ends the mounts",
            arguments: [0, 10, 30, 60, 120])
        func supervisorEndsWhileStarting(_ milliseconds: UInt32) throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise()
                _ = try sandbox.mount(Self.image)
                kill(try #require(supervised.server), SIGKILL)
                usleep(milliseconds * 1000)
                supervised.child.send(SIGTERM)
                #expect(supervised.child.wait(seconds: 20).exitCode == 0)
                #expect(try sandbox.mounts().isEmpty)
                #expect(try sandbox.sql("SELECT * FROM session").isEmpty)
            }
        }

        @Test("SIGTERM to the supervisor while no server runs has one more started, which ends the mounts")
        func supervisorEndsBetween() throws {
            try Sandbox.with { sandbox in
                let (program, broken) = (sandbox.directory + "/program", sandbox.directory + "/broken")
                let script = "#!/bin/sh\n[ -e '\(broken)' ] && exit 1\nexec '\(Requirements.lamina)' \"$@\"\n"
                try write(script.utf8, to: program)
                chmod(program, 0o755)
                let supervised = try sandbox.supervise("--program", program)
                _ = try sandbox.mount(Self.image)
                try write([], to: broken)
                kill(try #require(supervised.server), SIGKILL)
                // The pauses are then long enough to do the rest within one.
                let isPaused = eventually(seconds: 20) {
                    supervised.child.errorsSoFar.split(separator: "\n").count { $0.contains("exit code 1") } >= 6
                }
                #expect(isPaused && supervised.server == nil)
                unlink(broken)
                supervised.child.send(SIGTERM)
                #expect(supervised.child.wait(seconds: 20).exitCode == 0)
                #expect(try sandbox.mounts().isEmpty)
                #expect(try sandbox.sql("SELECT * FROM session").isEmpty)
            }
        }

        @Test("with --unmount-on-exit SIGTERM ends the mounts, and the next server mounts the images again")
        func unmountOnExit() throws {
            try Sandbox.with { sandbox in
                let first = try sandbox.supervise("--unmount-on-exit")
                let mount = try sandbox.mount(Self.image)
                let server = try #require(first.server)
                kill(server, SIGTERM)
                #expect(first.child.wait(seconds: 20).exitCode == 0)
                #expect(try sandbox.mounts().isEmpty)
                _ = try sandbox.supervise()
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
            }
        }

        @Test("the holder dies alone: its server goes on, and ends the mounts when it ends, as nobody has them")
        func holderDies() throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise()
                let mount = try sandbox.mount(Self.image)
                let open = try File("\(mount)/etc/hello", O_RDONLY)
                let server = try #require(supervised.server)
                supervised.child.send(SIGKILL)
                supervised.child.wait()
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
                #expect(try sandbox.status().server?.pid == server)
                #expect(try open.size() > 0)
                kill(server, SIGTERM)
                #expect(eventually(seconds: 20) { !isAlive(server) })
                #expect(try sandbox.mounts().isEmpty)
                #expect(try sandbox.sql("SELECT * FROM session").isEmpty)
                withExtendedLifetime(open) {}
            }
        }

        @Test("a session whose holder died too is found at the next start: dead mounts are taken away, and made afresh")
        func lost() throws {
            try Sandbox.with { sandbox in
                let first = try sandbox.supervise()
                let mount = try sandbox.mount(Self.image)
                let open = try File("\(mount)/etc/hello", O_RDONLY)
                let server = try #require(first.server)
                first.child.send(SIGKILL)
                first.child.wait()
                kill(server, SIGKILL)
                #expect(eventually { !isAlive(server) })
                // Until then calls fail; none hangs.
                #expect(try run(["ls", sandbox.root + "/fs"], seconds: 10).exitCode != 0)
                let second = try sandbox.supervise()
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
                #expect(second.child.errorsSoFar.contains("taken away"))
                #expect(try sandbox.mounts().count == 2)
                withExtendedLifetime(open) {}
            }
        }

        @Test("a client that comes while no server is there waits for the next one instead of being refused")
        func backlog() throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise()
                for _ in 0..<5 {
                    let server = try #require(supervised.server)
                    kill(server, SIGKILL)
                    let status = try sandbox.status()
                    #expect(status.server != nil && status.server?.pid != server)
                }
            }
        }
    }
}

extension Sandbox {
    /// The exit code of a command that may fail.
    func attemptQuietly(_ words: String...) -> Int32? { try? start(words).wait(seconds: 60).exitCode }
}
