import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("OCI layouts")
struct OCILayoutTests {
    @Test("every fixture resolves to the same three layers' worth of image", arguments: Fixtures.layouts)
    func fixtures(name: String) throws {
        let reference = try ImageReference(parsing: "oci:" + Fixtures.layout(name))
        let image = try ImageResolver.resolve(reference, source: reference.openSource())
        #expect(image.layers.count == 3)
        #expect(image.diffIDs.count == 3)
        #expect(image.platform == Platform(os: "linux", architecture: "amd64"))
        #expect(SHA256.hash(image.manifestBytes) == image.manifestDigest)
        #expect(SHA256.hash(image.configBytes) == image.configDescriptor.digest)
    }

    @Test("a layer is read in order and whole, in any range, and its digest is right")
    func reading() throws {
        let reference = try ImageReference(parsing: "oci:\(Fixtures.layout("plain-gzip")):org")
        let source = try reference.openSource()
        let layer = try #require(try ImageResolver.resolve(reference, source: source).layers.first)
        let whole = try source.blob(layer, limit: 1 << 24)
        for range in [0..<layer.size, 0..<1, layer.size - 1..<layer.size, 5..<5, 1000..<min(layer.size, 600_001)] {
            var bytes: [UInt8] = []
            try source.read(layer.digest, size: layer.size, range: range, shouldStop: { false }) { bytes += $0 }
            #expect(bytes == Array(whole[Int(range.lowerBound)..<Int(range.upperBound)]))
        }
    }

    @Test("what is missing, wrong or stopped has its own code")
    func errors() throws {
        let directory = try temporaryDirectory("layout")
        defer { removeTree(directory) }
        let source = OCILayoutSource(directory: Fixtures.layout("estargz"))
        let layer = try #require(
            try ImageResolver.resolve(ImageReference(layout: source.directory), source: source).layers.first)
        func code(_ body: () throws -> Void) -> OCIError.Code? {
            #expect(throws: OCIError.self, performing: body)?.code
        }
        let none = SHA256.hash([42])
        #expect(code { try source.read(none, size: 1, range: 0..<1, shouldStop: { false }) { _ in } } == .notFound)
        #expect(
            code { try source.read(layer.digest, size: 1, range: 0..<1, shouldStop: { false }) { _ in } }
                == .sizeMismatch)
        #expect(
            code {
                try source.read(layer.digest, size: layer.size, range: 0..<layer.size + 1, shouldStop: { false }) { _ in
                }
            } == .sizeMismatch)
        #expect(
            code { try source.read(layer.digest, size: layer.size, range: 0..<1, shouldStop: { true }) { _ in } }
                == .interrupted)
        #expect(code { _ = try source.manifest(.tag("nope")) { false } } == .notFound)
        #expect(code { _ = try OCILayoutSource(directory: directory).manifest(.only) { false } } == .badLayout)
        #expect(code { _ = try OCILayoutSource(directory: directory + "/none").manifest(.only) { false } } == .notFound)
        struct Enough: Error {}
        #expect(throws: Enough.self) {
            try source.read(layer.digest, size: layer.size, range: 0..<9, shouldStop: { false }) { _ in throw Enough() }
        }
        let message = #expect(throws: OCIError.self) { try source.manifest(.tag("nope")) { false } }?.message
        #expect(message?.contains("it has esgz") == true)
    }

    @Test("a blob that was changed on disk is told by its digest")
    func corruption() throws {
        let directory = try temporaryDirectory("layout")
        defer { removeTree(directory) }
        let writer = try OCILayoutWriter(directory: directory, durable: false)
        let descriptor = try writer.addBlob([1, 2, 3], mediaType: "x")
        let source = OCILayoutSource(directory: directory)
        #expect(try source.blob(descriptor) == [1, 2, 3])
        try [UInt8]([1, 9, 3]).withUnsafeBytes {
            try File("\(directory)/blobs/sha256/\(descriptor.digest.hex)", O_WRONLY).write($0, at: 0)
        }
        #expect(#expect(throws: OCIError.self) { try source.blob(descriptor) }?.code == .digestMismatch)
        #expect(
            #expect(throws: OCIError.self) { try source.manifest(.digest(descriptor.digest)) { false } }?.code
                == .digestMismatch)
    }

    /// An image of one layer; the config's architecture distinguishes them.
    private func addImage(_ writer: OCILayoutWriter, _ architecture: String) throws -> Descriptor {
        let layer = try writer.addBlob(Array(architecture.utf8), mediaType: MediaType.ociLayer)
        let text =
            #"{"architecture":"\#(architecture)","os":"linux","rootfs":{"type":"layers","diff_ids":["\#(layer.digest)"]}}"#
        let config = try writer.addBlob(Array(text.utf8), mediaType: MediaType.ociConfig)
        let manifest = ImageManifest(config: config, layers: [layer])
        return try writer.addBlob(manifest.serialized(), mediaType: MediaType.ociManifest)
    }

    @Test("tags are added and replaced, others stay, and the same steps give the same bytes")
    func tags() throws {
        var indexes: [[UInt8]] = []
        for _ in 0..<2 {
            let directory = try temporaryDirectory("layout")
            defer { removeTree(directory) }
            let writer = try OCILayoutWriter(directory: directory)
            let first = try addImage(writer, "amd64")
            let second = try addImage(writer, "arm64")
            try writer.setManifest(first, tag: "a")
            try writer.setManifest(first, tag: "b")
            // A second writer finds what the first one left.
            try OCILayoutWriter(directory: directory).setManifest(second, tag: "a")
            try writer.setManifest(second, tag: nil)
            try writer.setManifest(second, tag: nil)
            let source = OCILayoutSource(directory: directory)
            #expect(try source.manifest(.tag("a")) { false }.digest == second.digest)
            #expect(try source.manifest(.tag("b")) { false }.digest == first.digest)
            let error = #expect(throws: OCIError.self) { try source.manifest(.only) { false } }
            #expect(error?.message.contains("a, b") == true)
            #expect(throws: OCIError.self) { try writer.setManifest(first, tag: "a b") }
            #expect(throws: OCIError.self) {
                try writer.setManifest(Descriptor(mediaType: "", digest: SHA256.hash([7]), size: 1), tag: "c")
            }
            #expect(try source.index().manifests.count == 3)
            indexes.append(try readFile(directory + "/index.json"))
            #expect(try readFile(directory + "/oci-layout") == Array(#"{"imageLayoutVersion":"1.0.0"}"#.utf8))
        }
        #expect(indexes[0] == indexes[1])
    }

    @Test("a blob written in pieces gets its digest; one that is not finished leaves nothing")
    func blobWriter() throws {
        let directory = try temporaryDirectory("layout")
        defer { removeTree(directory) }
        let writer = try OCILayoutWriter(directory: directory)
        do {
            let blob = try writer.beginBlob()
            for byte in UInt8(0)..<100 {
                try [UInt8](repeating: byte, count: 1000).withUnsafeBytes { try blob.write($0) }
            }
            let descriptor = try blob.finish(mediaType: "x")
            #expect(descriptor.size == 100_000)
            #expect(SHA256.hash(try OCILayoutSource(directory: directory).blob(descriptor)) == descriptor.digest)
            let other = try writer.beginBlob()
            try [UInt8]([1]).withUnsafeBytes { try other.write($0) }
            #expect(throws: OCIError.self) { try other.finish(digest: SHA256.hash([1]), size: 2) }
        }
        #expect(names(in: directory + "/blobs") == ["sha256"])
        #expect(names(in: directory + "/blobs/sha256").count == 1)
    }

    private func names(in path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    @Test("many threads tag one layout and no tag is lost")
    func concurrentTags() throws {
        let directory = try temporaryDirectory("layout")
        defer { removeTree(directory) }
        let writer = try OCILayoutWriter(directory: directory, durable: false)
        let manifest = try addImage(writer, "amd64")
        let threads = try (0..<8).map { number in
            try Thread("tag") { for round in 0..<10 { try? writer.setManifest(manifest, tag: "t\(number)-\(round)") } }
        }
        threads.forEach { $0.join() }
        #expect(
            Set(
                try OCILayoutSource(directory: directory).index().manifests.compactMap {
                    $0.annotations[Annotation.referenceName]
                }
            ).count == 80)
    }

    @Test(
        "an index gives the image for the platform, through nested indexes and manifests without a platform, and lists what it has"
    )
    func platforms() throws {
        let directory = try temporaryDirectory("layout")
        defer { removeTree(directory) }
        let writer = try OCILayoutWriter(directory: directory, durable: false)
        func named(_ architecture: String, _ platform: String) throws -> Descriptor {
            var descriptor = try addImage(writer, architecture)
            descriptor.platform = try Platform(parsing: platform)
            return descriptor
        }
        let v3 = try named("amd64", "linux/amd64/v3")
        let inner = ImageIndex(manifests: [try addImage(writer, "riscv64")])
        let nested = try writer.addBlob(inner.serialized(), mediaType: MediaType.ociIndex)
        // Another kind of document, with a platform's name: skipped, as the specification requires.
        var foreign = try writer.addBlob(Array("{}".utf8), mediaType: "application/vnd.example.thing.v1+json")
        foreign.platform = try Platform(parsing: "linux/arm64")
        let index = ImageIndex(manifests: [
            foreign, v3, try named("arm64", "linux/arm64/v8"), try named("s390x", "linux/s390x"), nested,
        ])
        let root = try writer.addBlob(index.serialized(), mediaType: MediaType.ociIndex)
        try writer.setManifest(root, tag: "t")
        let reference = try ImageReference(layout: directory, tag: "t")
        let source = try reference.openSource()
        for (platform, architecture) in [
            ("linux/arm64", "arm64"), ("linux/s390x", "s390x"), ("linux/amd64/v4", "amd64"),
            ("linux/riscv64", "riscv64"),
        ] {
            let image = try ImageResolver.resolve(reference, platform: Platform(parsing: platform), source: source)
            #expect(image.platform.architecture == architecture)
        }
        let error = #expect(throws: OCIError.self) {
            try ImageResolver.resolve(reference, platform: Platform(parsing: "linux/amd64"), source: source)
        }
        #expect(error?.code == .noPlatform)
        #expect(
            error?.message.contains("linux/amd64/v3, linux/arm64, linux/riscv64, linux/s390x") == true,
            "\(error?.message ?? "")")
        // An image that is not an index is taken unchanged, unless a platform was asked for.
        let alone = reference.with(digest: try addImage(writer, "s390x").digest)
        #expect(try ImageResolver.resolve(alone, source: source).platform.architecture == "s390x")
        #expect(throws: OCIError.self) { try ImageResolver.resolve(alone, platform: .host, source: source) }
    }

    @Test("indexes that nest too deep, and images that are none, are refused")
    func hostile() throws {
        let directory = try temporaryDirectory("layout")
        defer { removeTree(directory) }
        let writer = try OCILayoutWriter(directory: directory, durable: false)
        func code(_ descriptor: Descriptor) throws -> OCIError.Code? {
            try writer.setManifest(descriptor, tag: "t")
            let reference = try ImageReference(layout: directory, tag: "t")
            return #expect(throws: OCIError.self) {
                try ImageResolver.resolve(reference, source: reference.openSource())
            }?.code
        }
        var deep = try addImage(writer, Platform.host.architecture)
        for _ in 0..<4 {
            deep = try writer.addBlob(ImageIndex(manifests: [deep]).serialized(), mediaType: MediaType.ociIndex)
        }
        #expect(try code(deep) == .badManifest)
        let empty = try writer.addBlob(Array("{}".utf8), mediaType: "application/vnd.cncf.helm.config.v1+json")
        let chart = ImageManifest(config: empty, layers: [])
        #expect(try code(writer.addBlob(chart.serialized(), mediaType: MediaType.ociManifest)) == .unsupported)
        let config = try writer.addBlob(Array(#"{"rootfs":{"diff_ids":[]}}"#.utf8), mediaType: MediaType.ociConfig)
        for (layer, expected) in [
            (MediaType.ociLayer, OCIError.Code.badManifest),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", .unsupported),
        ] {
            var descriptor = empty
            descriptor.mediaType = layer
            let image = ImageManifest(config: config, layers: [descriptor])
            #expect(try code(writer.addBlob(image.serialized(), mediaType: MediaType.ociManifest)) == expected)
        }
    }
}
