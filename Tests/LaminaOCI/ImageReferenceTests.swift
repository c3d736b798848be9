import LaminaDigest
import LaminaOCI
import Testing

private let hex = String(repeating: "0123456789abcdef", count: 4)

@Suite("Image references")
struct ImageReferenceTests {
    @Test(
        "a registry's reference is read as docker reads it, and its canonical form parses to the same",
        arguments: [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("library/debian", "docker.io/library/debian:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("a/b/c:v1", "docker.io/a/b/c:v1"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a:b", "localhost:5000/a:b"),
            ("127.0.0.1:5000/a/b:tag", "127.0.0.1:5000/a/b:tag"),
            ("127.0.0.1:5000/a/b:tag@sha256:\(hex)", "127.0.0.1:5000/a/b:tag@sha256:\(hex)"),
            ("debian@sha256:\(hex)", "docker.io/library/debian@sha256:\(hex)"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("[2001:db8::1]/a", "[2001:db8::1]/a:latest"),
            ("Registry/a", "Registry/a:latest"), ("LOCALHOST/a", "localhost/a:latest"),
            ("Quay.IO/a/b", "quay.io/a/b:latest"),
            ("ghcr.io/a-b/c__d/e.f---g:1.2_3-X", "ghcr.io/a-b/c__d/e.f---g:1.2_3-X"),
            ("a:5000", "docker.io/library/a:5000"),
            ("r.example:65535/a", "r.example:65535/a:latest"),
        ])
    func reading(text: String, canonical: String) throws {
        let reference = try ImageReference(parsing: text)
        #expect(reference.description == canonical)
        #expect(try ImageReference(parsing: canonical) == reference)
    }

    @Test(
        "what is no reference is refused",
        arguments: [
            "", " ", "a b", "A", "a/B", "a:", "a@", "a@sha256:", "a@sha256:abc", ":a", "/a", "a/", "a//b", "-a", "a-",
            "a..b",
            "a___b", "a._b", "https://a.b/c", "docker://debian", "host:/a", "host:0/a", "host:65536/a", "host:123456/a",
            "host:+1/a", "a.b/", "a.b:5000/", "[::1/a", "[]/a", "[::1]x/a", "a..b/c", "-a.b/c", "a:tag:tag", "a:-x",
            "a/é", "a\u{0}b",
            "a@sha256:" + hex.uppercased(), "a@sha512:" + hex + hex, hex,
            "a:" + String(repeating: "t", count: 129), String(repeating: "a", count: 256),
            String(repeating: "a", count: 9000),
        ])
    func refusing(text: String) {
        #expect(throws: OCIError.self) { try ImageReference(parsing: text) }
    }

    @Test(
        "a layout's directory ends at the first colon, unless a longer one exists",
        arguments: [
            ("oci:/dir", [], "/dir", nil),
            ("oci:/dir:tag", [], "/dir", "tag"),
            ("oci:/dir:tag", ["/dir:tag"], "/dir:tag", nil),
            ("oci:/a:b:c", ["/a:b"], "/a:b", "c"),
            ("oci:/a:b:c", [], "/a", "b:c"),
            ("oci:/dir:localhost:5000/x:v1", ["/dir"], "/dir", "localhost:5000/x:v1"),
            ("oci:/a/./b//c/:t", [], "/a/b/c", "t"),
            ("oci:/nowhere/x/../y:t", [], "/nowhere/y", "t"),
        ] as [(String, [String], String, String?)])
    func layouts(text: String, existing: [String], directory: String, tag: String?) throws {
        let reference = try ImageReference(parsing: text) { existing.contains($0) }
        #expect(reference.place == .layout(directory: directory))
        #expect(reference.tag == tag)
        #expect(try ImageReference(parsing: reference.description) { existing.contains($0) } == reference)
    }

    @Test("a relative layout becomes absolute, and a digest names its manifest")
    func relativeLayout() throws {
        let reference = try ImageReference(parsing: "oci:x:t@sha256:\(hex)")
        #expect(reference.description.hasPrefix("oci:/"))
        #expect(reference.description.hasSuffix("/x:t@sha256:\(hex)"))
        #expect(reference.target == .digest(try #require(Digest(hex: hex))))
        #expect(try ImageReference(parsing: "oci:x").target == .only)
        #expect(throws: OCIError.self) { try ImageReference(parsing: "oci:") }
        #expect(throws: OCIError.self) { try ImageReference(parsing: "oci::tag") }
        #expect(throws: OCIError.self) { try ImageReference(parsing: "oci:dir:") }
        #expect(throws: OCIError.self) { try ImageReference(parsing: "oci:dir:a b") }
    }

    @Test(
        "plain HTTP is for this machine",
        arguments: [
            ("localhost", true), ("localhost:5000", true), ("127.0.0.1:1", true), ("127.9.9.9", true), ("[::1]", true),
            ("[::1]:5", true), ("127.0.0.1.example", false), ("127.0.0.256", false), ("128.0.0.1", false),
            ("localhost.example", false), ("[::2]:5", false), ("docker.io", false),
        ])
    func loopback(host: String, isLoopback: Bool) {
        #expect(ImageReference.isLoopback(host: host) == isLoopback)
        #expect(RegistryClient.Endpoint(registry: host).scheme == (isLoopback ? .http : .https))
        #expect(RegistryClient.Endpoint(registry: host, plainHTTP: true).scheme == .http)
    }

    @Test(
        "a source's location opens it again",
        arguments: ["debian", "127.0.0.1:5000/a/b:t", "[::1]:80/x", "oci:/a/b:t", "quay.io/x/y"])
    func locations(text: String) throws {
        let location = try ImageReference(parsing: text).openSource().location
        #expect(try BlobSources.open(location).location == location)
    }

    @Test(
        "what is no location is refused",
        arguments: ["", "oci:", "oci:x", "ftp://a/b", "http://a", "http:///b", "http://a b/c", "https://a/B"])
    func badLocations(text: String) {
        #expect(throws: OCIError.self) { try BlobSources.open(text) }
    }

    @Test("random changes of references never crash, and what parses has a canonical form that parses to the same")
    func fuzz() throws {
        var random = SeededGenerator(seed: 1)
        let seeds = [
            "127.0.0.1:5000/a/b:tag@sha256:\(hex)", "oci:/a/b:c@sha256:\(hex)", "[::1]:5000/a__b/c-d:e",
            "docker.io/library/x",
        ]
        for round in 0..<6000 {
            let bytes = mutated(Array(seeds[round % seeds.count].utf8), &random)
            let text = String(decoding: bytes, as: UTF8.self)
            guard let reference = try? ImageReference(parsing: text, directoryExists: { _ in false }) else { continue }
            let again = try ImageReference(parsing: reference.description, directoryExists: { _ in false })
            #expect(again.description == reference.description, "\(text)")
        }
    }
}
