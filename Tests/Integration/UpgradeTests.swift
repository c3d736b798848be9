import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("an upgrade", Requirements.passthrough)
    struct Upgrade {
        private static let image = "oci:\(Fixtures.layout("estargz"))"

        /// A copy of the program that can be replaced, as a package manager does.
        private static func install(_ sandbox: Sandbox, _ source: String = Requirements.lamina) throws -> String {
            let path = sandbox.directory + "/lamina"
            try run(["cp", source, path + ".new"]).orThrow()
            try run(["mv", path + ".new", path]).orThrow()
            return path
        }

        private static func program(of pid: pid_t) -> String {
            (try? run(["readlink", "/proc/\(pid)/exe"]).output.trimming()) ?? ""
        }

        @Test("SIGUSR2 has the program that is on disk now take over the mounts")
        func takesOver() throws {
            try Sandbox.with { sandbox in
                let program = try Self.install(sandbox)
                let supervised = try sandbox.supervise(program: program)
                let mount = try sandbox.mount(Self.image)
                let open = try File("\(mount)/etc/hello", O_RDONLY)
                let old = try #require(supervised.server)
                _ = try Self.install(sandbox)
                #expect(Self.program(of: old).hasSuffix("(deleted)"))
                supervised.child.send(SIGUSR2)
                #expect(try eventually(seconds: 20) { try supervised.isReady() && supervised.server != old })
                let new = try #require(supervised.server)
                #expect(Self.program(of: new) == program)
                #expect(supervised.takeovers == 1)
                #expect(try open.size() > 0)
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
                // And from then on that one is started.
                try supervised.killServer()
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
                #expect(try Self.program(of: #require(supervised.server)) == program)
                withExtendedLifetime(open) {}
            }
        }

        @Test("a program that cannot take over is refused, and the old server is not even asked to end")
        func refused() throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise(program: try Self.install(sandbox))
                let mount = try sandbox.mount(Self.image)
                let old = try #require(supervised.server)
                _ = try Self.install(sandbox, "/bin/false")
                supervised.child.send(SIGUSR2)
                #expect(eventually(seconds: 20) { supervised.child.errorsSoFar.contains("the upgrade is refused") })
                #expect(supervised.server == old)
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
                // It is not started after a crash either.
                try supervised.killServer()
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
            }
        }

        @Test("one that said it could and then cannot gives way to the old program again")
        func fallsBack() throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise(program: try Self.install(sandbox))
                let mount = try sandbox.mount(Self.image)
                let old = try #require(supervised.server)
                let fake = sandbox.directory + "/fake"
                try write("#!/bin/sh\ncase \"$*\" in *--check-takeover*) exit 0;; esac\nexit 78\n".utf8, to: fake)
                chmod(fake, 0o755)
                _ = try Self.install(sandbox, fake)
                chmod(sandbox.directory + "/lamina", 0o755)
                supervised.child.send(SIGUSR2)
                #expect(try eventually(seconds: 20) { try supervised.isReady() && supervised.server != old })
                #expect(supervised.child.errorsSoFar.contains("the one before it does"))
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
            }
        }

        @Test("an index of version 1 is migrated at the start, and what it holds is mounted")
        func migrates() throws {
            try Sandbox.with { sandbox in
                try sandbox.lamina("pull", Self.image)
                let first = Fixtures.directory + "/../../schema/migrations/v001-index.sql"
                try run(["python3", "-c", Scripts.firstVersion, sandbox.root + "/index.db", first]).orThrow()
                #expect(try sandbox.number("PRAGMA user_version") == 1)
                _ = try sandbox.supervise()
                let mount = try sandbox.mount(Self.image)
                try run(["cat", "\(mount)/etc/hello"]).orThrow()
                #expect(try sandbox.number("PRAGMA user_version") >= 2)
                #expect(try sandbox.number("SELECT length(init) FROM session") >= 56)
            }
        }

        @Test("an index of a newer lamina is refused with nothing touched: index, mounts and who waits for them")
        func newerIndex() throws {
            try Sandbox.with { sandbox in
                let supervised = try sandbox.supervise()
                let mount = try sandbox.mount(Self.image)
                let version = try sandbox.number("PRAGMA user_version")
                let before = try sandbox.mounts()
                try sandbox.change("PRAGMA user_version = 99")
                #expect(sandbox.attemptQuietly("serve", "--check-takeover") == 78)
                let server = try #require(supervised.server)
                kill(server, SIGKILL)
                let reader = try sandbox.startProgram(["cat", "\(mount)/etc/hello"])
                #expect(eventually(seconds: 20) { supervised.child.errorsSoFar.contains("exit code 78") })
                #expect(try sandbox.number("PRAGMA user_version") == 99)
                #expect(try sandbox.mounts() == before)
                #expect(reader.isRunning, "it waits for a server that can")
                try sandbox.change("PRAGMA user_version = \(version)")
                #expect(reader.wait(seconds: 30).exitCode == 0)
            }
        }
    }
}

extension Sandbox {
    /// Writes to the index without lamina.
    func change(_ sql: String) throws {
        try run(["sqlite3", "-cmd", ".timeout 5000", root + "/index.db", sql]).orThrow()
    }
}

extension String {
    fileprivate func trimming() -> String { String(drop { $0 == "\n" }.reversed().drop { $0 == "\n" }.reversed()) }
}
