import LaminaDigest
import LaminaOCI
import LaminaTestSupport
import Testing

private let digest = "sha256:" + String(repeating: "ab", count: 32)
private let descriptor = #"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"\#(digest)","size":7}"#

@Suite("Manifests, indexes and configs")
struct DocumentTests {
    private func parse(_ text: String, mediaType: String? = nil) throws -> ImageDocument {
        try ImageDocument(parsing: Array(text.utf8), mediaType: mediaType, name: "x")
    }

    @Test("an OCI manifest keeps layers and annotations, and is written the same way each time")
    func manifest() throws {
        let text =
            #"{"schemaVersion":2,"config":\#(descriptor),"layers":[{"digest":"\#(digest)","size":9223372036854775807,"mediaType":"l","annotations":{"b":"é\u00e9\ud83d\ude00\n","a":"1"}}],"annotations":{"k":"v"}}"#
        guard case .manifest(let manifest) = try parse(text) else {
            Issue.record("it is a manifest")
            return
        }
        #expect(manifest.mediaType == MediaType.ociManifest)
        #expect(manifest.config.size == 7)
        #expect(manifest.layers[0].size == .max)
        #expect(manifest.layers[0].annotations == ["a": "1", "b": "éé😀\n"])
        let written = manifest.serialized()
        #expect(try ImageDocument(parsing: written, mediaType: nil, name: "x") == .manifest(manifest))
        #expect(String(decoding: written, as: UTF8.self).hasPrefix(#"{"annotations":{"k":"v"},"config":{"digest":"#))
    }

    @Test("Docker's schema 2 is read too, by its own media type or the registry's")
    func docker() throws {
        let body = #""config":\#(descriptor),"layers":[]"#
        for (text, mediaType) in [
            (#"{"schemaVersion":2,"mediaType":"\#(MediaType.dockerManifest)",\#(body)}"#, nil),
            (#"{"schemaVersion":2,\#(body)}"#, MediaType.dockerManifest),
            (#"{"schemaVersion":2,"mediaType":"\#(MediaType.dockerManifest)",\#(body)}"#, "application/json"),
        ] as [(String, String?)] {
            guard case .manifest(let manifest) = try parse(text, mediaType: mediaType) else {
                Issue.record("it is a manifest")
                continue
            }
            #expect(manifest.mediaType == MediaType.dockerManifest)
        }
        guard case .index = try parse(#"{"schemaVersion":2,"mediaType":"\#(MediaType.dockerList)","manifests":[]}"#)
        else {
            Issue.record("it is an index")
            return
        }
    }

    @Test("schema 1 is refused with a way out")
    func schema1() {
        for (text, mediaType) in [
            (#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#, nil),
            (#"{"config":\#(descriptor),"layers":[]}"#, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ] as [(String, String?)] {
            let error = #expect(throws: OCIError.self) { try parse(text, mediaType: mediaType) }
            #expect(error?.code == .unsupported)
            #expect(error?.message.contains("schema 1") == true)
        }
    }

    @Test(
        "what is wrong is refused, with its place",
        arguments: [
            ("", "not valid JSON"), ("[]", "not an object"), ("{}", "neither layers nor manifests"),
            ("{\"a\":1}x", "follows"),
            (#"{"layers":[],"manifests":[]}"#, "both"), (#"{"config":\#(descriptor)}"#, "layers is missing"),
            (#"{"layers":[]}"#, "config is missing"),
            (#"{"config":\#(descriptor),"layers":{}}"#, "layers is not an array"),
            (#"{"config":\#(descriptor),"layers":[1]}"#, "layers[0] is not an object"),
            (
                #"{"config":\#(descriptor),"layers":[{"digest":"sha256:1","size":1}]}"#,
                "layers[0].digest is not a sha256"
            ),
            (#"{"config":\#(descriptor),"layers":[{"digest":"\#(digest)"}]}"#, "layers[0].size is missing"),
            (
                #"{"config":\#(descriptor),"layers":[{"digest":"\#(digest)","size":-1}]}"#,
                "layers[0].size is not 0 or more"
            ),
            (
                #"{"config":\#(descriptor),"layers":[{"digest":"\#(digest)","size":1.5}]}"#,
                "layers[0].size is not a whole"
            ),
            (
                #"{"config":\#(descriptor),"layers":[{"digest":"\#(digest)","size":9223372036854775808}]}"#,
                "whole number"
            ),
            (
                #"{"config":\#(descriptor),"layers":[{"digest":"\#(digest)","size":1,"annotations":{"a":1}}]}"#,
                "annotations.a is not a string"
            ),
            (#"{"mediaType":"\#(MediaType.ociIndex)","config":\#(descriptor),"layers":[]}"#, "has layers"),
            (#"{"mediaType":"application/x","config":\#(descriptor),"layers":[]}"#, "no image or index"),
            (#"{"schemaVersion":3,"config":\#(descriptor),"layers":[]}"#, "schemaVersion 3"),
            (#"{"config":\#(descriptor),"layers":[{"digest":"sha512:00","size":1}]}"#, "sha256 digests only"),
            ("{\"a\":\"\u{1}\"}", "control character"), (#"{"a":"\ud800"}"#, "surrogate"),
            (#"{"a":01}"#, "expected ','"),
            (#"{"a":"\x"}"#, "escape"), (#"{"a":tru}"#, "true"), (#"{"a"}"#, "':'"), (#"{"a":-}"#, "expected a value"),
            (String(repeating: "[", count: 100_000), "too deep"),
            (
                #"{"config":\#(descriptor),"layers":[\#(Array(repeating: descriptor, count: 1001).joined(separator: ","))]}"#,
                "limit of 1000"
            ),
        ])
    func refusing(text: String, problem: String) {
        let error = #expect(throws: OCIError.self) { try parse(text) }
        #expect(error?.description.contains(problem) == true, "\(error?.description ?? "")")
    }

    @Test("a document above 4 MiB is refused, a string that is not UTF-8 too")
    func bounds() {
        #expect(throws: OCIError.self) {
            try ImageDocument(parsing: [UInt8](repeating: 0x20, count: 4 << 20 + 1), mediaType: nil, name: "x")
        }
        #expect(throws: OCIError.self) {
            try ImageDocument(parsing: [0x7B, 0x22, 0xFF, 0x22, 0x3A, 0x31, 0x7D], mediaType: nil, name: "x")
        }
    }

    @Test(
        "a config gives diff IDs and platform, keeps its bytes, and gets other diff IDs with everything else as it was")
    func config() throws {
        let text =
            #"{"architecture":"arm64","variant":"v8","os":"linux","x":1e3,"history":[{"created_by":"b","comment":"a"}],"rootfs":{"type":"layers","diff_ids":["\#(digest)"]}}"#
        let config = try ImageConfig(parsing: Array(text.utf8), name: "x")
        #expect(config.bytes == Array(text.utf8))
        #expect(config.platform == Platform(os: "linux", architecture: "arm64", variant: "v8"))
        #expect(config.diffIDs.map(\.description) == [digest])
        #expect(config.historyBytes == Array(#"[{"comment":"a","created_by":"b"}]"#.utf8))
        let other = SHA256.hash([1])
        let changed = String(decoding: config.replacingDiffIDs([other]), as: UTF8.self)
        #expect(
            changed
                == #"{"architecture":"arm64","history":[{"comment":"a","created_by":"b"}],"os":"linux","rootfs":{"diff_ids":["\#(other)"],"type":"layers"},"variant":"v8","x":1e3}"#
        )
        #expect(throws: OCIError.self) { try ImageConfig(parsing: Array("{}".utf8), name: "x") }
    }

    @Test("random changes of every document of the fixtures give a document or a typed error, never a crash")
    func fuzz() throws {
        var random = SeededGenerator(seed: 2)
        var seeds: [[UInt8]] = []
        for name in Fixtures.layouts {
            let source = OCILayoutSource(directory: Fixtures.layout(name))
            let found = try source.manifest(.only) { false }
            seeds.append(found.bytes)
            guard case .manifest(let manifest) = try ImageDocument(parsing: found.bytes, mediaType: nil, name: name)
            else { continue }
            seeds.append(try source.blob(manifest.config))
        }
        seeds.append(
            ImageIndex(manifests: [Descriptor(mediaType: "", digest: SHA256.hash([]), size: 0, platform: .host)])
                .serialized())
        var accepted = 0
        for round in 0..<4000 {
            let bytes = mutated(seeds[round % seeds.count], &random)
            do throws(OCIError) {
                switch try ImageDocument(parsing: bytes, mediaType: nil, name: "x") {
                case .manifest(let manifest):
                    accepted += 1
                    let again = try ImageDocument(parsing: manifest.serialized(), mediaType: nil, name: "x")
                    #expect(again == .manifest(manifest))
                case .index: accepted += 1
                }
            } catch {
                #expect(error.code == .badManifest || error.code == .unsupported)
            }
            _ = try? ImageConfig(parsing: bytes, name: "x").replacingDiffIDs([])
        }
        #expect(accepted > 100)
    }
}
