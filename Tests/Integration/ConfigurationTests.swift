import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("the configuration of a server")
    struct ServerConfiguration {
        /// As users of stargz-snapshotter have it, with small numbers.
        private static let seed = """
            http_cache_type = "memory"

            [fuse]
            passthrough = true
            merge_buffer_size = 3000000
            merge_worker_count = 2

            [directory_cache]
            direct = false
            """

        @Test("the seed configuration starts, says that direct is forced, and its values are used")
        func seed() throws {
            try Sandbox.with { sandbox in
                let file = sandbox.directory + "/config.toml"
                try write(Self.seed.utf8, to: file)
                let server = try sandbox.start(["serve", "-config", file])
                #expect(eventually(seconds: 20) { (try? sandbox.status().server?.pid) == server.pid })
                let layout = Fixtures.layout("estargz-64k")
                try sandbox.lamina("pull", "oci:\(layout)")
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                try sandbox.lamina("pull", reference)

                let merge = try #require(try sandbox.status().server?.merge)
                #expect(merge.peakJobs >= 1 && merge.peakJobs <= 2, "\(merge)")
                // Its chunks are 4 MiB, and counted together with their compressed bytes: each is more than the buffer, and
                // goes alone, except that a reader's chunk goes beside one that is fetched in the background.
                #expect(merge.peakBytes > 3_000_000 && merge.peakBytes < 17 << 20, "\(merge)")
                let log = server.errorsSoFar
                #expect(log.contains("\(file):9: directory_cache.direct = false has no effect"), "\(log)")
                let told = log.split(separator: "\n").filter { $0.contains("http_cache_type has no effect: ") }
                #expect(told.count == 1, "\(log)")
                #expect(try sandbox.status().server?.passthrough == true)
            }
        }

        @Test(
            "zero, negative, misspelt and mistyped values are errors with file, line and the nearest key, and end with 78",
            arguments: [
                ("[fuse]\nmerge_buffer_size = 0", 2, "fuse.merge_buffer_size must be 1 or more, is 0"),
                ("[fuse]\n\nmerge_worker_count = -3", 3, "fuse.merge_worker_count must be 1 or more, is -3"),
                ("[fuse]\nmerge_worker_cuont = 3", 2, "did you mean fuse.merge_worker_count?"),
                ("[fuse]\nmerge_buffer_size = \"400\"", 2, "fuse.merge_buffer_size must be an integer, is a string"),
            ])
        func wrong(text: String, line: Int, message: String) throws {
            try Sandbox.with { sandbox in
                let file = sandbox.directory + "/config.toml"
                try write(text.utf8, to: file)
                let outcome = try sandbox.attempt("serve", "-config", file, seconds: 20)
                #expect(outcome.exitCode == 78, "\(outcome)")
                #expect(outcome.errors.contains("\(file), line \(line): "), "\(outcome)")
                #expect(outcome.errors.contains(message), "\(outcome)")
                #expect(try sandbox.attempt("config", "check", "-config", file).exitCode == 78)
            }
        }

        @Test("names are asked for again after entry_timeout seconds, and never without one", arguments: [0, 1])
        func timeouts(seconds: Int) throws {
            struct Report: Decodable {
                struct Server: Decodable { var opens: Opens }
                struct Opens: Decodable { var lookups: Int }
                var server: Server
            }
            try Sandbox.with { sandbox in
                func lookups() throws -> Int {
                    let report: Report = try decoded(sandbox.lamina("status", "--json").output)
                    return report.server.opens.lookups
                }
                let mount = try sandbox.mountPoint()
                try sandbox.lamina(
                    "mount", "oci:\(Fixtures.layout("estargz"))", mount, "--set", "fuse.entry_timeout=\(seconds)",
                    "--set",
                    "fuse.attr_timeout=\(seconds)")
                // Kept open, so that the kernel has no other reason to forget it.
                let holder = open("\(mount)/etc/hello", O_RDONLY)
                defer { close(holder) }
                #expect(holder >= 0)
                try run(["stat", "\(mount)/etc/hello"]).orThrow()
                let before = try lookups()
                usleep(2_200_000)
                try run(["stat", "\(mount)/etc/hello"]).orThrow()
                let after = try lookups()
                #expect(seconds == 0 ? after == before : after > before, "\(before), \(after)")
            }
        }

        @Test("a server that mount starts has the configuration of the command")
        func handedOn() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mountPoint()
                try sandbox.lamina(
                    "mount", "oci:\(Fixtures.layout("estargz"))", mount, "--set", "fuse.passthrough=false")
                #expect(try sandbox.status().server?.passthrough == false)
                #expect(try sandbox.lamina("config", "show", "--origin").output.contains("# option --root"))
            }
        }
    }
}
