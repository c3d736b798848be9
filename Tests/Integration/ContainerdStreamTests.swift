import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite(
        "plain layers under containerd",
        Requirements.tools("containerd", "ctr:containerd", "runc", "ctr-remote:stargz-snapshotter", "go:golang-go"))
    struct StreamedUnderContainerd {
        /// The namespace of CRI.
        private static let namespace = "k8s.io"
        /// What a kill may cost of a layer: what was asked for beyond its last checkpoint.
        private static let window: Int64 = 8 << 20

        /// An image of three plain layers, which change each other's files; each has `mebibytes` of its own.
        private static func image(
            _ name: String, mebibytes: Int, in sandbox: Sandbox
        ) throws -> (name: String, layers: [Digest], sizes: [Int64]) {
            let (tree, layout) = (sandbox.directory + "/" + name, sandbox.directory + "/\(name).oci")
            let script = """
                set -e
                mkdir "$1.tars"
                for n in 1 2 3; do
                    echo "layer $n" >"$1/changed"; echo $n >"$1/own$n"
                    mkdir -p "$1/only$n"; chmod 0710 "$1/only$n"; cp "$1/changed" "$1/only$n/file"
                    if [ $n = 3 ]; then mkdir -p "$1/over/only1"; touch "$1/over/only1/.wh.file"; fi
                    tar -C "$1" --numeric-owner -cf "$1.tars/$n.tar" changed own$n only$n part$n
                done
                tar -C "$1/over" --numeric-owner -rf "$1.tars/3.tar" only1/.wh.file
                """
            let parts = (1...3).map { "part\($0):\(mebibytes)" }.joined(separator: ",")
            try run(["python3", "-c", Scripts.generate, tree, name, parts, "0"], seconds: 240).orThrow()
            try run(["/bin/sh", "-c", script, "sh", tree]).orThrow()
            try LayeredImages.make(layout, of: (1...3).map { "\(tree).tars/\($0).tar" })
            try Shared.registry.get().push(layout: layout, sourceTag: "latest", name: "streamed/\(name)", tag: "1")
            let listing = """
                import json, sys
                def blob(digest): return json.load(open(sys.argv[1] + "/blobs/" + digest.replace(":", "/")))
                for layer in blob(json.load(open(sys.argv[1] + "/index.json"))["manifests"][0]["digest"])["layers"]:
                    print(layer["digest"], layer["size"])
                """
            let lines = try run(["python3", "-c", listing, layout]).orThrow().output.split(separator: "\n")
                .map { $0.split(separator: " ") }
            return (
                "streamed/\(name):1", try lines.map { try #require(Digest(parsing: String($0[0]))) },
                try lines.map { try #require(Int64($0[1])) }
            )
        }

        /// Expects that an image that was streamed is containerd's own tree of it, and that both agree of what they have.
        private static func expectSame(
            _ reference: String, direct: String, _ containerd: LaminaContainerd, _ sandbox: Sandbox,
            in namespace: String = namespace
        ) throws {
            let mount = try sandbox.mountPoint("view")
            try containerd.mountImage(reference, at: mount, namespace: namespace)
            defer { try? containerd.unmountImage(mount, namespace: namespace) }
            let other = try sandbox.mountPoint("unpacked")
            try containerd.ctr(
                "images", "pull", "--plain-http", "--snapshotter", "overlayfs", direct, namespace: "unpacked"
            ).orThrow()
            try containerd.ctr(
                "images", "mount", "--snapshotter", "overlayfs", direct, other, namespace: "unpacked"
            ).orThrow()
            defer { _ = try? containerd.ctr("images", "unmount", other, namespace: "unpacked") }
            try TreeOracle.expectSame(other, at: mount, in: sandbox, keepsFractions: true, ignoringDirectoryTimes: true)
        }

        @Test("are read by lamina as a whole, and no layer is downloaded by containerd; the tree is containerd's own")
        func fixture() throws {
            try UnderContainerd.with { containerd, sandbox in
                let reference = try FixtureImages.reference("plain-gzip", sandbox)
                try containerd.pullLazily(reference, namespace: Self.namespace)
                let layers = try sandbox.sql("SELECT layer FROM snapshot_status WHERE lazy = 'yes'")
                let all = try sandbox.sql("SELECT * FROM snapshot_status")
                #expect(layers.count == 3 && all.count == 3, "\(all)")
                #expect(
                    try containerd.blobs(namespace: Self.namespace).isDisjoint(with: layers), "layers were downloaded")
                #expect(
                    try sandbox.sql("SELECT DISTINCT diff_id_proof, state FROM layer_status") == ["proven|complete"])
                let mount = try sandbox.mountPoint("view")
                try containerd.mountImage(reference, at: mount, namespace: Self.namespace)
                defer { try? containerd.unmountImage(mount, namespace: Self.namespace) }
                try TreeOracle.expectFixture(at: mount, in: sandbox, "streamed", keepsFractions: true)
                let report = try containerd.check()
                #expect(report.differences == [] && report.lazyLayers == 3, "\(report)")
            }
        }

        @Test("are left to containerd where the configuration says so, and the reason names it")
        func configured() throws {
            let registry = try Shared.registry.get().host
            let configuration = """
                [snapshotter]
                streamed_namespaces = ["k8s.io", "mine"]
                unpacked_repositories = ["\(registry)/streamed/other"]
                """
            try UnderContainerd.with(configuration) { containerd, sandbox in
                let image = try Self.image("configured", mebibytes: 1, in: sandbox)
                let reference = "\(registry)/\(image.name)"
                // First: a layer cannot be streamed upon one that containerd has unpacked.
                try containerd.pullLazily(reference, namespace: "mine")
                #expect(try containerd.blobs(namespace: "mine").isDisjoint(with: image.layers.map(\.description)))
                #expect(try sandbox.number("SELECT count(*) FROM layer") == 3)
                for namespace in ["default", "moby"] {
                    try containerd.pullLazily(reference, namespace: namespace)
                    let refusals = try sandbox.sql(
                        "SELECT refusal FROM snapshot_status WHERE refusal LIKE '%plain_layers%'")
                    #expect(!refusals.isEmpty, "\(namespace)")
                    #expect(try containerd.blobs(namespace: namespace).isSuperset(of: image.layers.map(\.description)))
                }
                // What is in the store by another namespace's pull is no snapshot for one that is to have blobs.
                try containerd.removeAll(namespaces: ["default"])
                try containerd.pullLazily(reference, namespace: "default")
                #expect(try containerd.blobs().isSuperset(of: image.layers.map(\.description)))
                try Shared.registry.get().push(
                    layout: sandbox.directory + "/configured.oci", sourceTag: "latest", name: "streamed/other", tag: "1"
                )
                try containerd.pullLazily("\(registry)/streamed/other:1", namespace: Self.namespace)
                #expect(
                    try containerd.blobs(namespace: Self.namespace).isSuperset(of: image.layers.map(\.description)))
            }
        }

        @Test("come at once, are shown in the status, and a client that leaves and comes back finds what had come")
        func cancelled() throws {
            try UnderContainerd.with { containerd, sandbox in
                let image = try Self.image("cancelled", mebibytes: 24, in: sandbox)
                let proxy = try sandbox.proxy()
                proxy.faults.bytesPerSecond = 8 << 20
                let reference = "\(proxy.host)/\(image.name)"
                let pull = try containerd.startLazyPull(reference, namespace: Self.namespace)
                // Its layers come in parallel.
                #expect(
                    eventually(seconds: 30) { image.layers.allSatisfy { proxy.sentByteCount(of: $0) > 2 << 20 } })
                let status = try sandbox.lamina("status").output
                for layer in image.layers {
                    #expect(status.contains(String(layer.description.prefix(19))), "\(status)")
                }
                #expect(status.contains("STREAMING"), "\(status)")
                pull.send(SIGKILL)
                pull.wait()
                proxy.faults.bytesPerSecond = nil
                try containerd.pullLazily(reference, namespace: Self.namespace)
                for (layer, size) in zip(image.layers, image.sizes) {
                    #expect(proxy.sentByteCount(of: layer) <= size + (64 << 10), "\(layer)")
                }
                try Self.expectSame(
                    reference, direct: "\(try Shared.registry.get().host)/\(image.name)", containerd, sandbox)
            }
        }

        @Test("go on where they were when lamina or containerd was killed in their middle")
        func killed() throws {
            let kills = getenv("LAMINA_CONTAINERD_KILLS").flatMap { Int(String(cString: $0)) } ?? 4
            try UnderContainerd.with { containerd, sandbox in
                let image = try Self.image("killed", mebibytes: 48, in: sandbox)
                let proxy = try sandbox.proxy()
                let reference = "\(proxy.host)/\(image.name)"
                let total = image.sizes.reduce(0, +)
                proxy.faults.bytesPerSecond = 3 << 20
                func sent() -> Int64 { image.layers.reduce(0) { $0 + proxy.sentByteCount(of: $1) } }
                for round in 0..<kills {
                    let pull = try containerd.startLazyPull(reference, namespace: Self.namespace)
                    let point = total * Int64(round + 1) / Int64(kills + 1) + .random(in: 0...(2 << 20))
                    let isThere = eventually(seconds: 120) { sent() >= point || !pull.isRunning }
                    #expect(isThere && pull.isRunning, "round \(round): \(sent()) of \(total)")
                    if round % 2 == 0 {
                        try containerd.lamina.killServer()
                    } else {
                        try containerd.killContainerd()
                    }
                    #expect(pull.wait(seconds: 60).exitCode != 0)
                    // containerd connects again within a second or so.
                    _ = try eventually(seconds: 30) { try containerd.lamina.isReady() }
                    usleep(1_500_000)
                }
                proxy.faults.bytesPerSecond = nil
                try containerd.pullLazily(reference, namespace: Self.namespace)
                for (layer, size) in zip(image.layers, image.sizes) {
                    let sent = proxy.sentByteCount(of: layer)
                    #expect(sent <= size + Int64(kills) * (Self.window + (1 << 20)), "\(layer): \(sent) of \(size)")
                    let fromStart = proxy.requests(of: layer).count { $0.sent.lowerBound == 0 && !$0.sent.isEmpty }
                    #expect(fromStart == 1, "\(layer)")
                }
                print("\(kills) kills: \(sent()) bytes of \(total)")
                try Self.expectSame(
                    reference, direct: "\(try Shared.registry.get().host)/\(image.name)", containerd, sandbox)
                let report = try containerd.check()
                #expect(report.differences == [] && report.lazyLayers == 3, "\(report)")
                // Not all of it goes with the image: the leases of clients that were killed keep what these had for a day.
                try containerd.removeAll(namespaces: [Self.namespace, "unpacked"])
            }
        }

        @Test("are unpacked by containerd where the registry fails lamina in their middle, and the reason is on record")
        func refusing() throws {
            try Sandbox.with { sandbox in
                let registry = try Shared.registry.get()
                let proxy = try CountingProxy(upstream: registry.port)
                // lamina is sent to a server that goes away; containerd asks the registry.
                let certs = "\(sandbox.directory)/certs/\(registry.host)"
                try createDirectories(certs)
                try write("server = \"http://\(proxy.host)\"\n".utf8, to: certs + "/hosts.toml")
                proxy.faults.bytesPerSecond = 2 << 20
                let configuration = """
                    [resolver]
                    config_path = "\(sandbox.directory)/certs"
                    [blob]
                    max_retries = 1
                    min_wait_msec = 10
                    max_wait_msec = 10
                    """
                let containerd = try LaminaContainerd(sandbox, laminaConfiguration: configuration)
                defer { containerd.stop() }
                let image = try Self.image("refused", mebibytes: 12, in: sandbox)
                let reference = "\(registry.host)/\(image.name)"
                let pull = try containerd.startLazyPull(reference, namespace: Self.namespace)
                #expect(
                    eventually(seconds: 60) { image.layers.allSatisfy { proxy.sentByteCount(of: $0) > 1 << 20 } })
                proxy.stop()
                try pull.wait(seconds: 120).orThrow()
                #expect(
                    try containerd.blobs(namespace: Self.namespace).isSuperset(of: image.layers.map(\.description)))
                let refusals = try sandbox.sql("SELECT refusal FROM snapshot_status WHERE refusal IS NOT NULL")
                #expect(
                    refusals.count { $0.contains("cannot be mounted") && $0.contains(proxy.host) } == 1, "\(refusals)")
                #expect(refusals.count { $0.contains("the layer below was unpacked") } == 2, "\(refusals)")
                try Self.expectSame(reference, direct: reference, containerd, sandbox)
                // What had come goes with the next collection.
                try containerd.removeAll(namespaces: [Self.namespace, "unpacked"])
                #expect(try eventually(seconds: 20) { try sandbox.number("SELECT count(*) FROM stream") == 0 })
            }
        }

        @Test("whose bytes are wrong are an error, and nothing is left of them; right ones are pulled then")
        func wrong() throws {
            try UnderContainerd.with { containerd, sandbox in
                let tree = sandbox.directory + "/wrong"
                try run(["python3", "-c", Scripts.generate, tree, "5", "part:12", "3"], seconds: 240).orThrow()
                try run(["tar", "-C", tree, "--numeric-owner", "-cf", tree + ".tar", "."]).orThrow()
                let made = try PlainImages.layout(of: tree + ".tar", "tar", in: sandbox)
                let layer = try #require(Digest(parsing: made.layer))
                try Shared.registry.get().push(layout: made.layout, sourceTag: "latest", name: "wrong", tag: "1")
                let proxy = try sandbox.proxy()
                // In the middle of the large file: the tar is a tar, of another digest.
                proxy.faults.corruptions = [.init(digest: layer, offset: 6 << 20)]
                let reference = "\(proxy.host)/wrong:1"
                let outcome = try containerd.startLazyPull(reference, namespace: Self.namespace).wait(seconds: 120)
                #expect(outcome.exitCode != 0 && outcome.errors.contains("has another digest"), "\(outcome)")
                #expect(try sandbox.number("SELECT count(*) FROM snapshot") == 0)
                #expect(try sandbox.number("SELECT count(*) FROM stream") == 0)
                proxy.faults.corruptions = []
                try containerd.pullLazily(reference, namespace: Self.namespace)
                #expect(try sandbox.sql("SELECT DISTINCT lazy FROM snapshot_status") == ["yes"])
            }
        }
    }
}

extension EndToEnd.ByCRI {
    @Test("a plain image is read by lamina, run and written to, and containerd downloads no layer of it")
    func plain() throws {
        try CRI.with { cri, sandbox in
            _ = try ProgramImage.pushed.get()
            let proxy = try sandbox.proxy()
            let reference = "\(proxy.host)/program/plain:1"
            try cri("pull", reference)
            let layers = try sandbox.sql("SELECT layer FROM snapshot_status WHERE lazy = 'yes' AND kind = 'committed'")
            let all = try sandbox.sql("SELECT * FROM snapshot_status")
            #expect(layers.count == 2, "\(all)")
            let program = try runProgram(reference, cri, sandbox)
            #expect(try cri.containerd.blobs(namespace: "k8s.io").isDisjoint(with: layers), "layers were downloaded")
            for layer in layers {
                let digest = try #require(Digest(parsing: layer))
                #expect(proxy.repeatedByteCount(of: digest) == 0)
            }
            try cri("stop", program.container)
            try cri("remove", program.container)
            try cri("stop-pod", program.pod)
            try cri("remove-pod", program.pod)
            try cri("remove-image", reference)
            #expect(
                try eventually(seconds: 20) {
                    try sandbox.number("SELECT count(*) FROM layer WHERE toc_digest IS NULL") == 0
                })
        }
    }
}
