import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("one image in six writings, in one store")
    struct OneStore {
        @Test(
            "each distinct file is there once, whatever brought it, and the tree of each is containerd's",
            arguments: [false, true])
        func once(plainFirst: Bool) throws {
            try Sandbox.with { sandbox in
                let names = plainFirst ? ["plain-gzip"] + FixtureImages.names : FixtureImages.names + ["plain-gzip"]
                for name in names { try sandbox.lamina("pull", "oci:\(Fixtures.layout(name))") }
                #expect(try sandbox.number("SELECT count(*) FROM image_status WHERE landed_bytes = bytes") == 6)

                var allocated: [ino_t: Int64] = [:]
                for path in sandbox.backingFiles() {
                    var status = stat()
                    #expect(lstat(path, &status) == 0)
                    allocated[status.st_ino] = Int64(status.st_blocks) * 512
                }
                #expect(try sandbox.number("SELECT count(DISTINCT digest) FROM content") == Int64(allocated.count))
                // As `du` counts: at most a page is lost at the end of each file.
                let distinct = try sandbox.number(
                    "SELECT sum((size + 4095) / 4096 * 4096) FROM (SELECT DISTINCT digest, size FROM content)")
                #expect(allocated.values.reduce(0, +) <= distinct)
                // Each file is in every image; two of them share a layer. No tree has an entry that a later entry of the same
                // name replaces.
                let shared = try sandbox.number("SELECT count(*) FROM duplicate_content WHERE layers >= 5")
                #expect(shared >= Int64(allocated.count) - 1)

                for name in names {
                    let mount = try sandbox.mount("oci:\(Fixtures.layout(name))", at: name)
                    try TreeOracle.expectFixture(
                        at: mount, in: sandbox, name,
                        keepsFractions: name == "plain-gzip" || FixtureImages.keepsFractions(name))
                }
            }
        }
    }
}
