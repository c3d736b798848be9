import Foundation
import LaminaDigest
import LaminaTestSupport
import Testing

@testable import LaminaOCI

@Suite("SOCI indexes")
struct SOCIIndexTests {
    private func bytes(_ path: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(filePath: "\(Fixtures.directory)/soci/\(path)")))
    }

    private func blob(_ layout: String, _ digest: String) throws -> [UInt8] {
        try bytes("\(layout)/blobs/sha256/\(digest)")
    }

    @Test("an index of version 1 names its image and the zTOCs of its layers")
    func versionOne() throws {
        let digest = "c3e58af8333071ade8c9478862bb460f39a904abdd9f2aa42e9cd694affff9cf"
        let index = try SOCIIndex(parsing: blob("mixed-v1-128k", digest), name: digest)
        #expect(index.version == .v1 && index.buildTool == "AWS SOCI CLI v0.2")
        #expect(
            index.subject?.digest.hex == "03fe4f7838b3a1cc8936dc867a0022e471127a727d0716e8ac54f1b1b68561cb")
        // zstd and small layers are left out.
        #expect(index.layers.count == 4 && index.layers.allSatisfy { $0.spanSize == 131_072 && !$0.hasNoAttributes })
        let tar = try #require(index.layers.last)
        #expect(tar.mediaType == MediaType.ociLayer)
        #expect(index.layer(tar.digest) == tar)
        #expect(index.layer(tar.ztoc.digest) == nil)
    }

    @Test("an index of version 2 has no subject; its image names it, and prefetch lists are no zTOCs")
    func versionTwo() throws {
        let digest = "f8eabf624c81650cf246daa576e777c9e1686579441821c4850beb30f1d33c64"
        let index = try SOCIIndex(parsing: bytes("manifests/\(digest).json"), name: digest)
        #expect(index.version == .v2 && index.subject == nil && index.layers.count == 4)
        #expect(index.layers.map(\.hasNoAttributes) == [false, true, true, true])
        let image = try ImageDocument(
            parsing: bytes("manifests/d839bc099caed32ebfe09bef8f2744d5b4cde0e7df0b2d0da66081acf7812cca.json"),
            mediaType: nil,
            name: "image")
        guard case .manifest(let manifest) = image else { throw OCIError(.badManifest, "no manifest") }
        #expect(manifest.annotations[SOCIAnnotation.indexDigest] == "sha256:" + digest)
    }

    @Test("images, artifacts and broken indexes are no SOCI indexes")
    func others() throws {
        let digest = "f8eabf624c81650cf246daa576e777c9e1686579441821c4850beb30f1d33c64"
        let text = String(decoding: try bytes("manifests/\(digest).json"), as: UTF8.self)
        for (old, new) in [
            ("vnd.amazon.soci.index.v2+json", "vnd.amazon.soci.index.v3+json"),
            ("vnd.amazon.soci.index.v2+json", "vnd.oci.image.config.v1+json"),
            ("\"com.amazon.soci.image-layer-digest\":\"sha256:1", "\"com.amazon.soci.image-layer-digest\":\"sha1:1"),
            ("com.amazon.soci.image-layer-digest", "com.amazon.soci.other"),
            ("\"size\":206056", "\"size\":-1"), ("\"layers\":[", "\"manifests\":["),
        ] {
            let other = text.replacingOccurrences(of: old, with: new)
            #expect(other != text)
            #expect(throws: OCIError.self, "\(old)") { try SOCIIndex(parsing: Array(other.utf8), name: "x") }
        }
        #expect(throws: OCIError.self) {
            try SOCIIndex(
                parsing: bytes("manifests/0c9e5cc9ba6bbcbb145b4ab04cb06a84b42870e0913bac4aa255faa66cc1e8fe.json"),
                name: "x")
        }
    }

    @Test("an index that names 10,000 layers is refused")
    func manyLayers() {
        let layer =
            "{\"mediaType\":\"application/octet-stream\",\"digest\":\"sha256:\(String(repeating: "a", count: 64))\",\"size\":1,\"annotations\":{\"com.amazon.soci.image-layer-digest\":\"sha256:\(String(repeating: "b", count: 64))\"}}"
        func index(_ count: Int) -> [UInt8] {
            let layers = [String](repeating: layer, count: count).joined(separator: ",")
            return Array(
                "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.amazon.soci.index.v2+json\",\"digest\":\"sha256:\(String(repeating: "c", count: 64))\",\"size\":2},\"layers\":[\(layers)]}"
                    .utf8)
        }
        #expect(throws: OCIError.self) { try SOCIIndex(parsing: index(10_000), name: "x") }
        // One layer twice: the first zTOC counts.
        #expect((try? SOCIIndex(parsing: index(2), name: "x"))?.layers.count == 1)
    }
}
