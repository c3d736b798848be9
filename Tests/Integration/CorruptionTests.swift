import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("bytes that are not what the table of contents says")
    struct Corruption {
        static let files = [
            ("good", noise(20_000, seed: 2)), ("bad", noise(200_000)), ("also-good", noise(90_000, seed: 3)),
        ]

        /// An image at the sandbox's proxy: `bad` has chunks of 50,000 bytes.
        private static func push(_ sandbox: Sandbox) throws -> (HandmadeLayer, HandmadeImage, reference: String) {
            let layer = HandmadeLayer(files.map { .init($0.0, $0.1, chunkSize: 50_000) })
            let image = try HandmadeImage(sandbox.directory + "/layout", layer)
            try Shared.registry.get().push(layout: image.directory, name: "corrupt", tag: "x")
            for (name, bytes) in files { try write(bytes, to: "\(sandbox.directory)/\(name)") }
            return (layer, image, "\(try sandbox.proxy().host)/corrupt:x")
        }

        @Test("a chunk that arrives damaged once is fetched again, and the pull succeeds")
        func once() throws {
            try Sandbox.with { sandbox in
                let (layer, image, reference) = try Self.push(sandbox)
                let proxy = try sandbox.proxy()
                try sandbox.lamina("pull", "--lazy", reference)
                let place = Int64(try #require(layer.offsets["bad"]?[2]) + 1000)
                var faults = Faults()
                faults.corruptions = [.init(digest: image.layers[0], offset: place, count: 1)]
                proxy.reset()
                proxy.faults = faults
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(report.complete)
                let repeated = proxy.repeatedByteCount(of: image.layers[0])
                #expect(repeated > 0 && repeated < 120_000, "\(repeated) bytes again for a chunk of 50,000")
                let mount = try sandbox.mount(reference)
                for (name, _) in Self.files {
                    try run(["cmp", "\(mount)/\(name)", "\(sandbox.directory)/\(name)"]).orThrow()
                }
            }
        }

        @Test("a chunk that is always damaged is an error that names layer and offset, and is never served")
        func always() throws {
            try Sandbox.with { sandbox in
                let (layer, image, reference) = try Self.push(sandbox)
                let proxy = try sandbox.proxy()
                try sandbox.lamina("pull", "--lazy", reference)
                let place = try #require(layer.offsets["bad"]?[2])
                var faults = Faults()
                // After gzip's head and the stored block's.
                faults.corruptions = [.init(digest: image.layers[0], offset: Int64(place + 15))]
                proxy.faults = faults
                let pull = try sandbox.attempt("pull", reference)
                #expect(pull.exitCode == 1, "\(pull)")
                // What gzip's own checksum notices has no digest: the chunk's digest is expected, and nothing came that could
                // have one.
                for word in ["\(image.layers[0])", "\(place)"] {
                    #expect(pull.errors.contains(word), "says nothing of \(word): \(pull.errors)")
                }

                let mount = try sandbox.mount(reference)
                let read = try run(["cmp", "\(mount)/bad", "\(sandbox.directory)/bad"], seconds: 60)
                #expect(read.exitCode == 2 && read.errors.contains("Input/output error"), "\(read)")
                for name in ["good", "also-good"] {
                    try run(["cmp", "\(mount)/\(name)", "\(sandbox.directory)/\(name)"]).orThrow()
                }
                // And when the bytes are right again, the file is right again.
                proxy.faults = Faults()
                try run(["cmp", "\(mount)/bad", "\(sandbox.directory)/bad"], seconds: 60).orThrow()
                #expect(try (decoded(sandbox.lamina("pull", "--json", reference).output) as PullReport).complete)
            }
        }

        @Test(
            "a chunk whose digest in the table of contents is false is an error that names layer, offset, expected and actual digest, and is never served"
        )
        func falseDigest() throws {
            try Sandbox.with { sandbox in
                let bytes = noise(200_000)
                let claimed = SHA256.hash([7])
                let layer = HandmadeLayer([
                    .init("good", noise(5000, seed: 2)),
                    .init("bad", bytes, chunkSize: 100_000, chunkChanges: ["chunkDigest": .string("\(claimed)")]),
                ])
                let image = try HandmadeImage(sandbox.directory + "/layout", layer)
                let pull = try sandbox.attempt("pull", image.reference)
                #expect(pull.exitCode == 1, "\(pull)")
                let actual = SHA256.hash(Array(bytes[100_000...]))
                for word in ["\(image.layers[0])", "100000", "\(claimed)", "\(actual)"] {
                    #expect(pull.errors.contains(word), "says nothing of \(word): \(pull.errors)")
                }
                let mount = try sandbox.mount(image.reference)
                let read = try run(["cat", "\(mount)/bad"], seconds: 60)
                #expect(read.exitCode == 1 && read.errors.contains("Input/output error"), "\(read)")
                try run(["cat", "\(mount)/good"]).orThrow()
            }
        }
    }

    /// A digest in a table of contents is a claim.
    @Suite("poison: an image that claims a well-known file's digest for other bytes")
    struct Poison {
        static let bytes = noise(300_000)
        static let evil = noise(300_000, seed: 66)

        @Test(
            "does not change what another image reads", arguments: [65_536, 300_000],
            ["the liar is pulled first", "the liar is pulled last", "the liar is read first", "the liar is read last"])
        func poison(_ chunkSize: Int, _ order: String) throws {
            try Sandbox.with { sandbox in
                let good = try HandmadeImage(
                    sandbox.directory + "/good", HandmadeLayer([.init("file", Self.bytes, chunkSize: chunkSize)]))
                let digest = JSON.string(SHA256.hash(Self.bytes).description)
                let evil = try HandmadeImage(
                    sandbox.directory + "/evil",
                    HandmadeLayer([.init("file", Self.evil, chunkSize: chunkSize, changes: ["digest": digest])]))
                try write(Self.bytes, to: sandbox.directory + "/expected")
                let isLazy = order.contains("read")
                func pull(_ image: HandmadeImage) throws -> Outcome {
                    isLazy
                        ? try sandbox.attempt("pull", "--lazy", image.reference)
                        : try sandbox.attempt("pull", image.reference)
                }
                func expectGood(_ mount: String) throws {
                    let compared = try run(["cmp", "\(mount)/file", sandbox.directory + "/expected"], seconds: 30)
                    #expect(compared.exitCode == 0, "\(compared)")
                }
                func expectHarmless(_ mount: String) throws {
                    // What the liar brought, what it claims to be, or an error; never a mixture.
                    let copied = try run(["cp", "\(mount)/file", sandbox.directory + "/read"], seconds: 30)
                    guard copied.exitCode == 0 else {
                        #expect(copied.errors.contains("Input/output error"), "\(copied)")
                        return
                    }
                    let read = SHA256.hash(try readFile(sandbox.directory + "/read"))
                    #expect(read == SHA256.hash(Self.evil) || read == SHA256.hash(Self.bytes))
                }
                let liarFirst = order.hasSuffix("first")
                let outcomes = try [liarFirst ? evil : good, liarFirst ? good : evil].map(pull)
                #expect(outcomes[liarFirst ? 1 : 0].exitCode == 0, "\(outcomes)")
                let evilPull = outcomes[liarFirst ? 0 : 1]
                if evilPull.exitCode != 0 { #expect(evilPull.errors.contains("\(evil.layers[0])"), "\(evilPull)") }
                let goodMount = try sandbox.mount(good.reference, at: "good-mount")
                if try sandbox.number("SELECT count(*) FROM image_status WHERE reference = '\(evil.reference)'") == 1 {
                    let evilMount = try sandbox.mount(evil.reference, at: "evil-mount")
                    if liarFirst { try expectHarmless(evilMount) }
                    try expectGood(goodMount)
                    try expectHarmless(evilMount)
                }
                try expectGood(goodMount)
                // With the index after all that, an honest pull has nothing to do.
                #expect(try (decoded(sandbox.lamina("pull", "--json", good.reference).output) as PullReport).complete)
            }
        }
    }
}
