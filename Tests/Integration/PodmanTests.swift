import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// podman with lamina's image store.
    @Suite("podman's image store", Podman.isInstalled)
    struct PodmanImages {
        /// A sandbox with an image store, a server and a podman that has it.
        private static func with(
            ids: String = "proven", serves: Bool = true, _ body: (Sandbox, Podman) throws -> Void
        ) throws {
            try Sandbox.with { sandbox in
                let images = sandbox.root + "/podman"
                sandbox.settings = [
                    "LAMINA_PODMAN_IMAGES": images, "LAMINA_PODMAN_IDS": ids,
                    "LAMINA_PODMAN_GRAPH_ROOTS": sandbox.directory + "/podman/graph",
                ]
                if serves { _ = try sandbox.serve() }
                let podman = try Podman(in: sandbox, images: images)
                defer { podman.close() }
                try body(sandbox, podman)
            }
        }

        private static func ids(_ podman: Podman) throws -> Set<Substring> {
            Set(try podman("images", "-q", "--no-trunc").split(separator: "\n"))
        }

        // MARK: What podman sees

        @Test(
            "a pulled image is podman's by its ordinary ids: it runs, is built upon without a copy, saved and pushed",
            arguments: ["plain", "estargz", "zstd"])
        func whole(_ format: String) throws {
            let pushed = try ProgramImage.pushed.get()
            let image = ["plain": pushed.plain, "estargz": pushed.estargz, "zstd": pushed.zstdChunked][format] ?? ""
            try Self.with { sandbox, podman in
                #expect(try Self.ids(podman).isEmpty)
                #expect(try sandbox.lamina("pull", image).output.contains("podman has it"))
                // The same image by podman alone.
                let other = try Podman(in: sandbox, "other")
                defer { other.close() }
                try other("pull", "-q", image)
                #expect(try Self.ids(podman) == Self.ids(other))
                for form in [
                    "{{.Id}} {{.Digest}} {{.RepoDigests}} {{.RootFS.Layers}}", "{{.Config}}", "{{.GraphDriver.Name}}",
                ] {
                    #expect(
                        try podman("image", "inspect", "-f", form, image)
                            == other("image", "inspect", "-f", form, image))
                }
                #expect(try podman("images", "--format", "{{.ReadOnly}}") == "true\n")
                #expect(try podman.run(image, "sh", "-c", "echo $(cat /data/above)") == "above\n")
                #expect(podman.ownLayers.isEmpty)

                // What comes out again is what went in. No podman has a zstd layer in such an archive: below, it is pushed.
                if format != "zstd" {
                    for (tool, who) in [(podman, "lamina"), (other, "podman")] {
                        try tool(
                            "save", "-q", "--format", "docker-archive", "-o", "\(sandbox.directory)/\(who).tar", image)
                    }
                    #expect(
                        try run(["cmp", sandbox.directory + "/lamina.tar", sandbox.directory + "/podman.tar"]).exitCode
                            == 0
                    )
                }
                let host = try Shared.registry.get().host
                let copy = "\(host)/podman-copy/\(format):1"
                try podman("push", "-q", image, copy)
                try other("pull", "-q", copy)
                #expect(
                    try other("image", "inspect", "-f", "{{.RootFS.Layers}}", copy)
                        == other("image", "inspect", "-f", "{{.RootFS.Layers}}", image))

                // Built upon, without a copy.
                let file = sandbox.directory + "/Containerfile"
                try write("FROM \(image)\nRUN echo built >/built\n".utf8, to: file)
                try podman(
                    "build", "-q", "--pull=never", "--network", "host", "-t", "localhost/built", "-f", file,
                    sandbox.directory)
                #expect(try podman.run("localhost/built", "sh", "-c", "cat /built /data/above") == "built\nabove\n")
                let size = try run(["du", "-sk", podman.graphRoot]).orThrow().output.split(separator: "\t").first
                    .flatMap { Int($0) }
                #expect(try #require(size) < 3000, "the layers are not copied")
                // It stands upon the image, so that the image stays.
                let refused = try sandbox.attempt("rm", image)
                #expect(refused.exitCode == 1 && refused.errors.contains("localhost/built"), "\(refused)")
                try podman("rmi", "localhost/built")
                try sandbox.lamina("rm", image)
                #expect(try Self.ids(podman).isEmpty)
                #expect(names(in: sandbox.root + "/podman/overlay").filter { $0.count == 64 }.isEmpty)
                #expect(try sandbox.number("SELECT count(*) FROM layer") == 0)
            }
        }

        @Test("podman's tree of an image is lamina's own, and that of another podman")
        func tree() throws {
            let image = try ProgramImage.pushed.get().estargz
            try Self.with { sandbox, podman in
                try sandbox.lamina("pull", image)
                let mount = try sandbox.mount(image)
                try podman("create", "--name", "tree", "--pull", "never", "--network", "host", image, "sh")
                let place = try podman("mount", "tree").split(separator: "\n").first.map(String.init) ?? ""
                // The root is the container's own directory, made a moment ago.
                try run(["touch", "-r", mount, place]).orThrow()
                try TreeOracle.expectSame(mount, at: place, in: sandbox, keepsFractions: true, "podman:")
                try podman("umount", "tree")
            }
        }

        @Test("a lazily pulled image is podman's once all of it is proven; where its ids are believed, at once")
        func lazy() throws {
            let image = try ProgramImage.pushed.get().estargz
            try Self.with { sandbox, podman in
                let said = try sandbox.lamina("pull", "--lazy", image).output
                #expect(said.contains("podman does not have it") && said.contains("not proven"), "\(said)")
                #expect(try Self.ids(podman).isEmpty)
                #expect(try sandbox.lamina("status").output.contains("not for podman"))
                #expect(try sandbox.lamina("pull", image).output.contains("podman has it"))
                #expect(try Self.ids(podman).count == 1)
            }
            try Self.with(ids: "claimed") { sandbox, podman in
                #expect(try sandbox.lamina("pull", "--lazy", image).output.contains("podman has it"))
                #expect(try podman.run(image, "sh", "-c", "cat /data/above") == "above\n")
                let landed = try sandbox.number("SELECT landed_bytes * 100 / bytes FROM image_status")
                #expect(landed < 80, "\(landed) percent have been fetched")
            }
        }

        /// The ids that podman gives to layers of these diff IDs, bottom first.
        private static func chain(_ diffIDs: [Digest]) -> [String] {
            var ids: [String] = []
            for diffID in diffIDs {
                ids.append(ids.last.map { SHA256.hash(Array("\($0)+\(diffID.hex)".utf8)).hex } ?? diffID.hex)
            }
            return ids
        }

        // MARK: Malice

        @Test(
            "an eStargz that says that it is another image's layer never has that one's id, and is told apart once it was read"
        )
        func liar() throws {
            let registry = try Shared.registry.get()
            let image = try ProgramImage.pushed.get().estargz
            try Self.with { sandbox, podman in
                // The configuration of the honest image, and layers of the liar's own.
                let name = String(image.dropFirst(registry.host.count + 1).split(separator: ":")[0])
                let config = try run([
                    "skopeo", "inspect", "--tls-verify=false", "--config", "--raw", "docker://\(image)",
                ]).orThrow().output
                let honest = try ImageConfig(parsing: Array(config.utf8), name: image).diffIDs
                var layers: [ImageLayer] = []
                for diffID in honest {
                    var forged = ForgedLayer()
                    forged.directory("usr")
                    forged.file("usr/lie", Array("a lie\n".utf8))
                    forged.finish()
                    layers.append(ImageLayer(blob: forged.blob, tocDigest: forged.tocDigest, diffID: diffID))
                }
                let layout = sandbox.directory + "/liar"
                try writeImage(layers, tag: "1", layout: layout)
                try registry.push(layout: layout, sourceTag: "1", name: "liar/\(name)", tag: "1")
                let liar = "\(registry.host)/liar/\(name):1"
                _ = try sandbox.attempt("pull", "--lazy", liar)
                _ = try sandbox.attempt("pull", liar)
                let chain = Self.chain(honest)
                #expect(names(in: sandbox.root + "/podman/overlay").filter { chain.contains($0) }.isEmpty)
                #expect(try Self.ids(podman).isEmpty)
                // The honest one comes all the same, and has its own bytes.
                #expect(try sandbox.lamina("pull", image).output.contains("podman has it"))
                #expect(Set(names(in: sandbox.root + "/podman/overlay")).isSuperset(of: chain))
                #expect(try podman.run(image, "sh", "-c", "cat /data/above; test ! -e /usr/lie") == "above\n")
                #expect(try !podman("images").contains("liar"))
            }
        }

        @Test("the digest of a blob that was not read as a whole is nowhere in the image store")
        func blobDigests() throws {
            let image = try ProgramImage.pushed.get().estargz
            try Self.with { sandbox, _ in
                try sandbox.lamina("pull", image)
                let path = sandbox.root + "/podman/overlay-layers/layers.json"
                let text = String(decoding: try readFile(path), as: UTF8.self)
                let inParts = try sandbox.sql(
                    "SELECT digest FROM layer_status WHERE blob_proven_at IS NULL AND toc_proof = 'manifest'")
                #expect(!inParts.isEmpty)
                for digest in inParts {
                    #expect(!text.contains(digest), "\(digest) was only seen in parts")
                }
                #expect(text.contains("\"diff-digest\""))
            }
        }

        // MARK: Lives

        private static func copy(_ image: String, to other: String, in sandbox: Sandbox) throws {
            try Skopeo.copy(
                ["--src-tls-verify=false", "--dest-tls-verify=false", "docker://\(image)", "docker://\(other)"],
                in: sandbox)
        }

        @Test(
            "what podman has upon an image keeps it: a container, an image by its own pull, a moved tag; and lets it go"
        )
        func kept() throws {
            let registry = try Shared.registry.get()
            let (plain, estargz) = (try ProgramImage.pushed.get().plain, try ProgramImage.pushed.get().estargz)
            try Self.with { sandbox, podman in
                // A tag that will move.
                let moving = "\(registry.host)/moving/image:1"
                try Self.copy(plain, to: moving, in: sandbox)
                try sandbox.lamina("pull", moving)
                try podman(
                    "create", "--name", "old", "--pull", "never", "--network", "host", moving, "cat", "/data/above")
                let id = try podman("image", "inspect", "-f", "{{.Id}}", moving)
                let refused = try sandbox.attempt("rm", moving)
                #expect(refused.exitCode == 1 && refused.errors.contains("container old"), "\(refused)")
                try Self.copy(estargz, to: moving, in: sandbox)
                try sandbox.lamina("pull", moving)
                #expect(try podman("image", "inspect", "-f", "{{.Id}}", moving) != id)
                try sandbox.lamina("gc")
                // Its layers are still there, and the image without a name.
                #expect(try podman("start", "-a", "old") == "above\n")
                #expect(try podman("images", "-a", "-q", "--no-trunc").contains(id.dropLast()))
                try podman("commit", "-q", "old", "localhost/committed")
                // Else podman goes on to what it stands upon, which has no name any more, and says that it cannot remove that.
                try podman("rmi", "--no-prune", "localhost/committed")
                try podman("rm", "old")
                try sandbox.lamina("gc")
                #expect(try !podman("images", "-a", "-q", "--no-trunc").contains(id.dropLast()))
                #expect(try sandbox.number("SELECT count(*) FROM podman_image") == 1)

                // podman's own pull makes a record upon lamina's layers.
                try podman("pull", "-q", moving)
                #expect(podman.ownLayers.isEmpty)
                #expect(try podman.run(moving, "sh", "-c", "cat /data/above") == "above\n")
                try podman("rmi", "-a", "-f")
                try podman("system", "prune", "-a", "-f")
                #expect(try podman.run(moving, "sh", "-c", "cat /data/above") == "above\n")
                try podman("system", "reset", "-f")
                #expect(try podman.run(moving, "sh", "-c", "cat /data/above") == "above\n")
                try sandbox.lamina("rm", moving)
                #expect(try podman.attempt("run", "--rm", "--pull", "never", moving, "true").exitCode != 0)
                #expect(try sandbox.number("SELECT count(*) FROM layer_view") == 0)
            }
        }

        @Test("a container whose graph root nobody told lamina of keeps its layers while it runs")
        func unknownGraphRoot() throws {
            let image = try ProgramImage.pushed.get().plain
            try Self.with { sandbox, _ in
                try sandbox.lamina("pull", image)
                let stranger = try Podman(in: sandbox, "stranger", images: sandbox.root + "/podman")
                defer { stranger.close() }
                let container = try stranger.start(Podman.runWords + ["--name", "up", image, "sleep", "600"])
                #expect(try eventually { try stranger.attempt("exec", "up", "cat", "/data/above").exitCode == 0 })
                let refused = try sandbox.attempt("rm", image)
                #expect(refused.exitCode == 1 && refused.errors.contains("mount of"), "\(refused)")
                try stranger("rm", "-f", "-t", "0", "up")
                container.wait()
                try sandbox.lamina("rm", image)
            }
        }

        @Test("the server is killed under running containers: nothing is noticed, and new ones start")
        func killed() throws {
            let image = try ProgramImage.pushed.get().estargz
            try Self.with(ids: "claimed", serves: false) { sandbox, podman in
                let supervised = try sandbox.supervise()
                try sandbox.lamina("pull", "--lazy", image)
                let script = """
                    import hashlib, os, time
                    for number in range(60):
                        for place, _, names in os.walk("/usr/lib/python3.11/json"):
                            for name in names: hashlib.sha256(open(os.path.join(place, name), "rb").read()).digest()
                        time.sleep(0.05)
                    import sqlite3, email.mime.text
                    print("fine")
                    """
                let reader = try podman.start(Podman.runWords + [image, "python3", "-c", script])
                for _ in 0..<8 {
                    usleep(300_000)
                    try supervised.killServer()
                }
                let outcome = reader.wait()
                #expect(outcome.exitCode == 0 && outcome.output == "fine\n", "\(outcome)")
                #expect(try eventually { try supervised.isReady() })
                #expect(try podman.run(image, "sh", "-c", "cat /data/above") == "above\n")
            }
        }

        @Test("after a restart of the machine, with the registry off, containers start and new ones are made")
        func rebooted() throws {
            let image = try ProgramImage.pushed.get().estargz
            try Sandbox.with { sandbox in
                // A registry that can be turned off.
                let proxy = try sandbox.proxy()
                let reference = proxy.host + image.dropFirst(try Shared.registry.get().host.count)
                let images = sandbox.root + "/podman"
                sandbox.settings = [
                    "LAMINA_PODMAN_IMAGES": images, "LAMINA_PODMAN_GRAPH_ROOTS": sandbox.directory + "/podman/graph",
                ]
                let server = try sandbox.serve()
                let podman = try Podman(in: sandbox, images: images)
                defer { podman.close() }
                try sandbox.lamina("pull", reference)
                try podman(
                    "create", "--name", "old", "--pull", "never", "--network", "host", reference, "cat", "/data/above")
                // What a power cut takes: the server, every mount, podman's state of this boot. Its files are half written.
                server.send(SIGKILL)
                server.wait()
                for mount in try sandbox.mounts().reversed() { try Mount.unmount(mount.directory, detach: true) }
                try run(["rm", "-rf", podman.directory + "/run", podman.directory + "/libpod"]).orThrow()
                try write("[".utf8, to: images + "/overlay-layers/layers.json")
                try run(["find", images + "/overlay", "-name", "link", "-delete"]).orThrow()
                proxy.stop()
                _ = try sandbox.serve()
                #expect(try podman("start", "-a", "old") == "above\n")
                #expect(try podman.run(reference, "sh", "-c", "cat /data/above") == "above\n")
            }
        }

        @Test("a directory that is not lamina's is left alone, and the server says so")
        func foreign() throws {
            try Sandbox.with { sandbox in
                let images = try sandbox.mountPoint("graph")
                try write("podman's own".utf8, to: images + "/libpod.db")
                sandbox.settings = ["LAMINA_PODMAN_IMAGES": images]
                let server = try sandbox.serve()
                #expect(names(in: images) == ["libpod.db"])
                #expect(server.errorsSoFar.contains("is not empty, and lamina has not made it"))
                #expect(try sandbox.lamina("pull", "oci:\(Fixtures.layout("estargz"))").exitCode == 0)
            }
        }

        // MARK: Registries

        @Test("a private registry behind a mirror is found, and logged in to, by podman's own files alone")
        func registries() throws {
            let image = try ProgramImage.pushed.get().estargz
            let shared = try Shared.registry.get()
            try Sandbox.with { sandbox in
                let guarded = try RegistryFixture(
                    guarded: .init(htpasswd: RegistryPulls.htpasswd), serving: shared)
                defer { guarded.stop() }
                let (conf, auth) = (sandbox.directory + "/registries.conf", sandbox.directory + "/auth.json")
                try write(
                    """
                    unqualified-search-registries = ["docker.io"]
                    [[registry]]
                    prefix = "registry.invalid/team"
                    location = "127.0.0.1:1/nobody"
                    insecure = true
                    [[registry.mirror]]
                    location = "\(guarded.host)/program"
                    insecure = true

                    """.utf8, to: conf)
                sandbox.settings = ["CONTAINERS_REGISTRIES_CONF": conf, "REGISTRY_AUTH_FILE": auth]
                let name = "registry.invalid/team" + image.dropFirst(shared.host.count + "/program".count)
                // printf tester:pass:word | base64
                try write(#"{"auths":{"registry.invalid":{"auth":"dGVzdGVyOnBhc3M6d29yZA=="}}}"#.utf8, to: auth)
                let refused = try sandbox.attempt("pull", name)
                #expect(refused.exitCode != 0 && refused.errors.contains("credentials"), "\(refused)")
                try write(#"{"auths":{"\#(guarded.host)/program":{"auth":"dGVzdGVyOnBhc3M6d29yZA=="}}}"#.utf8, to: auth)
                try sandbox.lamina("pull", name)
                #expect(try sandbox.lamina("ls").output.contains(name))
                // Without these files there is no such registry.
                let without = try sandbox.attempt("pull", name, "--set", "resolver.containers_files=false")
                #expect(without.exitCode != 0, "\(without)")
            }
        }

        // MARK: Setting it up

        @Test(
            "setup podman changes what it must, twice changes nothing, --undo takes it back; doctor says what is missing"
        )
        func setup() throws {
            try Sandbox.with { sandbox in
                let storage = sandbox.directory + "/storage.conf"
                let settings = sandbox.directory + "/podman.toml"
                let before = "# mine\n[storage]\ndriver = \"overlay\"\nrunroot = \"/r\"\ngraphroot = \"/g\"\n"
                try write(before.utf8, to: storage)
                let words = ["setup", "podman", "--storage-conf", storage, "--settings", settings]
                func setup(_ more: String...) throws -> String {
                    try sandbox.start(words + more).wait().orThrow().output
                }
                #expect(
                    try setup("--dry-run").contains(storage)
                        && names(in: sandbox.directory).count { $0.hasPrefix("podman") } == 0)
                #expect(try setup().contains("restart the server"))
                let text = String(decoding: try readFile(storage), as: UTF8.self)
                #expect(text.hasPrefix(before) && text.contains("additionalimagestores = [\"\(sandbox.root)/podman\"]"))
                #expect(access(sandbox.root + "/podman/overlay-layers/layers.lock", F_OK) == 0)
                sandbox.settings = ["LAMINA_CONFIG": settings]
                #expect(try setup().contains("nothing is to be changed"))
                #expect(try sandbox.lamina("config", "show").output.contains(sandbox.root + "/podman"))
                let doctor = try sandbox.attempt("doctor", "podman")
                #expect(
                    doctor.output.contains("[podman] images") && doctor.output.contains("none answers"), "\(doctor)")
                #expect(try setup("--undo").contains("removed"))
                #expect(access(settings, F_OK) != 0)
                #expect(!String(decoding: try readFile(storage), as: UTF8.self).contains("podman"))
            }
        }
    }
}
