import FoundationEssentials
import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// The layers of `Tests/Fixtures/hostile`, which `make.py` there makes; each is pulled and mounted by the real executable.
    @Suite("images that mean harm")
    struct Hostile {
        /// The expected result for a layer: see make.py.
        struct Case: Decodable {
            var name: String
            var outcome: String
            var words: [String]
            var paths: [String]
            var toc: String?
        }

        static let directory = Fixtures.directory + "/hostile"
        /// In seconds: a run that takes longer hangs.
        static let patience = 10.0

        private static func cases(_ directory: String) throws -> [Case] {
            try JSONDecoder().decode([Case].self, from: Data(readFile(directory + "/cases.json")))
        }

        @Test(
            "every one is refused in words, or does no harm: under 512 MiB, within 10 s, and nothing is written outside"
        )
        func corpus() throws {
            try Sandbox.with { sandbox in
                let cases = try Self.cases(Self.directory)
                #expect(cases.count > 90)
                let limit = try MemoryLimit(bytes: 512 << 20)
                for hostile in cases { try Self.run(hostile, Self.directory, limit, sandbox) }
                // Only the store, the layouts and the mount point were written.
                #expect(Set(names(in: sandbox.directory)) == ["store", "layout", "mnt"])
                #expect(access("/etc/evil", F_OK) != 0 && access("/evil", F_OK) != 0)
                #expect(try sandbox.sql("PRAGMA integrity_check") == ["ok"])
            }
        }

        @Test("ten million entries, and a table of contents of 10 GiB in 10 MiB, are refused by their size")
        func large() throws {
            try Sandbox.with { sandbox in
                let directory = sandbox.directory + "/large"
                try makeLarge(directory)
                let limit = try MemoryLimit(bytes: 512 << 20)
                let cases = try Self.cases(directory)
                #expect(cases.count == 2)
                for hostile in cases {
                    let outcome = try Self.run(hostile, directory, limit, sandbox)
                    #expect(outcome.errors.contains("over its limit"), "\(outcome)")
                }
            }
        }

        @discardableResult
        private static func run(
            _ hostile: Case, _ directory: String, _ limit: MemoryLimit, _ sandbox: Sandbox
        ) throws -> Outcome {
            let layout = sandbox.directory + "/layout"
            removeTree(layout)
            let blob = try readFile("\(directory)/\(hostile.name).blob", limit: 64 << 20)
            let toc = try hostile.toc.map { try #require(Digest(parsing: $0)) }
            let image = try HandmadeImage(layout, blob: blob, diffID: SHA256.hash([0]), tocDigest: toc)
            let pull = try limit.run(
                [Requirements.lamina, "pull", image.reference, "--root", sandbox.root], in: sandbox, seconds: patience)
            let isMounted = hostile.outcome == "mounted"
            #expect(pull.exitCode == (isMounted ? 0 : 1), "\(hostile.name): \(pull)")
            if !isMounted { #expect(pull.errors.contains("lamina: "), "\(hostile.name): \(pull)") }
            for word in hostile.words { #expect(pull.errors.contains(word), "\(hostile.name): \(pull)") }
            guard hostile.outcome != "refused" else {
                #expect(try sandbox.number("SELECT count(*) FROM layer WHERE digest = x'\(image.layers[0].hex)'") == 0)
                return pull
            }
            // Its files are in its own tree, and are what the layer says, or an error.
            let paths = try sandbox.sql(
                "SELECT path FROM file WHERE layer = '\(image.layers[0])' AND type <> 'directory' ORDER BY path")
            #expect(paths == hostile.paths.map { "/" + $0 }, "\(hostile.name)")
            if hostile.outcome == "unreadable" {
                let count =
                    "SELECT count(*) FROM layer_content c JOIN layer l ON l.id = c.layer JOIN content t ON t.id = c.content"
                #expect(
                    try sandbox.number(count + " WHERE l.digest = x'\(image.layers[0].hex)' AND t.state = 2") == 0,
                    "\(hostile.name)")
            }
            let mount = try sandbox.mount(image.reference)
            let walk = try sandbox.startProgram(["find", mount, "-xdev", "-printf", "%P %y\\n"]).wait(seconds: patience)
            #expect(walk.exitCode == 0, "\(hostile.name): \(walk)")
            try sandbox.lamina("umount", mount)
            return pull
        }
    }
}

private func makeLarge(_ directory: String) throws {
    try run(["python3", EndToEnd.Hostile.directory + "/make.py", "--large", directory], seconds: 300).orThrow()
}
