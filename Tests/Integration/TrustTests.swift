import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Images that name what is not theirs, with a real containerd: docs/security.md has the rules.
    @Suite("what one image may do to another, under containerd", Containerd.isInstalled)
    struct Trust {
        private static let honest = Array("this is the honest file\n".utf8)
        private static let evil = Array("this is a foreign file!\n".utf8)

        private static func layer(_ bytes: [UInt8], _ seed: UInt64) -> HandmadeLayer {
            HandmadeLayer([
                .init("data/", type: "dir"), .init("data/mark", bytes), .init("data/more", noise(40_000, seed: seed)),
            ])
        }

        /// Pushes an honest image, and one of other files that says that its layer has the tar of the honest one.
        private func push(_ sandbox: Sandbox, _ name: String) throws -> (honest: String, evil: String) {
            let registry = try Shared.registry.get()
            let (good, bad) = (Self.layer(Self.honest, 1), Self.layer(Self.evil, 2))
            let own = try HandmadeImage(sandbox.directory + "/honest.oci", good)
            let other = try HandmadeImage(
                sandbox.directory + "/evil.oci", blob: bad.blob(), diffID: good.diffID, tocDigest: SHA256.hash(bad.toc))
            try registry.push(layout: own.directory, sourceTag: "x", name: "\(name)/honest", tag: "1")
            try registry.push(layout: other.directory, sourceTag: "x", name: "\(name)/evil", tag: "1")
            return ("\(registry.host)/\(name)/honest:1", "\(registry.host)/\(name)/evil:1")
        }

        /// What a new snapshot of an image, as a pod gets one, shows.
        private func mark(_ reference: String, _ cri: CRI, _ sandbox: Sandbox, _ name: String) throws -> [UInt8] {
            let mount = try sandbox.mountPoint(name)
            try cri.containerd.mountImage(reference, at: mount, namespace: "k8s.io")
            defer { try? cri.containerd.unmountImage(mount, namespace: "k8s.io") }
            return try readFile(mount + "/data/mark")
        }

        @Test(
            "a client's labels are believed where no containerd is there to be asked, and not while one does not answer",
            Requirements.tools("ctr-remote:stargz-snapshotter"), arguments: [true, false])
        func witness(isThere: Bool) throws {
            try Sandbox.with { sandbox in
                let address = sandbox.directory + "/other.sock"
                // A name without a server: what a containerd leaves that restarts.
                if isThere { try write([], to: address) }
                let containerd = try LaminaContainerd(sandbox, witness: address)
                defer { containerd.stop() }
                let reference = try push(sandbox, isThere ? "witness-silent" : "witness-absent").honest
                try containerd.pullLazily(reference)
                let lazy = try sandbox.number("SELECT count(*) FROM snapshot_status WHERE lazy = 'yes'")
                #expect(lazy == (isThere ? 0 : 1))
                let isTold = containerd.lamina.child.errorsSoFar.contains("[snapshotter] containerd_address")
                #expect(isTold, "\(containerd.lamina.child.errorsSoFar)")
            }
        }

        private func states(_ sandbox: Sandbox) throws -> [String] {
            try sandbox.sql("SELECT state FROM chain_status ORDER BY layer_row")
        }

        @Test(
            "a chain that another image has brought is the honest image's when its pull by lamina's image service is answered"
        )
        func imageService() throws {
            try CRI.with { cri, sandbox in
                let (honest, evil) = try push(sandbox, "poison-claimed")
                try cri("pull", evil)
                #expect(try states(sandbox).count == 1)
                try cri("pull", honest)
                #expect(try mark(honest, cri, sandbox, "first") == Self.honest)
                // A restart in between changes nothing.
                try cri.containerd.lamina.killServer()
                #expect(try mark(honest, cri, sandbox, "second") == Self.honest)
                #expect(try states(sandbox) == ["proven"])
                // Nor does the other one's coming again.
                _ = try cri.attempt(["pull", evil])
                #expect(try mark(honest, cri, sandbox, "third") == Self.honest)
            }
        }

        @Test(
            "an image whose layers are never proven, as its tars lack zeros at their ends, gets its chains from whoever claims them"
        )
        func unpadded() throws {
            try CRI.with { cri, sandbox in
                let (name, registry) = ("zstd-chunked-skopeo-1.9", try Shared.registry.get())
                let honest = try FixtureImages.reference(name, sandbox)
                let layout = Fixtures.layout(name)
                let image = try ImageResolver.resolve(
                    ImageReference(parsing: "oci:\(layout)"), source: OCILayoutSource(directory: layout))
                let bad = Self.layer(Self.evil, 4)
                let other = try HandmadeImage(
                    sandbox.directory + "/evil.oci", blob: bad.blob(), diffID: try #require(image.diffIDs.first),
                    tocDigest: SHA256.hash(bad.toc))
                try registry.push(layout: other.directory, sourceTag: "x", name: "unpadded/evil", tag: "1")
                try cri("pull", "\(registry.host)/unpadded/evil:1")
                try cri("pull", honest)
                let mount = try sandbox.mountPoint("honest")
                try cri.containerd.mountImage(honest, at: mount, namespace: "k8s.io")
                defer { try? cri.containerd.unmountImage(mount, namespace: "k8s.io") }
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, name, keepsFractions: FixtureImages.keepsFractions(name))
            }
        }

        @Test(
            "isolated, a chain that another repository has brought gets the layer of the image that is pulled, proven or not"
        )
        func isolated() throws {
            try CRI.with("[store]\ncontent_sharing_policy = \"isolated\"\n") { cri, sandbox in
                let registry = try Shared.registry.get()
                let image = try HandmadeImage(sandbox.directory + "/own.oci", Self.layer(Self.honest, 6))
                for (number, name) in ["one", "two", "one"].enumerated() {
                    let repository = "isolated-chain/\(name)"
                    try registry.push(layout: image.directory, sourceTag: "x", name: repository, tag: "1")
                    let reference = "\(registry.host)/\(repository):1"
                    try cri("pull", reference)
                    let chains = try sandbox.sql("SELECT repository FROM chain_status")
                    #expect(chains.count == 1 && chains.allSatisfy { $0.hasSuffix(repository) }, "\(chains)")
                    #expect(try mark(reference, cri, sandbox, "pull\(number)") == Self.honest)
                }
                #expect(try states(sandbox) == ["proven"])
            }
        }

        @Test("with chains = \"proven\" nothing of another image is ever seen, whoever pulls")
        func proven() throws {
            try CRI.with("[trust]\nchains = \"proven\"\n") { cri, sandbox in
                let (honest, evil) = try push(sandbox, "poison-proven")
                let socket = Containerd.socket(in: sandbox)
                let refused = try cri.attempt(["pull", evil], images: socket)
                #expect(refused.exitCode == 1, "containerd itself unpacks it, and finds another tar: \(refused)")
                #expect(try states(sandbox).isEmpty)
                #expect(try cri.attempt(["pull", honest], images: socket).exitCode == 0)
                #expect(try mark(honest, cri, sandbox, "first") == Self.honest)
                #expect(try states(sandbox) == ["proven"])
            }
        }

        @Test(
            "past lamina's image service a false chain is refused once its tar was hashed, with the reason, and heals with a pull through it"
        )
        func quarantine() throws {
            try CRI.with { cri, sandbox in
                let (honest, evil) = try push(sandbox, "poison-past")
                let socket = Containerd.socket(in: sandbox)
                #expect(try cri.attempt(["pull", evil], images: socket).exitCode == 0)
                #expect(try cri.attempt(["pull", honest], images: socket).exitCode == 0)
                #expect(try eventually(seconds: 60) { try states(sandbox) == ["quarantined"] })
                for round in ["before", "after"] {
                    let error = try #require(
                        #expect(throws: (any Error).self) { try mark(honest, cri, sandbox, round) })
                    #expect("\(error)".contains("is in quarantine"), "\(error)")
                    #expect("\(error)".contains("its tar has the digest"), "\(error)")
                    let status = try sandbox.lamina("status").output
                    #expect(status.contains("quarantine"), "\(status)")
                    let check = try sandbox.attempt("check")
                    #expect(check.exitCode == 2 && check.output.contains("layer in quarantine"), "\(check)")
                    // A restart in between changes nothing.
                    if round == "before" { try cri.containerd.lamina.killServer() }
                }
                let log = cri.containerd.lamina.child.errorsSoFar
                #expect(log.contains("nothing of it is served any more"))
                let shown = try sandbox.lamina("trust", "show", evil).output
                #expect(shown.contains("quarantined"), "\(shown)")

                try cri("pull", honest)
                #expect(try mark(honest, cri, sandbox, "healed") == Self.honest)
                #expect(try states(sandbox) == ["proven"])
            }
        }

        /// An image whose layer says itself that it is one of another image, at another host.
        private func pushAnnotated(_ sandbox: Sandbox, naming other: CountingProxy) throws -> String {
            let registry = try Shared.registry.get()
            let layer = Self.layer(Self.honest, 3)
            // What it names is there, and has the chain.
            let named = try HandmadeImage(sandbox.directory + "/named.oci", layer)
            try registry.push(layout: named.directory, sourceTag: "x", name: "annotated/named", tag: "1")
            let image = try HandmadeImage(
                sandbox.directory + "/annotated.oci", blob: layer.blob(), diffID: layer.diffID,
                tocDigest: SHA256.hash(layer.toc)
            ) { manifest in
                let digest = manifest.layers[0].digest.description
                let prefix = "containerd.io/snapshot/remote/stargz."
                manifest.layers[0].annotations[prefix + "reference"] = "\(other.host)/annotated/named:1"
                manifest.layers[0].annotations[prefix + "digest"] = digest
                manifest.layers[0].annotations[prefix + "layers"] = digest
            }
            try registry.push(layout: image.directory, sourceTag: "x", name: "annotated/image", tag: "1")
            return "\(registry.host)/annotated/image:1"
        }

        @Test(
            "no request leaves for what the annotations of a manifest name: by CRI, and by ctr",
            arguments: ["cri", "ctr"])
        func annotations(client: String) throws {
            let other = try CountingProxy(upstream: Shared.registry.get().port)
            defer { other.stop() }
            try CRI.with { cri, sandbox in
                let reference = try pushAnnotated(sandbox, naming: other)
                if client == "cri" {
                    try cri("pull", reference)
                } else {
                    try cri.containerd.pull(reference)
                }
                #expect(other.requests.isEmpty, "\(other.requests.map(\.path))")
                // What clients say, who are believed, is not in the manifest.
                let lazy = try sandbox.sql("SELECT layer FROM snapshot_status WHERE lazy = 'yes'")
                #expect(lazy.isEmpty)
            }
        }
    }
}
