import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// What lamina writes, read by other programs: always Debian's tools of this machine, and those of Debian's other suites if
    /// `scripts/readers.sh` has fetched them.
    @Suite("readers of what lamina writes", Requirements.tools("skopeo", "zstd"))
    struct ReaderMatrix {
        static let formats = ["estargz", "zstd-chunked"]

        /// The readers of one of Debian's suites.
        struct Readers: CustomTestStringConvertible, Sendable {
            var suite: String
            /// Their programs.
            var directory: String
            var testDescription: String { suite }

            /// podman 4.3 takes eStargz in parts and loses owners and times, also of what stargz-snapshotter writes: as a whole
            /// it reads it right.
            func keepsParts(of format: String) -> Bool { suite != "bookworm" || format != "estargz" }

            func has(_ program: String) -> Bool { access("\(directory)/\(program)", X_OK) == 0 }
            func version(_ program: String) -> String {
                let output = try? run([directory + "/" + program, "--version"]).output
                return "\(suite): " + (output?.split(separator: "\n").first.map(String.init) ?? program)
            }
        }

        /// Below `LAMINA_READERS`, else `.build/readers`, where `make readers` puts them.
        static let readers: [Readers] = {
            let root = Fixtures.directory + "/../../.build/readers"
            let directory = getenv("LAMINA_READERS").map { String(cString: $0) } ?? root
            let suites = names(in: directory)
            return suites.filter { access("\(directory)/\($0)/complete", F_OK) == 0 }.map {
                Readers(suite: $0, directory: "\(directory)/\($0)/bin")
            }
        }()

        static func with(_ programs: String...) -> [Readers] {
            readers.filter { readers in programs.allSatisfy { readers.has($0) } }
        }

        static func areThere(_ programs: String...) -> ConditionTrait {
            let isThere = readers.contains { readers in programs.allSatisfy { readers.has($0) } }
            return .enabled(if: isThere, "no other suite has them here (make readers)")
        }

        /// A tree with what formats have trouble with: chunks, holes, links, attributes, long names; in the registry as
        /// `matrix/FORMAT:x`.
        struct Image: Sendable {
            var tree: String
            var references: [String: String] = [:]

            static let made = Result { try Image() }

            init() throws {
                let directory = try Shared.directory.get()
                tree = directory + "/matrix"
                let make = """
                    set -e; mkdir "$1"; cd "$1"; mkdir -p d/e; head -c 9000000 /dev/urandom >d/large; head -c 300 /dev/urandom >d/small
                    : >d/empty; head -c 6000000 /dev/zero >hole; printf end >>hole; ln d/small d/e/hard; ln -s ../small d/e/soft
                    chmod 4755 d/small; chown 1000:1001 d; printf l >"$(printf 'n%.0s' $(seq 200))"; touch -d @1600000000 d/e d hole
                    """
                try run(["/bin/sh", "-c", make, "sh", tree]).orThrow()
                let registry = try Shared.registry.get()
                for format in formats {
                    let layout = "\(directory)/matrix-\(format)"
                    try run([
                        Requirements.lamina, "convert", "--format", format, "--chunk-size", "1048576", "dir:\(tree)",
                        "oci:\(layout):x",
                    ]).orThrow()
                    try registry.push(layout: layout, name: "matrix/\(format)", tag: "x")
                    references[format] = "\(registry.host)/matrix/\(format):x"
                }
            }
        }

        private func image(_ format: String) throws -> (tree: String, reference: String) {
            let image = try Image.made.get()
            return (image.tree, try #require(image.references[format]))
        }

        private func expect(
            _ tree: String, at path: String, _ format: String, in sandbox: Sandbox, _ who: String,
            keepsFractions: Bool = true
        ) throws {
            try TreeOracle.expectSame(
                tree, at: path, in: sandbox, keepsFractions: keepsFractions, ignoringDirectoryTimes: true,
                "\(who), \(format):")
        }

        /// As `expect`, for what a reader has unpacked itself, with the reader's own differences: the files that eStargz adds,
        /// which are ordinary files to a reader that does not know it, a root that may not be written to, and the time of the
        /// pull for symbolic links.
        private func expectCopy(
            _ tree: String, of unpacked: String, _ format: String, in sandbox: Sandbox, _ who: String,
            keepsFractions: Bool = true
        ) throws {
            let copy = try sandbox.mountPoint("copy")
            let script = """
                rm -rf "$2"; mkdir "$2"; cp -a "$1/." "$2"
                rm -f "$2"/.no.prefetch.landmark "$2"/stargz.index.json
                chmod 0755 "$2"; touch -h -r "$3/d/e/soft" "$2/d/e/soft"
                [ "$4" = true ] || touch -h -d "@$(stat -c %Y "$3/d/e/soft")" "$2/d/e/soft"
                """
            try run(["/bin/sh", "-e", "-c", script, "sh", unpacked, copy, tree, "\(keepsFractions)"])
                .orThrow()
            try expect(tree, at: copy, format, in: sandbox, who, keepsFractions: keepsFractions)
        }

        @Test(
            "containerd unpacks it, and stargz-snapshotter's client pulls it", Containerd.isInstalled,
            arguments: formats)
        func containerd(format: String) throws {
            try containerd(format, of: nil)
        }

        @Test(
            "so do those of other suites", areThere("containerd", "ctr-remote"), arguments: formats,
            with("containerd", "ctr-remote"))
        func otherContainerds(format: String, readers: Readers) throws {
            print("\(readers.version("containerd"))")
            try containerd(format, of: readers)
        }

        private func containerd(_ format: String, of readers: Readers?) throws {
            try Sandbox.with { sandbox in
                let (tree, reference) = try image(format)
                let containerd = try Containerd(in: sandbox, programs: readers?.directory)
                defer { containerd.stop() }
                let unpacked = try containerd.unpack(reference)
                for name in [".no.prefetch.landmark", "stargz.index.json"] where format == "estargz" {
                    #expect(access("\(unpacked)/\(name)", F_OK) == 0)
                }
                try expectCopy(tree, of: unpacked, format, in: sandbox, "containerd \(readers?.suite ?? "")")
                try containerd.ctr("images", "rm", "--sync", reference)
                // Without its snapshotter, the client unpacks like the other one.
                try containerd.remote("images", "rpull", "--plain-http", "--snapshotter", "overlayfs", reference)
            }
        }

        @Test(
            "skopeo copies it unchanged and to gzip, and umoci unpacks that", Requirements.tools("umoci"),
            arguments: formats)
        func skopeo(format: String) throws { try skopeo(format, of: nil) }

        @Test(
            "so do those of other suites", areThere("skopeo", "umoci"), arguments: formats, with("skopeo", "umoci"))
        func otherSkopeos(format: String, readers: Readers) throws {
            print("\(readers.version("skopeo")), \(readers.version("umoci"))")
            try skopeo(format, of: readers)
        }

        private func skopeo(_ format: String, of readers: Readers?) throws {
            let prefix = readers.map { $0.directory + "/" } ?? ""
            try Sandbox.with { sandbox in
                let (tree, reference) = try image(format)
                let policy = sandbox.directory + "/policy.json"
                try write(#"{"default": [{"type": "insecureAcceptAnything"}]}"#.utf8, to: policy)
                let words = [prefix + "skopeo", "--policy", policy, "copy", "--src-tls-verify=false"]
                let (same, gzip) = ("\(sandbox.directory)/same", "\(sandbox.directory)/gzip")
                try run(words + ["docker://" + reference, "oci:\(same):x"]).orThrow()
                try run(words + ["--dest-compress-format", "gzip", "docker://" + reference, "oci:\(gzip):x"]).orThrow()
                let bundle = sandbox.directory + "/bundle"
                try run([prefix + "umoci", "unpack", "--image", gzip + ":x", bundle]).orThrow()
                for name in [".no.prefetch.landmark", "stargz.index.json"] { unlink("\(bundle)/rootfs/\(name)") }
                try expect(tree, at: bundle + "/rootfs", format, in: sandbox, "umoci \(readers?.suite ?? "")")
                // lamina reads it back from the copy.
                try expect(
                    tree, at: sandbox.mount("oci:\(same):x"), format, in: sandbox, "lamina",
                    keepsFractions: format == "zstd-chunked")
            }
        }

        /// podman or buildah with its own store, registry and helpers.
        /// - Parameter partial: whether it may take parts of layers.
        private func containers(
            _ program: String, of readers: Readers, in sandbox: Sandbox, for reference: String, partial: Bool
        ) throws -> (_ arguments: [String]) throws -> Outcome {
            let (home, host) = (sandbox.directory, reference.split(separator: "/")[0])
            try write(#"{"default": [{"type": "insecureAcceptAnything"}]}"#.utf8, to: home + "/policy.json")
            try write(
                "[engine]\nhelper_binaries_dir = [\"\(readers.directory)\"]\n".utf8, to: home + "/containers.conf")
            try write("[[registry]]\nlocation = \"\(host)\"\ninsecure = true\n".utf8, to: home + "/registries.conf")
            let storage = """
                [storage]
                driver = "overlay"
                runroot = "\(home)/run"
                graphroot = "\(home)/graph"
                [storage.options]
                pull_options = {enable_partial_images = "\(partial)"}
                """
            try write(storage.utf8, to: home + "/storage.conf")
            let script = """
                home=$1 program=$2; shift 2
                export CONTAINERS_CONF=$home/containers.conf CONTAINERS_STORAGE_CONF=$home/storage.conf
                export CONTAINERS_REGISTRIES_CONF=$home/registries.conf PATH=${program%/*}:$PATH
                exec "$program" "$@"
                """
            let words = ["/bin/sh", "-c", script, "sh", home, "\(readers.directory)/\(program)"]
            return { try run(words + $0) }
        }

        @Test(
            "podman pulls it in parts where it can, and as a whole where it cannot", areThere("podman"),
            arguments: formats, with("podman"))
        func podman(format: String, readers: Readers) throws {
            try Sandbox.with { sandbox in
                let (tree, reference) = try image(format)
                let podman = try containers(
                    "podman", of: readers, in: sandbox, for: reference, partial: readers.keepsParts(of: format))
                let pulled = try podman([
                    "--log-level", "debug", "pull", "--signature-policy", sandbox.directory + "/policy.json",
                    "docker://" + reference,
                ]).orThrow()
                let inParts = pulled.errors.contains("Retrieved partial blob")
                print("\(readers.version("podman")): \(format), \(inParts ? "in parts" : "as a whole")")
                // podman 5 takes zstd:chunked in parts, but not eStargz.
                #expect(inParts == (format == "zstd-chunked" && readers.suite != "bookworm"), "\(pulled)")
                defer { _ = try? podman(["image", "umount", "--all"]) }
                let mounted = try podman(["image", "mount", reference]).orThrow().output
                let path = mounted.split(separator: "\n").last.map(String.init) ?? ""
                try expectCopy(tree, of: path, format, in: sandbox, "podman of \(readers.suite)")
            }
        }

        @Test("buildah builds on it", areThere("buildah"), arguments: formats, with("buildah"))
        func buildah(format: String, readers: Readers) throws {
            print("\(readers.version("buildah"))")
            try Sandbox.with { sandbox in
                let (tree, reference) = try image(format)
                let buildah = try containers(
                    "buildah", of: readers, in: sandbox, for: reference, partial: readers.keepsParts(of: format))
                let policy = ["--signature-policy", sandbox.directory + "/policy.json"]
                let from = try buildah(["from"] + policy + ["docker://" + reference]).orThrow().output
                let container = from.split(separator: "\n").last.map(String.init) ?? ""
                defer { _ = try? buildah(["umount", "--all"]) }
                let mounted = try buildah(["mount", container]).orThrow().output
                let path = mounted.split(separator: "\n").last.map(String.init) ?? ""
                try expectCopy(tree, of: path, format, in: sandbox, "buildah of \(readers.suite)")
                try run(["touch", path + "/more"]).orThrow()
                let made = "oci:\(sandbox.directory)/made:x"
                try buildah(["commit"] + policy + ["--disable-compression=false", container, made]).orThrow()
                // And lamina reads what that makes.
                #expect(access("\(try sandbox.mount(made))/more", F_OK) == 0)
            }
        }

        @Test(
            "Docker pulls it, into containerd's store and into its own", areThere("dockerd", "docker"),
            arguments: formats, with("dockerd", "docker"))
        func docker(format: String, readers: Readers) throws {
            print("\(readers.version("dockerd"))")
            for store in ["containerd", "graph"] {
                try Sandbox.with { sandbox in
                    let (tree, reference) = try image(format)
                    let home = sandbox.directory
                    // Its network is left out: nothing of the machine is changed.
                    let configuration = """
                        {"features": {"containerd-snapshotter": \(store == "containerd")}, "data-root": "\(home)/data",
                         "exec-root": "\(home)/exec", "pidfile": "\(home)/pid", "hosts": ["unix://\(home)/docker.sock"],
                         "iptables": false, "ip6tables": false, "bridge": "none", "userland-proxy": false}
                        """
                    try write(configuration.utf8, to: home + "/daemon.json")
                    let server = try sandbox.startProgram([
                        "/bin/sh", "-c", "PATH=$1:$PATH; exec dockerd --config-file \"$2\"", "sh", readers.directory,
                        home + "/daemon.json",
                    ])
                    // It ends the containerd that it has started.
                    defer {
                        server.send(SIGTERM)
                        server.wait(seconds: 60)
                    }
                    let client = ["\(readers.directory)/docker", "-H", "unix://\(home)/docker.sock"]
                    let isReady = try eventually(seconds: 60) {
                        try !server.isRunning || run(client + ["version"]).exitCode == 0
                    }
                    try #require(isReady && server.isRunning, "\(server.errorsSoFar.suffix(2000))")
                    try run(client + ["pull", reference]).orThrow()
                    let container =
                        try run(client + ["create", reference, "/none"]).orThrow().output
                        .split(separator: "\n").last.map(String.init) ?? ""
                    // With the places where it mounts something in each container.
                    let out = try sandbox.mountPoint("out")
                    let export = """
                        out=$1 id=$2; shift 2; "$@" export "$id" | tar -x --xattrs --numeric-owner -C "$out"
                        rm -rf "$out"/dev "$out"/proc "$out"/sys "$out"/etc "$out"/.dockerenv
                        """
                    try run(["/bin/sh", "-e", "-c", export, "sh", out, container] + client).orThrow()
                    // Its export has whole seconds.
                    try expectCopy(
                        tree, of: out, format, in: sandbox, "Docker with \(store)'s store", keepsFractions: false)
                    try run(client + ["rm", container]).orThrow()
                }
            }
        }
    }
}
