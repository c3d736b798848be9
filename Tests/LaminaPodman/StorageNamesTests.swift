import LaminaDigest
import Testing

@testable import LaminaPodman

@Suite("containers/storage's names")
struct StorageNamesTests {
    @Test("layers have the ids that podman gives to those that it pulls")
    func layers() throws {
        // By hand: printf '%s+%s' PARENT DIFFID | sha256sum.
        let (first, second) = (Digest.of("first"), Digest.of("second"))
        #expect(StorageNames.layers([first, second]) == [first, Digest.of("\(first.hex)+\(second.hex)")])
        #expect(StorageNames.layers([]) == [])
    }

    @Test("links are 26 characters of base32, always the same ones")
    func links() {
        let layer = Digest.of("a layer")
        let link = StorageNames.link(layer)
        #expect(link.count == 26 && link.wholeMatch(of: #/[A-Z2-7]+/#) != nil)
        #expect(link == StorageNames.link(layer) && link != StorageNames.link(Digest.of("another")))
    }

    @Test("files of an image's parts are named as containers/storage names them")
    func bigData() {
        #expect(StorageNames.bigData("manifest") == "manifest")
        #expect(StorageNames.bigData("sha256:ab") == "=c2hhMjU2OmFi")
        #expect(StorageNames.bigData("Manifest") == "=TWFuaWZlc3Q=")
    }

    @Test(
        "times that Go does not read are none, as one of them makes podman fail for all images",
        arguments: [
            ("2024-02-29T23:59:59.123456789Z", true), ("2023-02-29T00:00:00Z", false),
            ("2024-01-01T00:00:00+01:30", true),
            ("2024-13-01T00:00:00Z", false), ("2024-01-01 00:00:00Z", false), ("2024-01-01T24:00:00Z", false),
            ("", false),
            ("0000-01-01T00:00:00Z", false), ("2024-01-01T00:00:00", false), ("٢٠٢٤-01-01T00:00:00Z", false),
            ("2024-01-01T00:00:60Z", false),
        ])
    func times(_ text: String, _ isValid: Bool) { #expect((StorageTime.valid(text) == text) == isValid) }
}

extension Digest {
    static func of(_ text: String) -> Digest { Array(text.utf8).withUnsafeBytes { SHA256.hash($0) } }
}
