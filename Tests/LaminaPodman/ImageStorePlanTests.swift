import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaPodman
@testable import LaminaStore

@Suite("What an image store shows")
struct ImageStorePlanTests {
    private static func config(_ diffIDs: [Digest], _ note: String = "") -> [UInt8] {
        let list = diffIDs.map { "\"\($0)\"" }.joined(separator: ",")
        return Array(
            (#"{"architecture":"amd64","os":"linux","author":"\#(note)","created":"2024-01-02T03:04:05Z","#
                + #""rootfs":{"type":"layers","diff_ids":[\#(list)]}}"#).utf8)
    }

    /// An image of these layers; numbers of rows are made up from `base` on.
    private static func image(
        _ reference: String, _ diffIDs: [Digest], _ base: Int64 = 1, state: ChainState = .proven, pulledAt: Int64 = 0,
        note: String = "", platform: String = "linux/amd64"
    ) -> PodmanCandidate {
        let layers = diffIDs.enumerated().map { position, diffID in
            PodmanLayerFacts(
                layer: LayerID(base + Int64(position)), view: ViewID(100 + base + Int64(position)),
                digest: .of("blob \(base)"),
                size: 10, format: 5, diffID: diffID, state: state, isBlobProven: true, tarSize: 20)
        }
        let record = ImageRecord(
            id: ImageID(base), reference: reference, manifestDigest: .of("manifest \(base)"), platform: platform,
            layers: layers.map(\.layer), views: layers.map(\.view))
        return PodmanCandidate(
            image: record, manifest: Array(#"{"annotations":{"number":"\#(base)"}}"#.utf8),
            config: config(diffIDs, note), pulledAt: pulledAt,
            layers: layers)
    }

    private static func plan(
        _ candidates: [PodmanCandidate], known: [PodmanLayerRow] = [],
        believes: @escaping (String) -> Bool = { _ in false }
    ) throws -> ImageStorePlan {
        ImageStorePlan(
            candidates, references: Set(candidates.map(\.image.reference)),
            known: Dictionary(uniqueKeysWithValues: known.map { ($0.id, $0) }),
            platform: try Platform(parsing: "linux/amd64"), believes: believes)
    }

    private let a = Digest.of("a")
    private let b = Digest.of("b")
    private let c = Digest.of("c")

    @Test("images with names, by the digests of their configurations, and each layer once")
    func shown() throws {
        let plan = try Self.plan([
            Self.image("r.example/x:1", [a, b]), Self.image("r.example/y:1", [a, c], 10),
            Self.image("r.example/z@\(Digest.of("m"))", [a, b], 20),
        ])
        #expect(plan.absences.isEmpty && plan.images.count == 2 && plan.layers.count == 3)
        let id = Self.config([a, b]).withUnsafeBytes { SHA256.hash($0) }
        let image = try #require(plan.images[id])
        #expect(image.names == ["r.example/x:1", "r.example/z@\(Digest.of("m"))"])
        #expect(image.top == StorageNames.layers([a, b])[1] && image.created == "2024-01-02T03:04:05Z")
        #expect(plan.layers[a]?.row.parent == nil && plan.layers[image.top]?.row.parent == a)
    }

    @Test("what is only claimed is not there, and never in the place of what is proven, in whatever order they come")
    func claimed() throws {
        let (liar, honest) = (
            Self.image("liar.example/x:1", [a, b], 1, state: .claimed, note: "liar"),
            Self.image("r.example/x:1", [a, b], 10)
        )
        let alone = try Self.plan([liar])
        #expect(
            alone.layers.isEmpty && alone.images.isEmpty && alone.absences["liar.example/x:1"] == .unproven(layers: 2))
        for candidates in [[liar, honest], [honest, liar]] {
            #expect(try Self.plan(candidates).layers.values.allSatisfy { $0.row.layer.row >= 10 })
            // Where it is believed, too.
            let believing = try Self.plan(candidates) { $0.hasPrefix("liar") }
            #expect(believing.images.count == 2 && believing.layers.values.allSatisfy { $0.row.layer.row >= 10 })
        }
        let believed = try Self.plan([liar]) { _ in true }
        #expect(believed.images.count == 1 && believed.layers[a]?.row.layer == LayerID(1))
        var quarantined = liar
        quarantined.layers[1].state = .quarantined
        let refused = try Self.plan([quarantined]) { _ in true }
        #expect(refused.images.isEmpty && refused.layers.isEmpty)
    }

    @Test("what is no image for podman is left out, with the reason")
    func absent() throws {
        var wrong = Self.image("r.example/wrong:1", [a, b])
        wrong.config = Self.config([a, c])
        var broken = Self.image("r.example/broken:1", [a])
        broken.config = Array("{".utf8)
        let plan = try Self.plan([
            Self.image("oci:/dir:1", [a]), Self.image("r.example/arm:1", [a], platform: "linux/arm64"), wrong, broken,
        ])
        #expect(plan.images.isEmpty && plan.layers.isEmpty && plan.absences.count == 4)
        #expect(plan.absences["oci:/dir:1"] == .nameless)
        #expect(plan.absences["r.example/arm:1"] == .foreign(platform: "linux/arm64"))
        let unknown = ImageStorePlan([], references: ["r.example/old:1"], known: [:]) { _ in false }
        #expect(unknown.absences["r.example/old:1"] == .manifestUnknown)
    }

    @Test(
        "an image that Go cannot decode is not shown: podman would fail for all",
        arguments: [
            #""created":"yesterday""#, #""Created":"""#, #""history":[{"created":"2024-01-02"}]"#,
            #""history":[{"created":null,"empty_layer":"yes"}]"#, #""config":{"Labels":{"a":1}}"#,
            #""config":{"labels":["a"]}"#, #""config":{"Env":"x"}"#, #""config":{"Env":[1]}"#, #""config":[]"#,
            #""config":{"Cmd":"sh"}"#, #""config":{"Volumes":{"/v":true}}"#, #""config":{"ExposedPorts":["80/tcp"]}"#,
            #""config":{"User":0}"#, #""config":{"WorkingDir":{}}"#, #""config":{"\u017fTOPSIGNAL":9}"#,
            #""config":{"StopTimeout":1.5}"#, #""config":{"Healthcheck":{"Interval":"30s"}}"#, #""docker_version":20"#,
            #""config":{},"CONFIG":{"Labels":{"a":1}}"#,
        ])
    func undecodable(_ more: String) throws {
        let good = Self.image("r.example/good:1", [a], 1)
        var bad = Self.image("r.example/bad:1", [b], 10)
        bad.config = Array("\(String(decoding: bad.config, as: UTF8.self).dropLast()),\(more)}".utf8)
        let plan = try Self.plan([good, bad])
        #expect(plan.images.values.map(\.names) == [["r.example/good:1"]])
        guard case .unreadable(let reason)? = plan.absences["r.example/bad:1"] else {
            Issue.record("\(more) is shown")
            return
        }
        #expect(reason.hasPrefix("podman cannot read its configuration: "))
    }

    @Test("the same of a manifest, and of one that is of two kinds")
    func undecodableManifests() throws {
        for text in [
            #"{"annotations":{"a":1}}"#, #"{"layers":[{"size":"1"}]}"#, #"{"layers":[{"urls":"x"}]}"#,
            #"{"manifests":[]}"#, #"{"config":{"data":"?"}}"#, "[]", "none",
        ] {
            var bad = Self.image("r.example/bad:1", [a])
            bad.manifest = Array(text.utf8)
            #expect(try Self.plan([bad]).images.isEmpty, "\(text)")
        }
    }

    @Test("an image as docker and buildah write it is shown")
    func decodable() throws {
        let more =
            #","created":"2024-02-29T23:59:59.5+01:00","docker_version":"20.10","container_config":{"Cmd":"x"},"size":3,"#
            + #""config":{"Hostname":"","Tty":false,"Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Volumes":{"/v":{}},"#
            + #""ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"},"OnBuild":null,"StopTimeout":10,"#
            + #""Healthcheck":{"Test":["CMD","x"],"Interval":30000000000,"Retries":3},"New":[1]},"#
            + #""history":[{"created":"2024-01-01T00:00:00Z","created_by":"x","empty_layer":true},{}]}"#
        var image = Self.image("r.example/x:1", [a])
        image.config = Array("\(String(decoding: image.config, as: UTF8.self).dropLast())\(more)".utf8)
        image.manifest = Array(
            (#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":null,"#
                + #""layers":[{"mediaType":"x","size":1,"digest":"d","annotations":{"a":"b"},"data":"YQ=="}]}"#).utf8)
        let plan = try Self.plan([image])
        #expect(plan.images.count == 1 && plan.absences.isEmpty)
    }

    @Test("a name is one image's: podman fails for all where two have it")
    func namesAreUnique() throws {
        let index = Digest.of("index")
        // A machine of amd64 runs both.
        let plain = Self.image("r.example/x@\(index)", [a], 1, pulledAt: 9, platform: "linux/386")
        let tagged = Self.image("r.example/x:1@\(index)", [b], 10, pulledAt: 5)
        let again = Self.image("r.example/x:2@\(index)", [b], 10, pulledAt: 6)
        for candidates in [[plain, tagged, again], [again, tagged, plain]] {
            let plan = try Self.plan(candidates)
            #expect(plan.images.values.map(\.names) == [["r.example/x@\(index)"]])
            #expect(plan.images.values.first?.top == b)
            #expect(plan.absences == [plain.image.reference: .sameName(as: again.image.reference)])
        }
        // Of equal ones the last pull, whatever its manifest.
        let other = Self.image("r.example/x@\(index)", [c], 20, pulledAt: 7)
        let plan = try Self.plan([tagged, other])
        #expect(plan.images.values.map(\.top) == [c])
        #expect(plan.absences == [tagged.image.reference: .sameName(as: other.image.reference)])
    }

    @Test("of equal layers the one that is there stays; what podman uses stays with all below, under its own view")
    func kept() throws {
        let old = try Self.plan([Self.image("r.example/x:1", [a, b])])
        let rows = Dictionary(uniqueKeysWithValues: old.layers.map { ($0.key, $0.value.row) })
        let again = try Self.plan(
            [Self.image("r.example/0:1", [a, b], 50), Self.image("r.example/x:1", [a, b])], known: Array(rows.values))
        #expect(again.layers.mapValues(\.row) == rows && !again.takesAway(rows, [:]))

        // The tag has moved, and another image brings the same layers under other views.
        let images = old.images.mapValues {
            PodmanImageRow(id: $0.id, top: $0.top, manifest: $0.manifest, config: $0.config)
        }
        var moved = try Self.plan([Self.image("r.example/x:1", [a, c], 50)], known: Array(rows.values))
        #expect(moved.takesAway(rows, images))
        let facts = { (row: PodmanLayerRow) -> PodmanLayerFacts? in
            PodmanLayerFacts(
                layer: row.layer, view: row.view, digest: self.a, size: 1, format: 5, diffID: self.a, state: .proven,
                isBlobProven: false, tarSize: nil)
        }
        var idle = moved
        idle.keep(rows, images, layers: [], images: [], facts: facts)
        #expect(idle.layers.count == 2 && idle.images.count == 1 && !idle.keepsMore)
        let id = try #require(images.keys.first)
        moved.keep(rows, images, layers: [], images: [id], facts: facts)
        #expect(moved.layers.count == 3 && moved.images.count == 2 && moved.keepsMore)
        #expect(moved.images[id]?.names == [] && moved.layers[a]?.row == rows[a])
    }

    @Test("podman's records: what stands upon what, by name; a file that cannot be read is an error, and none is none")
    func graphRoot() throws {
        let directory = try temporaryDirectory("graph")
        defer { removeTree(directory) }
        #expect(try GraphRoot(path: directory).uses().isEmpty)
        func put(_ name: String, _ text: String) throws {
            try createDirectories("\(directory)/\(name.split(separator: "/")[0])")
            try replaceFile("\(directory)/\(name)", with: Array(text.utf8), mode: 0o600)
        }
        try put(
            "overlay-containers/containers.json",
            #"[{"id":"\#(c.hex)","names":["web"],"image":"\#(b.hex)","layer":"\#(c.hex)","metadata":"{}"}]"#)
        try put(
            "overlay-images/images.json", #"[{"id":"\#(b.hex)","layer":"\#(a.hex)","mapped-layers":["\#(c.hex)"]}]"#)
        try put("overlay-layers/layers.json", #"[{"id":"\#(c.hex)","parent":"\#(a.hex)"},{"id":"\#(a.hex)"}]"#)
        let uses = try GraphRoot(path: directory).uses()
        // Through its own layers, down to the one that they all stand upon.
        #expect(uses.contains { $0.kind == .container && $0.name == "web" && $0.image == b && $0.layer == a })
        #expect(uses.filter { $0.kind == .image }.map(\.layer) == [a, a])
        #expect(uses.filter { $0.kind == .layer }.map(\.layer) == [a])
        for text in ["{}", "[", "nonsense"] {
            try put("overlay-layers/layers.json", text)
            #expect(throws: PodmanError.self) { _ = try GraphRoot(path: directory).uses() }
        }
        try put("overlay-layers/layers.json", "")
        let alone = try GraphRoot(path: directory).uses()
        #expect(alone.count == 3)
        #expect(alone.contains { $0.kind == .container && $0.layer == c })
        #expect(alone.contains { $0.kind == .image && $0.layer == c })
    }

    @Test("bytes that somebody else has put there never end the process", arguments: UInt64(0)..<200)
    func noise(seed: UInt64) throws {
        var generator = Seeded(state: seed)
        let text =
            #"[{"id":"\#(c.hex)","names":["web"],"image":"\#(b.hex)","layer":"\#(c.hex)","parent":null,"mapped-layers":[1]}]"#
        var bytes = Array(text.utf8)
        for _ in 0..<Int.random(in: 1...8, using: &generator) {
            bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
        }
        let directory = try temporaryDirectory("graph")
        defer { removeTree(directory) }
        for name in ["overlay-containers/containers.json", "overlay-images/images.json", "overlay-layers/layers.json"] {
            try createDirectories("\(directory)/\(name.split(separator: "/")[0])")
            try replaceFile("\(directory)/\(name)", with: bytes, mode: 0o600)
        }
        _ = try? GraphRoot(path: directory).uses()
        _ = StorageDocuments.created(bytes)
        _ = try? StorageConfiguration(parsing: bytes, path: "x")
    }

    private struct Seeded: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var value = state
            value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
            value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
            return value ^ (value >> 31)
        }
    }
}
