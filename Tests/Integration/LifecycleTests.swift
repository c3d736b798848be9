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
