import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// What lamina writes, given to those who read images. Debian's tools always; podmans where `LAMINA_PODMANS` names the directories
    /// of their programs, with `:` between (each is run with the helpers beside it).
    @Suite("readers of what lamina writes", Requirements.tools("skopeo", "zstd"))
    struct ReaderMatrix {
        static let formats = ["estargz", "zstd-chunked"]
        static let podmans = (getenv("LAMINA_PODMANS").map { String(cString: $0) } ?? "").split(separator: ":").map(
            String.init)

        /// A tree with what formats trip over: chunks, holes, links, attributes, long names; in the registry as `matrix/FORMAT:x`.
        private func image(_ format: String, in sandbox: Sandbox) throws -> (tree: String, reference: String) {
            let tree = try sandbox.mountPoint("tree")
            let make = """
                set -e; cd "$1"; mkdir -p d/e; head -c 9000000 /dev/urandom >d/large; head -c 300 /dev/urandom >d/small; : >d/empty
                head -c 6000000 /dev/zero >hole; printf end >>hole; ln d/small d/e/hard; ln -s ../small d/e/soft; chmod 4755 d/small
                chown 1000:1001 d; printf l >"$(printf 'n%.0s' $(seq 200))"; touch -d @1600000000 d/e d hole
                """
            try run(["/bin/sh", "-c", make, "sh", tree]).orThrow()
            let layout = "\(sandbox.directory)/written"
            try sandbox.lamina(
                "convert", "--format", format, "--chunk-size", "1048576", "dir:\(tree)", "oci:\(layout):x")
            let registry = try Shared.registry.get()
            try registry.push(layout: layout, name: "matrix/\(format)", tag: "x")
            return (tree, "\(registry.host)/matrix/\(format):x")
        }

        private func expect(
            _ tree: String, at path: String, _ format: String, in sandbox: Sandbox, _ who: String,
            keepsFractions: Bool = true
        ) throws {
            try TreeOracle.expectSame(
                tree, at: path, in: sandbox, keepsFractions: keepsFractions, ignoringDirectoryTimes: true,
                "\(who), \(format):")
        }

        @Test(
            "containerd unpacks it, and stargz-snapshotter's client pulls it", Containerd.isInstalled,
            arguments: formats)
        func containerd(format: String) throws {
            try Sandbox.with { sandbox in
                let (tree, reference) = try image(format, in: sandbox)
                let containerd = try Containerd(in: sandbox)
                defer { containerd.stop() }
                let unpacked = try containerd.unpack(reference)
                // The files that eStargz adds are files to who does not know it.
                for name in [".no.prefetch.landmark", "stargz.index.json"] where format == "estargz" {
                    #expect(access("\(unpacked)/\(name)", F_OK) == 0)
                }
                let copy = try sandbox.mountPoint("copy")
                try run([
                    "/bin/sh", "-c",
                    "cp -a \"$1/.\" \"$2\" && rm -f \"$2\"/.no.prefetch.landmark \"$2\"/stargz.index.json", "sh",
                    unpacked, copy,
                ]).orThrow()
                try expect(tree, at: copy, format, in: sandbox, "containerd")
                try containerd.ctr("images", "rm", "--sync", reference)
                // Without its snapshotter, the client unpacks like the other one.
                try containerd.remote("images", "rpull", "--plain-http", "--snapshotter", "overlayfs", reference)
            }
        }

        @Test(
            "skopeo copies it unchanged and to gzip, and umoci unpacks that", Requirements.tools("umoci"),
            arguments: formats)
        func skopeo(format: String) throws {
            try Sandbox.with { sandbox in
                let (tree, reference) = try image(format, in: sandbox)
                let policy = sandbox.directory + "/policy.json"
                try write(#"{"default": [{"type": "insecureAcceptAnything"}]}"#.utf8, to: policy)
                let words = ["skopeo", "--policy", policy, "copy", "--src-tls-verify=false"]
                let (same, gzip) = ("\(sandbox.directory)/same", "\(sandbox.directory)/gzip")
                try run(words + ["docker://" + reference, "oci:\(same):x"]).orThrow()
                try run(words + ["--dest-compress-format", "gzip", "docker://" + reference, "oci:\(gzip):x"]).orThrow()
                let bundle = sandbox.directory + "/bundle"
                try run(["umoci", "unpack", "--image", gzip + ":x", bundle]).orThrow()
                for name in [".no.prefetch.landmark", "stargz.index.json"] { unlink("\(bundle)/rootfs/\(name)") }
                try expect(tree, at: bundle + "/rootfs", format, in: sandbox, "umoci")
                // lamina reads it back from the copy.
                try expect(
                    tree, at: sandbox.mount("oci:\(same):x"), format, in: sandbox, "lamina",
                    keepsFractions: format == "zstd-chunked")
            }
        }

        @Test(
            "podman pulls it in parts where it can, and as a whole where it cannot",
            .enabled(if: !podmans.isEmpty, "LAMINA_PODMANS names no podman"), arguments: formats)
        func podman(format: String) throws {
            for (number, programs) in Self.podmans.enumerated() {
                try Sandbox.with { sandbox in
                    let (tree, reference) = try image(format, in: sandbox)
                    let home = sandbox.directory
                    let host = reference.split(separator: "/")[0]
                    try write(#"{"default": [{"type": "insecureAcceptAnything"}]}"#.utf8, to: home + "/policy.json")
                    try write("[engine]\nhelper_binaries_dir = [\"\(programs)\"]\n".utf8, to: home + "/containers.conf")
                    try write(
                        "[[registry]]\nlocation = \"\(host)\"\ninsecure = true\n".utf8, to: home + "/registries.conf")
                    let storage = """
                        [storage]
                        driver = "overlay"
                        runroot = "\(home)/run"
                        graphroot = "\(home)/graph"
                        [storage.options]
                        pull_options = {enable_partial_images = "true"}
                        """
                    try write(storage.utf8, to: home + "/storage.conf")
                    func podman(_ arguments: String...) throws -> Outcome {
                        let environment =
                            "CONTAINERS_CONF=$1/containers.conf CONTAINERS_STORAGE_CONF=$1/storage.conf CONTAINERS_REGISTRIES_CONF=$1/registries.conf PATH=$2:$PATH"
                        let script =
                            "home=$1 programs=$2; export \(environment); shift 2; exec \"$programs/podman\" \"$@\""
                        return try run(["/bin/sh", "-c", script, "sh", home, programs] + arguments, seconds: 120)
                    }
                    let pulled = try podman(
                        "--log-level", "debug", "pull", "--signature-policy", home + "/policy.json",
                        "docker://" + reference)
                    try pulled.orThrow()
                    // podman 4 and older, and eStargz for all of podman 5, are pulled as a whole.
                    let inParts = pulled.errors.contains("Retrieved partial blob")
                    print(
                        "podman \(number) (\(try podman("--version").output.split(separator: "\n").first ?? "?")): \(format), \(inParts ? "in parts" : "as a whole")"
                    )
                    let mounted =
                        try podman("image", "mount", reference).orThrow().output.split(separator: "\n").last.map(
                            String.init) ?? ""
                    let copy = try sandbox.mountPoint("copy")
                    // Of its own: a root that nobody may write to, and the time of the pull for symbolic links.
                    let script = """
                        cp -a "$1/." "$2"; rm -f "$2"/.no.prefetch.landmark "$2"/stargz.index.json
                        chmod 0755 "$2"; touch -h -r "$3/d/e/soft" "$2/d/e/soft"
                        """
                    try run(["/bin/sh", "-e", "-c", script, "sh", mounted, copy, tree]).orThrow()
                    try expect(tree, at: copy, format, in: sandbox, "podman")
                    _ = try podman("image", "umount", "--all")
                }
            }
        }
    }
}
