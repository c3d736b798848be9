import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Squatting: a manifest names the blob of another image's layer, and a table of contents that is not the blob's.
    @Suite("a manifest that names another image's layer with a table of contents of its own")
    struct Squatting {
        enum Lie: CaseIterable {
            /// The manifest says it, and every registry has the right blob.
            case ofTheManifest
            /// The squatter's registry gives other bytes for the blob, so that they fit the manifest.
            case ofTheRegistry
        }

        /// What the honest image is made of.
        enum Kind: CaseIterable {
            /// eStargz whose manifest names the table of contents.
            case annotated
            /// tar+gzip, of which no manifest says more than the digest of the blob.
            case plain
            /// zstd:chunked as podman writes it: the manifest names the table of contents by an annotation that no label has.
            case chunked
        }

        /// What the server may log of all that, in bytes.
        private static let logLimit = 10_000
        private static let honest = Array("this is the honest file\n".utf8)
        private static let foreign = Array("this is a foreign file!\n".utf8)

        private static func layer(_ bytes: [UInt8], _ seed: UInt64) -> HandmadeLayer {
            HandmadeLayer([
                .init("data/", type: "dir"), .init("data/mark", bytes),
                .init("data/more", noise(400_000, seed: seed), chunkSize: 50_000),
            ])
        }

        /// The tar of a plain layer with the honest files.
        private static var tar: [UInt8] {
            var tar = HandmadeLayer.tarHeader("data/", type: "dir", size: 0)
            for (name, bytes) in [("data/mark", honest), ("data/more", noise(400_000, seed: 1))] {
                tar += HandmadeLayer.tarHeader(name, type: "reg", size: bytes.count) + bytes
                tar += [UInt8](repeating: 0, count: (512 - bytes.count % 512) % 512)
            }
            return tar + [UInt8](repeating: 0, count: 1024)
        }

        /// The layout of an honest image without eStargz's annotation, its tag, and its only layer.
        private static func unannotated(
            _ sandbox: Sandbox, _ kind: Kind
        ) throws -> (layout: String, layer: Descriptor, diffID: Digest) {
            let layout = sandbox.directory + "/honest.oci"
            if kind == .chunked {
                let tree = try sandbox.mountPoint("honest-tree")
                try createDirectories(tree + "/data")
                try write(honest, to: tree + "/data/mark")
                try write(noise(400_000, seed: 1), to: tree + "/data/more")
                try sandbox.lamina("convert", "--format", "zstd-chunked", "dir:\(tree)", "oci:\(layout):x")
            } else {
                _ = try HandmadeImage(
                    layout, blob: HandmadeLayer.gzip(tar), diffID: SHA256.hash(tar), tocDigest: nil)
            }
            let image = try ImageResolver.resolve(
                ImageReference(parsing: "oci:\(layout):x"), source: OCILayoutSource(directory: layout))
            return (layout, try #require(image.layers.first), try #require(image.diffIDs.first))
        }

        /// An honest image, and one that squats on its layer, each at a registry of its own.
        private final class Images {
            let honest: String
            let squatter: String
            private let own: CountingProxy
            private let other: CountingProxy

            /// Pushes an honest image of another kind, and one that says that the honest one's blob is an eStargz layer, as its registry
            /// has it.
            init(_ sandbox: Sandbox, _ kind: Kind, _ name: String) throws {
                let registry = try Shared.registry.get()
                (own, other) = (try CountingProxy(upstream: registry.port), try CountingProxy(upstream: registry.port))
                let (layout, right, diffID) = try unannotated(sandbox, kind)
                let wrong = layer(Squatting.foreign, 2)
                let squatting = try HandmadeImage(
                    sandbox.directory + "/squatter.oci", blob: wrong.blob(), diffID: diffID,
                    tocDigest: SHA256.hash(wrong.toc)
                ) { manifest in manifest.layers[0].digest = right.digest }
                try registry.push(layout: layout, sourceTag: "x", name: "\(name)/honest", tag: "1")
                // Both are there: the one that the manifest names, and the one that comes in its place.
                let bytes = try readFile("\(layout)/blobs/sha256/\(right.digest.hex)")
                _ = try registry.pushBlob(bytes, name: "\(name)/squatter")
                let blob = try registry.pushBlob(wrong.blob(), name: "\(name)/squatter")
                try registry.push(layout: squatting.directory, sourceTag: "x", name: "\(name)/squatter", tag: "1")
                other.faults.substitutes = [right.digest: blob]
                honest = "\(own.host)/\(name)/honest:1"
                squatter = "\(other.host)/\(name)/squatter:1"
            }

            init(_ sandbox: Sandbox, _ lie: Lie, _ name: String) throws {
                let registry = try Shared.registry.get()
                (own, other) = (try CountingProxy(upstream: registry.port), try CountingProxy(upstream: registry.port))
                let (right, wrong) = (layer(Squatting.honest, 1), layer(Squatting.foreign, 2))
                #expect(right.blob().count == wrong.blob().count)
                let image = try HandmadeImage(sandbox.directory + "/honest.oci", right)
                // It says that its tar is the honest one, too: it is the same chain.
                let squatting = try HandmadeImage(
                    sandbox.directory + "/squatter.oci", blob: right.blob(), diffID: right.diffID,
                    tocDigest: SHA256.hash(wrong.toc))
                try registry.push(layout: image.directory, sourceTag: "x", name: "\(name)/honest", tag: "1")
                try registry.push(layout: squatting.directory, sourceTag: "x", name: "\(name)/squatter", tag: "1")
                if lie == .ofTheRegistry {
                    let blob = try registry.pushBlob(wrong.blob(), name: "\(name)/squatter")
                    other.faults.substitutes = [SHA256.hash(right.blob()): blob]
                }
                honest = "\(own.host)/\(name)/honest:1"
                squatter = "\(other.host)/\(name)/squatter:1"
            }

            deinit {
                own.stop()
                other.stop()
            }
        }

        // MARK: What is expected of the server

        /// Expects that a server takes almost no time of the processors, within five seconds.
        private func expectRest(_ server: pid_t, _ what: String) {
            let began = now()
            var used: Int64 = 0
            let rests = eventually(seconds: 5) {
                let before = processorTime(server)
                usleep(500_000)
                used = processorTime(server) - before
                return used <= 10_000_000
            }
            print("\(what): \(Double(used) / 5_000_000) % of a processor, \(now() - began) s later")
            #expect(rests, "\(what): \(used / 1_000_000) ms of 500")
        }

        private func expectLittle(_ log: String, _ what: String) {
            print("\(what): \(log.utf8.count) bytes of log")
            #expect(log.utf8.count < Self.logLimit, "\(what): \(log.utf8.count) bytes\n\(log.prefix(4000))")
        }

        /// Expects that SIGTERM ends a server within five seconds.
        private func expectEnd(_ server: pid_t, _ what: String) {
            let began = now()
            kill(server, SIGTERM)
            let hasEnded = eventually(seconds: 5) { !isAlive(server) }
            print("\(what): ended by SIGTERM after \(now() - began) s")
            #expect(hasEnded, "\(what)")
        }

        // MARK: The tests

        @Test(
            "in front of the honest one and behind it, in one process and across restarts: the honest image is right, the other one is refused or shows its own files, and the server rests, logs little and ends when told",
            arguments: Lie.allCases, [true, false])
        func beside(lie: Lie, isFirst: Bool) throws {
            try Sandbox.with { sandbox in
                let images = try Images(sandbox, lie, "squat-\(lie == .ofTheManifest)-\(isFirst)")
                func honest(_ name: String) throws {
                    let mount = try sandbox.mount(images.honest, at: name)
                    #expect(try readFile(mount + "/data/mark") == Self.honest, "\(name)")
                    #expect(try readFile(mount + "/data/more") == noise(400_000, seed: 1), "\(name)")
                }
                /// Refused with words, or its own files.
                func squatter(_ name: String) throws {
                    let mount = try sandbox.mountPoint(name)
                    let outcome = try sandbox.attempt("mount", images.squatter, mount)
                    guard outcome.exitCode == 0 else {
                        #expect(outcome.exitCode == 1, "\(outcome)")
                        let isSaid =
                            outcome.errors.contains("table of contents") || outcome.errors.contains("is in quarantine")
                        #expect(isSaid, "\(outcome)")
                        return
                    }
                    #expect(lie == .ofTheRegistry, "what no registry has was mounted")
                    #expect(try readFile(mount + "/data/mark") == Self.foreign, "\(name)")
                }
                for round in 0..<3 {
                    let what = "\(lie), \(isFirst ? "first" : "second"), round \(round)"
                    let server = try sandbox.serve()
                    if isFirst == (round != 1) {
                        try squatter("squatter\(round)")
                        try honest("honest\(round)")
                    } else {
                        try honest("honest\(round)")
                        try squatter("squatter\(round)")
                    }
                    if round == 1 {
                        // All of it: the squatter's tar is another one than its configuration says.
                        _ = try sandbox.attempt("pull", images.squatter)
                        try sandbox.lamina("pull", images.honest)
                    }
                    expectRest(server.pid, what)
                    for name in (0...round).map({ "honest\($0)" }) {
                        #expect(
                            try readFile("\(sandbox.directory)/\(name)/data/mark") == Self.honest, "\(what): \(name)")
                    }
                    let log = server.errorsSoFar
                    expectEnd(server.pid, what)
                    expectLittle(log, what)
                }
                // Within a minute of rest the tars were hashed: nothing of the squatter's is honest, and nothing of the honest one's is lost.
                let right = SHA256.hash(Self.layer(Self.honest, 1).toc)
                let server = try sandbox.serve()
                let isTold = try eventually(seconds: 60) {
                    try sandbox.number(
                        "SELECT count(*) FROM layer_status WHERE diff_id_proof = 'not yet' AND state = 'complete'") == 0
                }
                #expect(isTold)
                try honest("afterwards")
                expectEnd(server.pid, "\(lie), afterwards")
                let states = try sandbox.sql(
                    "SELECT toc_digest, quarantine IS NULL FROM layer_status ORDER BY layer_row")
                #expect(states.contains("\(right)|1"), "\(states)")
                let ledger = try sandbox.sql("SELECT * FROM layer_status")
                let falsely = states.filter { !$0.hasPrefix("\(right)") }
                #expect(falsely.allSatisfy { $0.hasSuffix("|0") }, "\(ledger)")
                #expect(falsely.isEmpty == (lie == .ofTheManifest), "\(states)")
            }
        }

        @Test(
            "the same under containerd: a pod of the honest image sees its files alone, whoever was pulled first",
            Containerd.isInstalled, arguments: Lie.allCases, [true, false])
        func underContainerd(lie: Lie, isFirst: Bool) throws {
            try expectHonest(isFirst, "\(lie), \(isFirst ? "first" : "second"), under containerd") {
                try Images($0, lie, "squat-cri-\(lie == .ofTheManifest)-\(isFirst)")
            }
        }

        @Test(
            "the same with honest images of which no annotation of eStargz says what is in their blob",
            Containerd.isInstalled, arguments: [Kind.plain, .chunked], [true, false])
        func unannotatedUnderContainerd(kind: Kind, isFirst: Bool) throws {
            try expectHonest(isFirst, "\(kind), \(isFirst ? "first" : "second"), under containerd") {
                try Images($0, kind, "squat-cri-\(kind)-\(isFirst)")
            }
        }

        /// Expects that a pod of the honest image sees its files alone.
        private func expectHonest(_ isFirst: Bool, _ what: String, _ push: (Sandbox) throws -> Images) throws {
            try CRI.with { cri, sandbox in
                let images = try push(sandbox)
                let supervisor = cri.containerd.lamina
                func mark(_ reference: String, _ name: String) throws -> [UInt8] {
                    let mount = try sandbox.mountPoint(name)
                    try cri.containerd.mountImage(reference, at: mount, namespace: "k8s.io")
                    defer { try? cri.containerd.unmountImage(mount, namespace: "k8s.io") }
                    return try readFile(mount + "/data/mark")
                }
                let logged = supervisor.child.errorsSoFar.utf8.count
                for round in 0..<2 {
                    for reference in isFirst ? [images.squatter, images.honest] : [images.honest, images.squatter] {
                        let pull = try cri.attempt(["pull", reference])
                        if reference == images.honest { try pull.orThrow() }
                    }
                    #expect(try mark(images.honest, "honest\(round)") == Self.honest, "\(what)")
                    // The chain is the honest image's now: whoever has it has its files, or nothing.
                    if let shown = try? mark(images.squatter, "squatter\(round)") {
                        #expect(shown == Self.honest, "\(what)")
                    }
                    let server = try #require(supervisor.server)
                    expectRest(server, what)
                    expectEnd(server, what)
                    #expect(try eventually(seconds: 20) { try supervisor.isReady() })
                    #expect(try mark(images.honest, "after\(round)") == Self.honest, "\(what)")
                }
                expectLittle(String(supervisor.child.errorsSoFar.utf8.dropFirst(logged)) ?? "", what)
            }
        }
    }
}
