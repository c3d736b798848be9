import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Images that say something untrue: each is refused with its reason before any of it is in the index.
    @Suite("images that lie, are cut, or are huge")
    struct BadInput {
        @Test("a layer that lies is refused by name, and the store is as it was")
        func layers() throws {
            try Sandbox.with { sandbox in
                let before = try Self.filledStore(sandbox)
                for lie in LayerLie.allCases {
                    let (image, words) = try lie.make("\(sandbox.directory)/\(lie)")
                    try Self.expectRefusal(
                        of: image, saying: ["\(image.layers[0])"] + words, lie.rawValue, before, sandbox)
                }
            }
        }

        @Test("a manifest, config or index that lies is refused, and the store is as it was")
        func manifests() throws {
            try Sandbox.with { sandbox in
                let before = try Self.filledStore(sandbox)
                for lie in ManifestLie.allCases {
                    let (image, words) = try lie.make("\(sandbox.directory)/\(lie)")
                    try Self.expectRefusal(of: image, saying: words, lie.rawValue, before, sandbox)
                }
            }
        }

        @Test("a name that climbs stays inside of the layer")
        func climbs() throws {
            try Sandbox.with { sandbox in
                let layer = HandmadeLayer([
                    .init("../../../../evil-of-lamina", noise(10)), .init("a/../../b", noise(10)),
                ])
                let image = try HandmadeImage(sandbox.directory + "/climbs", layer)
                let mount = try sandbox.mount(image.reference)
                try sandbox.lamina("pull", image.reference)
                #expect(try run(["ls", mount]).orThrow().output == "b\nevil-of-lamina\n")
                #expect(access("/evil-of-lamina", F_OK) != 0)
                #expect(
                    try run(["find", sandbox.directory, "-name", "*evil*", "-not", "-path", "\(mount)/*"]).output.split(
                        separator: "\n"
                    ).allSatisfy { $0.contains("/store/fs/") })
            }
        }

        @Test("the handmade image is good where it does not lie")
        func honest() throws {
            try Sandbox.with { sandbox in
                let files = [("a/one", noise(1)), ("a/many", noise(300_000)), ("b", noise(5000))]
                let layer = HandmadeLayer(files.map { .init($0.0, $0.1, chunkSize: 65_536) })
                let image = try HandmadeImage(sandbox.directory + "/good", layer)
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", image.reference).output)
                #expect(report.complete)
                let mount = try sandbox.mount(image.reference)
                for (name, bytes) in files {
                    try write(bytes, to: sandbox.directory + "/expected")
                    try run(["cmp", "\(mount)/\(name)", sandbox.directory + "/expected"]).orThrow()
                }
            }
        }

        /// A store with an image in it, and everything in its index.
        private static func filledStore(_ sandbox: Sandbox) throws -> [String] {
            let layer = HandmadeLayer([.init("good", noise(10_000))])
            let image = try HandmadeImage(sandbox.directory + "/good", layer)
            try sandbox.lamina("pull", image.reference)
            return try contents(sandbox)
        }

        private static func contents(_ sandbox: Sandbox) throws -> [String] {
            try sandbox.sql(".dump") + sandbox.backingFiles()
        }

        private static func expectRefusal(
            of image: HandmadeImage, saying words: [String], _ lie: String, _ before: [String], _ sandbox: Sandbox
        ) throws {
            let pull = try sandbox.attempt("pull", image.reference, seconds: 30)
            #expect(pull.exitCode == 1, "\(lie): \(pull)")
            for word in words {
                #expect(pull.errors.contains(word), "\(lie): says nothing of '\(word)': \(pull.errors)")
            }
            #expect(pull.errors.split(separator: "\n").last?.hasPrefix("lamina: ") == true, "\(lie): \(pull.errors)")
            #expect(pull.peakBytes < 200 << 20, "\(lie)")
            let lazy = try sandbox.attempt("pull", "--lazy", image.reference, seconds: 30)
            #expect(lazy.exitCode == 1, "\(lie): \(lazy)")
            #expect(try sandbox.number("SELECT count(*) FROM image_status") == 1, "\(lie)")
            let changes = Set(try contents(sandbox)).symmetricDifference(before)
            #expect(changes.isEmpty, "\(lie)")
        }
    }
}

/// A way in which a layer can be wrong.
enum LayerLie: String, CaseIterable {
    case footerCut = "the end of the footer is missing"
    case footerGarbage = "the footer's offset is no number"
    case footerBeyond = "the footer points behind the blob"
    case footerHuge = "the footer points to 2^63 - 1"
    case footerElsewhere = "the footer points to a file"
    case tocCut = "the member of the table of contents is cut"
    case tocFlipped = "a bit of the table of contents is flipped"
    case tocEmpty = "the table of contents is empty"
    case tocUnfinished = "the JSON is cut"
    case tocOther = "the table of contents is not the manifest's"
    case tocSizeHuge = "the tar header promises a table of contents of 8 GiB"
    case tocBomb = "the table of contents inflates a thousand times"
    case linkToNowhere = "a hard link leads nowhere"
    case linkRing = "hard links go in a ring"
    case offsetBeyond = "a chunk is behind the blob"
    case offsetNegative = "a chunk has a negative offset"
    case sizeNegative = "a file has a negative size"
    case sizeOverflows = "a file's size overflows"
    case chunksOverlap = "chunks overlap"
    case chunksMissing = "chunks leave a gap"
    case digestMalformed = "a digest is none"
    case parentIsFile = "a file is the parent of another"

    /// Writes the image; returns what the error must contain besides the layer's digest.
    func make(_ directory: String) throws -> (HandmadeImage, words: [String]) {
        let honest = HandmadeLayer([.init("first", noise(3000)), .init("second", noise(100_000), chunkSize: 30_000)])
        func image(_ layer: HandmadeLayer, _ blob: [UInt8]? = nil) throws -> HandmadeImage {
            try HandmadeImage(directory, layer, blob: blob)
        }
        func listing(_ entries: HandmadeLayer.Entry...) throws -> HandmadeImage {
            try image(HandmadeLayer([.init("first", noise(3000))] + entries))
        }
        func chunked(first: [String: JSON] = [:], rest: [String: JSON] = [:]) throws -> HandmadeImage {
            try listing(.init("evil/file", noise(100_000), chunkSize: 60_000, changes: first, chunkChanges: rest))
        }
        switch self {
        case .footerCut: return (try image(honest, honest.blob().dropLast(20)), ["footer"])
        case .footerGarbage:
            var blob = honest.blob()
            blob[blob.count - 51 + 20] = UInt8(ascii: "z")
            return (try image(honest, blob), ["offset", "not a number"])
        case .footerBeyond:
            let offset = honest.blob().count + 1
            return (try image(honest, honest.blob(tocOffset: offset)), ["footer", "\(offset)"])
        case .footerHuge: return (try image(honest, honest.blob(tocOffset: .max)), ["footer", "\(Int.max)"])
        case .footerElsewhere:
            return (try image(honest, honest.blob(tocOffset: honest.offsets["second"]?[0])), ["table of contents"])
        case .tocCut: return (try image(honest, honest.blob { $0.dropLast($0.count / 2) }), ["member"])
        case .tocFlipped:
            let blob = honest.blob { member in
                var member = member
                member[800] ^= 1
                return member
            }
            return (try image(honest, blob), [])
        case .tocEmpty:
            var layer = honest
            layer.toc = []
            return (try image(layer), [])
        case .tocUnfinished:
            var layer = honest
            layer.toc.removeLast(40)
            return (try image(layer), ["byte"])
        case .tocOther:
            let other = SHA256.hash([1])
            let written = try HandmadeImage(directory, blob: honest.blob(), diffID: honest.diffID, tocDigest: other)
            return (written, ["\(other)", "\(SHA256.hash(honest.toc))"])
        case .tocSizeHuge: return (try image(honest, honest.blob(tocSize: 0o77777777777)), ["\(0o77777777777)"])
        case .tocBomb: return (try image(honest, try bomb(honest)), ["\(64 << 20)"])
        case .linkToNowhere:
            return (
                try listing(.init("evil", type: "hardlink", changes: ["linkName": .string("nowhere")])),
                ["evil", "nowhere"]
            )
        case .linkRing:
            let image = try listing(
                .init("evil1", type: "hardlink", changes: ["linkName": .string("evil2")]),
                .init("evil2", type: "hardlink", changes: ["linkName": .string("evil1")]))
            return (image, ["evil"])
        case .offsetBeyond: return (try chunked(rest: ["offset": .integer(1 << 40)]), ["evil/file", "\(1 << 40)"])
        case .offsetNegative: return (try chunked(first: ["offset": .integer(-5)]), ["evil/file", "-5"])
        case .sizeNegative: return (try chunked(first: ["size": .integer(-100_000)]), ["evil/file", "-100000"])
        case .sizeOverflows:
            let image = try chunked(
                first: ["size": .integer(.max)], rest: ["chunkOffset": .integer(.max - 5), "chunkSize": .integer(100)])
            return (image, ["evil/file"])
        case .chunksOverlap: return (try chunked(rest: ["chunkOffset": .integer(50_000)]), ["evil/file"])
        case .chunksMissing:
            return (try chunked(rest: ["chunkOffset": .integer(70_000), "chunkSize": .integer(30_000)]), ["evil/file"])
        case .digestMalformed:
            return (try chunked(rest: ["chunkDigest": .string("sha256:zz")]), ["at byte", "chunkDigest", "sha256:zz"])
        case .parentIsFile: return (try listing(.init("first/evil", noise(10))), ["first"])
        }
    }

    /// A table of contents of 64 MiB of blanks in some 64 KiB.
    private func bomb(_ layer: HandmadeLayer) throws -> [UInt8] {
        let header = HandmadeLayer.tarHeader("stargz.index.json", type: "reg", size: 64 << 20)
        let text = header.map { String($0) }.joined(separator: ",")
        let script =
            "import gzip,sys; sys.stdout.write(gzip.compress(bytes([\(text)]) + b' ' * (64 << 20) + bytes(1024)).hex())"
        let hex = Array(try run(["python3", "-c", script]).orThrow().output.utf8)
        let member = stride(from: 0, to: hex.count - 1, by: 2).map { place in
            UInt8(String(decoding: hex[place..<place + 2], as: UTF8.self), radix: 16) ?? 0
        }
        return layer.blob { _ in member }
    }
}

/// A way in which what is above the layers can be wrong.
enum ManifestLie: String, CaseIterable {
    case manifestCut = "the manifest is cut"
    case manifestChanged = "the manifest has another digest than its name"
    case manifestNotJSON = "the manifest is no JSON, with the right digest"
    case manifestSizeHuge = "the index gives the manifest 2^50 bytes"
    case indexCut = "the index is cut"
    case indexEmpty = "the index is empty"
    case indexHuge = "the index has 64 MiB"
    case configMissing = "the config is missing"
    case configNotJSON = "the config is no JSON"
    case layerMissing = "the layer is missing"
    case layerCut = "the layer is shorter than the manifest says"
    case layerSizeHuge = "the manifest gives the layer 2^60 bytes"
    case layerSizeNegative = "the manifest gives the layer a negative size"
    case layerNone = "the layer is a single byte"

    func make(_ directory: String) throws -> (HandmadeImage, words: [String]) {
        // A new layer each time: lamina asks nothing about what a store already has.
        let layer = HandmadeLayer([.init("file", Array(rawValue.utf8) + noise(10_000))])
        let toc = SHA256.hash(layer.toc)
        func image(_ change: (inout ImageManifest) -> Void = { _ in }) throws -> HandmadeImage {
            try HandmadeImage(directory, blob: layer.blob(), diffID: layer.diffID, tocDigest: toc, change: change)
        }
        func rewrite(_ path: String, _ change: (inout [UInt8]) -> Void) throws {
            var bytes = try readFile(path)
            change(&bytes)
            try write(bytes, to: path)
        }
        func replaceInIndex(_ image: HandmadeImage, _ old: String, _ new: String) throws {
            try rewrite(image.indexPath) {
                $0 = Array(String(decoding: $0, as: UTF8.self).replacing(old, with: new).utf8)
            }
        }
        switch self {
        case .manifestCut:
            let image = try image()
            try rewrite(image.manifestPath) { $0.removeLast(100) }
            return (image, ["\(image.manifest)"])
        case .manifestChanged:
            let image = try image()
            try rewrite(image.manifestPath) { $0[$0.count - 10] ^= 1 }
            return (image, ["\(image.manifest)"])
        case .manifestNotJSON:
            let image = try image()
            let text = Array("not a manifest".utf8)
            let digest = SHA256.hash(text)
            try write(text, to: image.blobPath(digest))
            let size = try readFile(image.manifestPath).count
            try replaceInIndex(image, image.manifest.hex, digest.hex)
            try replaceInIndex(image, "\"size\":\(size)", "\"size\":\(text.count)")
            return (image, ["\(digest)"])
        case .manifestSizeHuge:
            let image = try image()
            try replaceInIndex(image, "\"size\":\(readFile(image.manifestPath).count)", "\"size\":\(1 << 50)")
            return (image, ["\(image.manifest)"])
        case .indexCut:
            let image = try image()
            try rewrite(image.indexPath) { $0.removeLast(30) }
            return (image, [image.indexPath])
        case .indexEmpty:
            let image = try image()
            try write([], to: image.indexPath)
            return (image, [image.indexPath])
        case .indexHuge:
            let image = try image()
            try rewrite(image.indexPath) { $0 = [UInt8](repeating: UInt8(ascii: " "), count: 64 << 20) + $0 }
            return (image, [image.indexPath])
        case .configMissing:
            var config: Digest?
            let image = try image { config = $0.config.digest }
            unlink(image.blobPath(config ?? toc))
            return (image, ["\(config ?? toc)"])
        case .configNotJSON:
            let text = Array("nothing".utf8)
            let image = try HandmadeImage(
                directory, blob: layer.blob(), diffID: layer.diffID, tocDigest: toc, config: text)
            return (image, ["\(SHA256.hash(text))"])
        case .layerMissing:
            let image = try image()
            unlink(image.blobPath(image.layers[0]))
            return (image, [image.layers[0].hex])
        case .layerCut:
            let image = try image()
            try rewrite(image.blobPath(image.layers[0])) { $0.removeLast(60) }
            return (image, [image.layers[0].hex])
        case .layerSizeHuge:
            let image = try image { $0.layers[0].size = 1 << 60 }
            return (image, [image.layers[0].hex])
        case .layerSizeNegative:
            let image = try image { $0.layers[0].size = -5 }
            return (image, ["\(image.manifest)", "layers[0].size"])
        case .layerNone:
            let image = try HandmadeImage(directory, blob: [0x1f], diffID: layer.diffID, tocDigest: toc)
            return (image, ["\(image.layers[0])"])
        }
    }
}
