import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Tests/OddLayers: LAMINA_ODD_LAYERS says how many, LAMINA_ODD_SEED which.
    @Suite("odd layers", Requirements.tools("go:golang-go", "zstd"))
    struct OddLayers {
        private static func number(_ name: String, _ usual: Int) -> Int {
            getenv(name).flatMap { Int(String(cString: $0)) } ?? usual
        }

        @Test("200 odd layers are what containerd's own code unpacks, as they are and converted to both formats")
        func generated() throws {
            let count = Self.number("LAMINA_ODD_LAYERS", 200)
            try Sandbox.with { sandbox in
                let directory = try sandbox.mountPoint("odd")
                let outcome = try run(
                    [
                        "python3", Fixtures.directory + "/../OddLayers/odd.py", "--lamina", Requirements.lamina,
                        "--unpack",
                        GoProgram.unpack.get(), "--directory", directory, "--count", "\(count)", "--seed",
                        "\(Self.number("LAMINA_ODD_SEED", 0))",
                    ], seconds: 60 + 6 * Double(count))
                #expect(outcome.exitCode == 0, "\(outcome.output.suffix(8000))\n\(outcome.errors.suffix(4000))")
                print(outcome.output.split(separator: "\n").last ?? "")
            }
        }

        /// `LAYER`: a tar, of lines on standard input: a path with a slash behind is a directory, one with ` -> ` a symbolic link.
        private static let tar = """
            import io, sys, tarfile
            with tarfile.open(sys.argv[1], "w") as out:
                for line in sys.stdin.read().splitlines():
                    name, _, link = line.partition(" -> ")
                    info = tarfile.TarInfo(name.rstrip("/"))
                    info.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                    info.linkname, info.mode = link, 0o755
                    out.addfile(info, io.BytesIO(b""))
            """

        private func image(_ lines: [String], in sandbox: Sandbox) throws -> String {
            let tar = sandbox.directory + "/layer.tar"
            let words = ["/bin/sh", "-c", "printf '%s' \"$3\" | python3 -c \"$1\" \"$2\"", "sh", Self.tar, tar]
            try run(words + [lines.joined(separator: "\n")]).orThrow()
            return try PlainImages.layout(of: tar, "gzip", in: sandbox).layout + ":latest"
        }

        @Test("a whiteout in a directory that one layer alone has is seen nowhere, however the image is mounted")
        func whiteouts() throws {
            try Sandbox.with { sandbox in
                let layout = try image(["etc/", "etc/.wh.gone", "etc/a", ".wh.top", "d/.wh.implicit"], in: sandbox)
                let converted = "oci:\(sandbox.directory)/converted:x"
                try sandbox.lamina("convert", "oci:" + layout, converted)
                for (number, reference) in ["oci:" + layout, converted].enumerated() {
                    let (read, write) = (try sandbox.mountPoint("r\(number)"), try sandbox.mountPoint("w\(number)"))
                    try sandbox.lamina("mount", reference, read)
                    try sandbox.lamina("mount", "--rw", sandbox.mountPoint("upper\(number)"), reference, write)
                    for mount in [read, write] {
                        let found = try run(["find", mount, "-mindepth", "1", "-printf", "%P %y\\n"]).orThrow()
                        let names = found.output.split(separator: "\n").sorted()
                        #expect(names == ["d d", "etc d", "etc/a f"], "\(mount): \(found.output)")
                        try run(["cp", "-a", mount, "\(sandbox.directory)/copy-\(number)-\(mount.suffix(2))"]).orThrow()
                    }
                }
            }
        }

        @Test(
            "a whiteout is seen nowhere in what containerd mounts of an image of one lazy layer", Containerd.isInstalled
        )
        func whiteoutsUnderContainerd() throws {
            try Sandbox.with { sandbox in
                let layout = try image(["etc/", "etc/.wh.gone", "etc/a", ".wh.top"], in: sandbox)
                let converted = sandbox.directory + "/converted"
                try sandbox.lamina("convert", "--format", "zstd-chunked", "oci:" + layout, "oci:\(converted):x")
                let registry = try Shared.registry.get()
                try registry.push(layout: converted, sourceTag: "x", name: "odd/whiteouts", tag: "x")
                let reference = "\(registry.host)/odd/whiteouts:x"
                let containerd = try LaminaContainerd(sandbox)
                try containerd.pullLazily(reference)
                let ctr = ["ctr", "-a", containerd.socket, "snapshots", "--snapshotter", "lamina"]
                let listed = try run(ctr + ["ls"]).orThrow().output
                let key = try #require(
                    listed.split(separator: "\n").first { $0.contains("Committed") }?.split(separator: " ").first
                ).description
                for (name, kind) in [("view", "view"), ("active", "prepare")] {
                    let path = try sandbox.mountPoint(name)
                    try run(ctr + [kind, name, key]).orThrow()
                    let command = try run(ctr + ["mounts", path, name]).orThrow().output
                    try run(["/bin/sh", "-c", command]).orThrow()
                    let found = try run(["find", path, "-mindepth", "1", "-printf", "%P %y\\n"]).orThrow()
                    #expect(
                        found.output.split(separator: "\n").sorted() == ["etc d", "etc/a f"], "\(name): \(found.output)"
                    )
                }
            }
        }

        @Test(
            "a tar comes through a pipe, and odd compressions are read or refused by their name",
            Requirements.tools("zstd", "xz:xz-utils", "bzip2"))
        func compressions() throws {
            try Sandbox.with { sandbox in
                let tree = try sandbox.mountPoint("tree")
                try write(noise(9000) + [UInt8](repeating: 7, count: 3_000_000), to: tree + "/f")
                let destination = "oci:\(sandbox.directory)/piped"
                for (number, source) in ["tar:-", "tar:/dev/stdin"].enumerated() {
                    let words = "tar -C \"$1\" -c f | gzip | \"$2\" convert \"$4\" \"$3\""
                    try run([
                        "/bin/sh", "-c", words, "sh", tree, Requirements.lamina, "\(destination):\(number)", source,
                    ]).orThrow()
                }
                // Standard input that cannot be opened by a name: a socket.
                let socket = """
                    import socket, subprocess, sys
                    a, b = socket.socketpair()
                    tar = subprocess.Popen(["tar", "-C", sys.argv[1], "-c", "f"], stdout=b)
                    b.close()
                    code = subprocess.call([sys.argv[2], "convert", "tar:-", sys.argv[3]], stdin=a)
                    sys.exit(code or tar.wait())
                    """
                try run(["python3", "-c", socket, tree, Requirements.lamina, destination + ":socket"]).orThrow()
                for tag in ["0", "socket"] {
                    let mount = try sandbox.mount("\(destination):\(tag)", at: tag)
                    try run(["cmp", mount + "/f", tree + "/f"]).orThrow()
                }
                let tar = sandbox.directory + "/layer.tar"
                try run(["tar", "-C", tree, "-cf", tar, "f"]).orThrow()
                // A file that compresses to less than a block of a tar.
                let small = sandbox.directory + "/small.tar"
                try write([UInt8](repeating: 7, count: 10), to: tree + "/f")
                try run(["tar", "-C", tree, "-cf", small, "f"]).orThrow()
                for (tar, program, words) in [
                    (tar, "xz", "compressed by xz"), (tar, "bzip2", "compressed by bzip2"),
                    (tar, "zstd --long=29", "window is over the limit"), (tar, "zstd --long=28", ""),
                    (small, "xz", "compressed by xz"), (small, "bzip2", "compressed by bzip2"),
                ] {
                    let name = tar == small ? "small" : "large"
                    let layout = "\(sandbox.directory)/\(name)-\(program.filter(\.isLetter))-\(words.utf8.count)"
                    // The other tests' tool, with this program in place of zstd's.
                    let make = PlainImages.makeLayout.replacing(
                        "[\"zstd\", \"-1\"]", with: "[\"sh\", \"-c\", \"cat | \(program) -q -c\"]")
                    try run(["python3", "-c", make, tar, layout, "zstd"]).orThrow()
                    for outcome in [
                        try sandbox.attempt("pull", "oci:\(layout):latest"),
                        try sandbox.attempt("convert", "oci:\(layout):latest", "oci:\(layout)-converted:x"),
                    ] {
                        #expect(
                            words.isEmpty
                                ? outcome.exitCode == 0 : outcome.exitCode == 1 && outcome.errors.contains(words),
                            "\(name), \(program): \(outcome)")
                    }
                }
            }
        }
    }
}
