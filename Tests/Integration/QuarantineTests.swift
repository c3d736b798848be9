import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// What becomes of a layer that is in use when it is found to be another one than was said.
    @Suite("quarantine of an image that is mounted")
    struct Quarantines {
        private struct Files {
            var small: [UInt8]
            var other: [UInt8]
            var large: [UInt8]

            init(_ seed: UInt64) {
                (small, other) = (noise(5_000, seed: seed), noise(6_000, seed: seed + 1))
                // Read in parts while it merges: see the threshold below.
                large = noise(2 << 20, seed: seed + 2)
            }

            var layer: HandmadeLayer {
                HandmadeLayer([
                    .init("small", small), .init("other", other), .init("large", large, chunkSize: 128 << 10),
                ])
            }
        }

        private func expect(_ file: File, _ right: [UInt8], _ range: Range<Int>, _ what: String) throws {
            #expect(try file.read(range.count, at: Int64(range.lowerBound)) == Array(right[range]), "\(what)")
        }

        @Test(
            "what is open and what is sealed can be read on, nothing else of it is opened or mounted, and nothing is mounted again when a server starts after the machine"
        )
        func inUse() throws {
            try Sandbox.with { sandbox in
                sandbox.seals = true
                let files = Files(11)
                let (right, wrong) = (Files(1).layer, files.layer)
                #expect(right.blob().count == wrong.blob().count)
                let registry = try Shared.registry.get()
                let proxy = try sandbox.proxy()
                // The blob of the honest image, with a table of contents and a tar of its own, at a registry that gives other bytes.
                let squatter = try HandmadeImage(
                    sandbox.directory + "/squatter.oci", blob: right.blob(), diffID: wrong.diffID,
                    tocDigest: SHA256.hash(wrong.toc))
                try registry.push(layout: squatter.directory, sourceTag: "x", name: "quarantine/squatter", tag: "1")
                let blob = try registry.pushBlob(wrong.blob(), name: "quarantine/squatter")
                proxy.faults.substitutes = [SHA256.hash(right.blob()): blob]
                // Nobody vouches for its table of contents, so that all of the blob is hashed.
                let honest = try HandmadeImage(
                    sandbox.directory + "/honest.oci", blob: right.blob(), diffID: right.diffID, tocDigest: nil)
                let reference = "\(proxy.host)/quarantine/squatter:1"

                func serve() throws -> Supervised { try sandbox.supervise("--set", "fuse.lazy_threshold=262144") }
                func end(_ server: Supervised) {
                    server.child.send(SIGTERM)
                    server.child.wait(seconds: 30)
                }
                var server = try serve()
                let fuse = try sandbox.mount(reference, at: "fuse")
                let cached = try File(fuse + "/large", O_RDONLY)
                try expect(cached, files.large, 0..<4096, "before")
                let passthrough = try File(fuse + "/small", O_RDONLY)
                try expect(passthrough, files.small, 0..<100, "before")
                let sealed = try sandbox.mountPoint("sealed")
                try sandbox.lamina("mount", "--sealed", reference, sealed)
                #expect(try readFile(sealed + "/other") == files.other)
                #expect(try Set(sandbox.status().mounts.map(\.way)) == ["fuse", "sealed"])
                // Its tar is the one that it says.
                let isProven = try eventually(seconds: 30) {
                    try sandbox.sql("SELECT diff_id_proof, quarantine IS NULL FROM layer_status") == ["proven|1"]
                }
                let ledger = try sandbox.sql("SELECT * FROM layer_status")
                #expect(isProven, "\(ledger)")

                try sandbox.lamina("pull", honest.reference)
                #expect(try sandbox.number("SELECT count(*) FROM layer_status WHERE quarantine IS NOT NULL") == 1)

                func refused(_ when: String) throws {
                    for words in [["mount"], ["mount", "--sealed"]] {
                        let outcome = try sandbox.start(words + [reference, sandbox.mountPoint("again")]).wait()
                        #expect(
                            outcome.exitCode == 1 && outcome.errors.contains("is in quarantine"), "\(when): \(outcome)")
                    }
                }
                try refused("at once")
                // Not opened before, in parts, and from the cache of pages.
                #expect(throws: SystemError.self) { _ = try File(fuse + "/other", O_RDONLY) }
                #expect(throws: SystemError.self) { _ = try File(fuse + "/small", O_RDONLY) }
                try expect(passthrough, files.small, 0..<5_000, "open, read by the kernel")
                try expect(cached, files.large, 1 << 20..<2 << 20, "open, read by the server")
                #expect(try readFile(sealed + "/small") == files.small, "sealed")
                #expect(try readFile(sealed + "/large") == files.large, "sealed")

                end(server)
                server = try serve()
                try refused("by the next server")
                #expect(try readFile(sealed + "/other") == files.other, "sealed, with the next server")
                // As after a restart of the machine.
                end(server)
                for mount in try sandbox.mounts().reversed() { _ = try run(["umount", "-l", mount.directory]) }
                server = try serve()
                #expect(try sandbox.status().mounts.isEmpty)
                #expect(access(sealed + "/other", F_OK) != 0 && access(fuse + "/other", F_OK) != 0)
                #expect(server.child.errorsSoFar.contains("is in quarantine"), "\(server.child.errorsSoFar)")
            }
        }
    }
}
