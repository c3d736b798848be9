import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("what the commands print")
    struct Printed {
        /// Holds output against Python's reader of JSON.
        private static func expectJSON(
            _ text: String, _ sandbox: Sandbox, _ location: SourceLocation = #_sourceLocation
        ) throws {
            let file = sandbox.directory + "/output.json"
            try write(text.utf8, to: file)
            let outcome = try run(["python3", "-m", "json.tool", file])
            #expect(
                outcome.exitCode == 0 && !text.isEmpty, "\(outcome.errors)\n\(text.prefix(400))",
                sourceLocation: location)
        }

        @Test("with --json, every command that prints facts prints JSON, with a server and without one")
        func json() throws {
            try Sandbox.with { sandbox in
                let image = "oci:\(Fixtures.layout("estargz-64k"))"
                let copy = "oci:\(sandbox.directory)/copy:x"
                let mount = try sandbox.mountPoint()
                let program = try run([Requirements.lamina, "version", "--json"]).orThrow()
                try Self.expectJSON(program.output, sandbox)
                func json(_ arguments: String..., location: SourceLocation = #_sourceLocation) throws {
                    let outcome = try sandbox.start(arguments + ["--json"]).wait().orThrow()
                    try Self.expectJSON(outcome.output, sandbox, location)
                }
                try json("doctor")
                try json("convert", image, copy)
                try json("pull", "--lazy", image)
                try json("pull", copy)
                func jsonOfAll() throws {
                    try json("ls")
                    try json("ls", "-l")
                    try json("ls", image)
                    try json("status")
                    try json("pull", image)
                }
                try jsonOfAll()
                try json("mount", image, mount)
                try jsonOfAll()
                try json("umount", mount)

                let watch = try sandbox.start(["status", "--watch", "--json"])
                #expect(eventually { watch.outputSoFar.split(separator: "\n").count >= 2 })
                watch.send(SIGINT)
                #expect(watch.wait(seconds: 5).exitCode == 0)
                for line in watch.outputSoFar.split(separator: "\n") { try Self.expectJSON(String(line), sandbox) }
            }
        }

        @Test("exit codes are those that the help tells: 64, 69, 75, 78, 1")
        func exitCodes() throws {
            try Sandbox.with { sandbox in
                let directory = try sandbox.mountPoint()
                #expect(try sandbox.attempt("pull").exitCode == 64)
                #expect(try sandbox.attempt("pull", "127.0.0.1:1/UPPER").exitCode == 64)
                #expect(
                    try sandbox.attempt("pull", "--platform", "?", "oci:\(Fixtures.layout("estargz"))").exitCode == 64)
                #expect(try sandbox.attempt("umount", directory).exitCode == 69)
                #expect(try sandbox.attempt("pull", "oci:/nowhere").exitCode == 1)
                #expect(try sandbox.attempt("ls", "oci:/nowhere").exitCode == 1)
                // Nobody listens at port 1.
                #expect(try sandbox.attempt("pull", "127.0.0.1:1/a:b", seconds: 120).exitCode == 75)
                try write("[fuse]\npassthrough = 3\n".utf8, to: sandbox.directory + "/bad.toml")
                #expect(try sandbox.attempt("status", "--config", sandbox.directory + "/bad.toml").exitCode == 78)
                #expect(try sandbox.attempt("status", "-config", sandbox.directory + "/none.toml").exitCode == 78)
            }
        }

        @Test("off a terminal, progress is one line a step on standard error, and standard output has the facts alone")
        func plainProgress() throws {
            try Sandbox.with { sandbox in
                let outcome = try sandbox.lamina("pull", "oci:\(Fixtures.layout("estargz"))")
                #expect(!outcome.errors.contains("\r") && !outcome.errors.contains("\u{1B}"))
                #expect(outcome.errors.contains("resolving") && outcome.errors.contains("indexing 3 layers"))
                #expect(outcome.output.hasPrefix("oci:") && outcome.output.contains("sha256:"))
            }
        }
    }
}
