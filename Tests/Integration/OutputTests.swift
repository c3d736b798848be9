import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("what the commands print")
    struct Printed {
        /// Checks output with Python's JSON reader.
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
                try json("config", "show", "--origin")
                try json("config", "check")
                try json("debug", "bundle", "--output", "-")
                try json("convert", image, copy)
                try json("pull", "--lazy", image)
                try json("pull", copy)
                func jsonOfAll() throws {
                    try json("ls")
                    try json("ls", "-l")
                    try json("ls", image)
                    try json("status")
                    try json("inspect", image)
                    try json("inspect", image, "/etc/hello")
                    try json("sql", "SELECT * FROM image_status")
                    try json("pull", image)
                }
                try jsonOfAll()
                try json("mount", image, mount)
                try jsonOfAll()
                try json("umount", mount)

                let watch = try sandbox.start(["status", "--watch", "--json"])
                #expect(eventually { watch.outputSoFar.split(separator: "\n").count >= 2 })
                watch.send(SIGINT)
                #expect(watch.wait(seconds: 30).exitCode == 0)
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
                // No process listens at port 1.
                #expect(try sandbox.attempt("pull", "127.0.0.1:1/a:b", seconds: 120).exitCode == 75)
                try write("[fuse]\npassthrough = 3\n".utf8, to: sandbox.directory + "/bad.toml")
                #expect(try sandbox.attempt("status", "--config", sandbox.directory + "/bad.toml").exitCode == 78)
                #expect(try sandbox.attempt("status", "-config", sandbox.directory + "/none.toml").exitCode == 78)
            }
        }

        @Test(
            "with --json an error is one line of JSON with its exit code on standard error, and nothing is printed else"
        )
        func jsonErrors() throws {
            struct Document: Decodable {
                struct Failure: Decodable {
                    var exitCode: Int32
                    var message: String
                }
                var error: Failure
            }
            try Sandbox.with { sandbox in
                let directory = try sandbox.mountPoint()
                for (words, code) in [
                    (["pull"], 64), (["umount", directory], 69), (["pull", "oci:/nowhere"], 1),
                    (["ls", "oci:/nowhere"], 1),
                    (["status", "--set", "fuse.merge_worker_count=0"], 78), (["inspect", "sha256:xyz"], 64),
                ] as [([String], Int32)] {
                    let outcome = try sandbox.start(words + ["--json"]).wait()
                    #expect(outcome.exitCode == code && outcome.output == "", "\(words): \(outcome)")
                    #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
                    let document: Document = try decoded(outcome.errors)
                    #expect(document.error.exitCode == code && document.error.message.count > 10, "\(outcome)")
                }
            }
        }

        @Test(
            "inspect and sql look into a store of a pull; sql reads only, and every question of the documentation is answered"
        )
        func inspected() throws {
            try Sandbox.with { sandbox in
                let image = "oci:\(Fixtures.layout("estargz"))"
                try sandbox.lamina("pull", image)
                let layers = try sandbox.sql("SELECT digest FROM layer_status ORDER BY digest")
                let text = try sandbox.lamina("inspect", image).output
                for layer in layers { #expect(text.contains(layer)) }
                #expect(text.contains("complete"))
                let file = try sandbox.lamina("inspect", image, "etc/hello").output
                let digest = try #require(
                    file.split(separator: "\n").first { $0.hasPrefix("content") }?.split(separator: " ").last)
                let content = try sandbox.lamina("inspect", String(digest.prefix(20))).output
                #expect(content.contains("/etc/hello") && content.contains("merged") && content.contains(image))
                let layer = try sandbox.lamina("inspect", String(try #require(layers.first).prefix(20))).output
                #expect(layer.contains("estargz") && layer.contains("table of contents"))
                #expect(try sandbox.attempt("inspect", image, "/none").exitCode == 1)
                #expect(try sandbox.attempt("inspect", "sha256:00").exitCode == 64)

                let answer = try sandbox.lamina("sql", "SELECT reference, state FROM image_status").output
                #expect(answer == "reference|state\n\(image)|complete\n", "\(answer)")
                let writing = try sandbox.attempt("sql", "DELETE FROM image")
                #expect(writing.exitCode != 0 && writing.errors.contains("readonly"), "\(writing)")
                #expect(try sandbox.number("SELECT count(*) FROM image_status") == 1)

                let package = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
                for document in ["docs/inspecting.md", "schema/README.md"] {
                    let text = try String(decoding: readFile("/\(package)/\(document)"), as: UTF8.self)
                    let blocks = text.split(separator: "```sql\n").dropFirst()
                    #expect(blocks.count >= 8, "\(document)")
                    for block in blocks {
                        let query = String(
                            block.prefix(upTo: block.firstRange(of: "```")?.lowerBound ?? block.endIndex))
                        #expect(try sandbox.attempt("sql", query).exitCode == 0, "\(query)")
                    }
                }
            }
        }

        @Test("NO_COLOR takes the colours from a terminal's output, and without it they are there")
        func noColor() throws {
            try Sandbox.with { sandbox in
                func shown(_ environment: String) throws -> String {
                    // script(1) is a terminal for what it runs. NO_COLOR may be set where the tests run.
                    let command =
                        "env -u NO_COLOR \(environment) TERM=xterm \(Requirements.lamina) doctor --root \(sandbox.root)"
                    return try run(["script", "-qec", command, "/dev/null"]).output
                }
                let (plain, without, empty) = try (shown(""), shown("NO_COLOR=1"), shown("NO_COLOR="))
                #expect(plain.contains("\u{1B}[") && empty.contains("\u{1B}["))
                #expect(!without.contains("\u{1B}[") && without.contains("kernel"))
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
