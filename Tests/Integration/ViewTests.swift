import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Debian's sqlite3 on the index, whichever process has the store.
    @Suite("the views of the index")
    struct Views {
        static let names = [
            "image_status", "layer_status", "merge_progress", "cache_usage", "duplicate_content", "file",
            "image_content",
        ]

        @Test("sqlite3 answers the seven views during a pull and after it")
        func duringAndAfter() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.medium.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                var faults = Faults()
                faults.bytesPerSecond = 8 << 20
                proxy.faults = faults
                let pull = try sandbox.start(["pull", reference])
                let hasBegun = try eventually(seconds: 60) {
                    try pull.isRunning && access(sandbox.root + "/index.db", F_OK) == 0
                        && (try? sandbox.number("SELECT landed_bytes FROM image_status")) ?? 0 > 1 << 20
                        && sandbox.number("SELECT count(*) FROM merge_progress") > 0
                }
                #expect(hasBegun, "nothing is seen of the pull")
                for name in Self.names { _ = try sandbox.sql("SELECT * FROM \(name) LIMIT 100") }
                #expect(
                    try sandbox.sql("SELECT reference, layers, state FROM image_status") == ["\(reference)|1|partial"])
                #expect(
                    try sandbox.sql("SELECT digest, compressed_bytes, state FROM layer_status")
                        == ["\(image.layer)|\(image.layerSize)|partial"])
                let progress =
                    "WHERE landed_bytes >= 0 AND landed_bytes < bytes AND chunks > 1 AND percent BETWEEN 0 AND 100"
                #expect(try sandbox.number("SELECT count(*) FROM merge_progress \(progress)") > 0)
                #expect(try sandbox.number("SELECT count(*) FROM merge_progress") < 9)
                let landed = try sandbox.number("SELECT landed_bytes FROM image_status")
                #expect(landed > 0 && landed < image.byteCount)
                #expect(try sandbox.number("SELECT count(*) FROM file WHERE type = 'file'") == 4008)
                #expect(pull.isRunning, "the pull was over too soon to be looked at")
                proxy.faults = Faults()
                try pull.wait(seconds: 120).orThrow()

                for name in Self.names { _ = try sandbox.sql("SELECT * FROM \(name) LIMIT 100") }
                #expect(
                    try sandbox.sql("SELECT state, bytes, landed_bytes FROM image_status")
                        == ["complete|\(image.byteCount)|\(image.byteCount)"])
                #expect(try sandbox.sql("SELECT state FROM layer_status") == ["complete"])
                #expect(try sandbox.number("SELECT count(*) FROM merge_progress") == 0)
                #expect(try sandbox.number("SELECT logical_bytes FROM cache_usage") == image.byteCount)
                #expect(try sandbox.number("SELECT allocated_bytes FROM cache_usage") >= image.byteCount)
                #expect(try sandbox.number("SELECT count(*) FROM file WHERE state = 'merged'") == 4008)
                let digest = try run(["sha256sum", "\(image.tree)/part3"]).orThrow().output.prefix(64)
                #expect(
                    try sandbox.sql(
                        "SELECT reference, bytes, state FROM image_content WHERE digest = 'sha256:\(digest)'")
                        == ["\(reference)|\(64 << 20)|merged"])
                #expect(try sandbox.sql("SELECT path FROM file WHERE digest = 'sha256:\(digest)'") == ["/part3"])
            }
        }

        @Test("a content that two images hold is in the store once, and the views say so")
        func shared() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let tree = try sandbox.mountPoint("tree")
                try run(["cp", "\(image.tree)/middle", "\(tree)/one"]).orThrow()
                try run(["cp", "\(image.tree)/middle", "\(tree)/two"]).orThrow()
                let proxy = try sandbox.proxy()
                let other = "oci:\(sandbox.directory)/other:x"
                try sandbox.lamina("convert", "dir:\(tree)", other)
                try sandbox.lamina("pull", image.reference(proxy))
                let size: Int64 = 3 << 20
                let used = try sandbox.number("SELECT allocated_bytes FROM cache_usage")
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", other).output)
                // Only the table of contents.
                #expect(report.complete && report.fetchedBytes < 1 << 20 || report.fetchedBytes < size / 2)
                #expect(try sandbox.number("SELECT allocated_bytes FROM cache_usage") == used)
                #expect(try sandbox.number("SELECT shared_bytes FROM cache_usage") == 2 * size)
                let digest = try run(["sha256sum", "\(tree)/one"]).orThrow().output.prefix(64)
                #expect(
                    try sandbox.sql("SELECT digest, bytes, state, layers, files, saved_bytes FROM duplicate_content")
                        == ["sha256:\(digest)|\(size)|merged|2|3|\(2 * size)"])
                #expect(try sandbox.number("SELECT count(*) FROM image_content WHERE digest = 'sha256:\(digest)'") == 2)
            }
        }
    }
}
