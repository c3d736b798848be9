import Glibc
import LaminaDigest
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("an image of layers without a table of contents")
    struct PlainLayers {
        @Test("pulled or mounted at once, from a registry or a layout, and after a restart, the tree is containerd's")
        func fixture() throws {
            try Sandbox.with { sandbox in
                let reference = try FixtureImages.reference("plain-gzip", sandbox)
                let report: PullReport = try decoded(sandbox.lamina("pull", reference, "--json").output)
                #expect(report.complete && report.landedBytes == report.bytes)
                let first = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectFixture(at: mount, in: sandbox, "pulled", keepsFractions: true)
                #expect(try sandbox.opens().waited == 0)
                first.send(SIGTERM)
                #expect(first.wait(seconds: 20).exitCode == 0)
                _ = try sandbox.serve()
                try TreeOracle.expectFixture(at: mount, in: sandbox, "after a restart", keepsFractions: true)
                #expect(
                    try sandbox.sql("SELECT DISTINCT format, diff_id_proof FROM layer_status") == ["tar+gzip|proven"])
            }
            try Sandbox.with { sandbox in
                let mount = try sandbox.mount("oci:\(Fixtures.layout("plain-gzip"))")
                try TreeOracle.expectFixture(at: mount, in: sandbox, "mounted at once", keepsFractions: true)
            }
        }

        @Test(
            "GNU tar's odd corners are what GNU tar unpacks, and umoci where it reads them, whatever compressed the layer",
            Requirements.tools("umoci", "pigz", "bgzip:tabix"),
            arguments: [
                ("--format=gnu", "gzip"), ("--pax-option=globexthdr.comment=x", "pigz"),
                ("--sparse-version=0.0", "pigz"), ("--sparse-version=0.1", "bgzip"), ("--sparse-version=1.0", "gzip"),
            ])
        func oddCorners(option: String, compression: String) throws {
            try Sandbox.with { sandbox in
                let tree = sandbox.directory + "/tree"
                try run(["python3", "-c", PlainImages.oddTree, tree]).orThrow()
                let tar = sandbox.directory + "/layer.tar"
                // GNU's own format has no attributes and no fractions of seconds.
                let format = option == "--format=gnu" ? [] : ["--format=posix", "--xattrs"]
                try run(["tar", "-C", tree, "-cSf", tar, "--sort=name"] + format + [option, "."]).orThrow()
                let image = try PlainImages.layout(of: tar, compression, in: sandbox)
                let mount = try sandbox.mount("oci:\(image.layout):latest")
                let unpacked = try sandbox.mountPoint("unpacked")
                try run(["tar", "-C", unpacked, "-xpf", tar, "--xattrs", "--numeric-owner"]).orThrow()
                try TreeOracle.expectSame(unpacked, at: mount, in: sandbox, keepsFractions: true)
                guard option.hasPrefix("--sparse") else { return }
                let found = try PlainImages.differences(fromUmoci: image.layout, at: mount, in: sandbox)
                #expect(found == nil, "\(option): \(found ?? "")")
            }
        }

        @Test(
            "made by umoci, copied by skopeo to another compression, or with Docker's manifest: the tree is umoci's",
            Requirements.tools("umoci", "skopeo", "zstd"))
        func writers() throws {
            try Sandbox.with { sandbox in
                let tree = sandbox.directory + "/tree"
                try run(["python3", "-c", Scripts.generate, tree, "7", "large:3", "600"]).orThrow()
                let tar = sandbox.directory + "/layer.tar"
                try run([
                    "tar", "-C", tree, "-cf", tar, "--format=posix", "--pax-option=delete=atime,delete=ctime", ".",
                ]).orThrow()
                let base = try PlainImages.layout(of: tar, "gzip", in: sandbox)
                // A layer of umoci's on top, with a whiteout.
                let bundle = sandbox.directory + "/bundle"
                try run(["umoci", "unpack", "--image", base.layout + ":latest", bundle]).orThrow()
                try run(["/bin/sh", "-c", "rm -r \"$1\"/files/000; echo new >\"$1\"/new", "sh", bundle + "/rootfs"])
                    .orThrow()
                try run(["umoci", "repack", "--image", base.layout + ":latest", bundle]).orThrow()
                let docker = try PlainImages.layout(of: tar, "gzip", in: sandbox, docker: true)
                let zstd = sandbox.directory + "/skopeo.oci"
                try run(
                    [
                        "skopeo", "copy", "--dest-compress-format", "zstd", "oci:\(base.layout):latest",
                        "oci:\(zstd):latest",
                    ]
                ).orThrow()
                // umoci refuses Docker's manifests: the same tar in another image is the measure.
                let uncompressed = try PlainImages.layout(of: tar, "tar", in: sandbox).layout
                let layouts = [
                    (base.layout, base.layout), (zstd, base.layout), (docker.layout, uncompressed),
                    (uncompressed, uncompressed),
                ]
                for (number, (layout, measure)) in layouts.enumerated() {
                    let mount = try sandbox.mount("oci:\(layout):latest", at: "mnt\(number)")
                    let found = try PlainImages.differences(fromUmoci: measure, at: mount, in: sandbox)
                    #expect(found == nil, "\(layout): \(found ?? "")")
                }
                // The same file from any format is one content, with one file on disk.
                #expect(try sandbox.number("SELECT count(*) - count(DISTINCT digest) FROM content") == 0)
            }
        }

        /// What a kill may cost in compressed bytes that are fetched again: a checkpoint, and what was on its way.
        static let allowance: Int64 = 16 << 20

        @Test(
            "after SIGKILL at random moments, the pull goes on from its last checkpoint, and ends as if nothing had been"
        )
        func killed() throws {
            let mebibytes = getenv("LAMINA_KILL_MEBIBYTES").flatMap { Int(String(cString: $0)) } ?? 96
            let wanted = getenv("LAMINA_KILL_COUNT").flatMap { Int(String(cString: $0)) } ?? 8
            try Sandbox.with { sandbox in
                let tree = sandbox.directory + "/tree"
                try run(
                    [
                        "python3", "-c", Scripts.generate, tree, "11", "a:\(mebibytes / 2),b:\(mebibytes / 4)",
                        "\(mebibytes * 30)",
                    ],
                    seconds: 240
                ).orThrow()
                let tar = sandbox.directory + "/layer.tar"
                try run([
                    "tar", "-C", tree, "-cf", tar, "--format=posix", "--pax-option=delete=atime,delete=ctime", ".",
                ]).orThrow()
                let image = try PlainImages.layout(of: tar, "gzip", in: sandbox)
                let layer = try #require(Digest(parsing: image.layer))
                try Shared.registry.get().push(layout: image.layout, sourceTag: "latest", name: "killed", tag: "latest")
                let proxy = try sandbox.proxy()
                let reference = "\(proxy.host)/killed:latest"
                func distinctBytes() -> Int64 { proxy.sentByteCount(of: layer) - proxy.repeatedByteCount(of: layer) }
                var generator = SystemRandomNumberGenerator()
                let points = (0..<wanted).map { _ in
                    Int64.random(in: image.size / 100...image.size * 95 / 100, using: &generator)
                }.sorted()
                var kills = 0
                var slowest = 0.0
                for point in points {
                    let before = proxy.sentByteCount(of: layer)
                    let started = now()
                    let pull = try sandbox.start(["pull", reference])
                    _ = eventually(seconds: 60) { proxy.sentByteCount(of: layer) > before || !pull.isRunning }
                    slowest = max(slowest, now() - started)
                    _ = eventually(seconds: 120) { distinctBytes() >= point || !pull.isRunning }
                    pull.send(SIGKILL)
                    if pull.wait(seconds: 10).signal == SIGKILL { kills += 1 }
                    #expect(try sandbox.number("SELECT count(*) FROM layer") == 0)
                }
                #expect(kills == wanted, "a pull ended before it was killed")
                let report: PullReport = try decoded(
                    sandbox.lamina("pull", "--json", reference, seconds: 300).output)
                #expect(report.complete && report.landedBytes == report.bytes)
                let (sent, repeated) = (proxy.sentByteCount(of: layer), proxy.repeatedByteCount(of: layer))
                print(
                    "\(kills) kills: \(sent) bytes of a blob of \(image.size), \(repeated) of them more than once; "
                        + "a pull that goes on asked for bytes after \(Int(slowest * 1000)) ms at most")
                #expect(sent <= image.size + Int64(kills) * Self.allowance)
                // Index and files are those of a pull that nobody disturbed.
                try Sandbox.with { other in
                    try other.lamina("pull", "oci:\(image.layout):latest", seconds: 300)
                    for query in [
                        "SELECT path, type, mode, uid, gid, bytes, modified_at, target, digest, state, inode FROM file ORDER BY path",
                        "SELECT hex(digest), hex(claim), size, state, proof, durable, holes FROM content ORDER BY digest",
                        "SELECT format, hex(diff_id), diff_id_state, toc_proof, first_inode, last_inode FROM layer",
                        "SELECT blob_offset, inner_offset, blob_size, offset FROM chunk_source ORDER BY 1, 2",
                        "SELECT count(*) FROM stream_entry", "SELECT state FROM stream",
                    ] {
                        #expect(try sandbox.sql(query) == other.sql(query), "\(query)")
                    }
                    #expect(
                        sandbox.backingFiles().map { $0.dropFirst(sandbox.root.utf8.count) }
                            == other.backingFiles().map { $0.dropFirst(other.root.utf8.count) })
                }
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(tree, at: mount, in: sandbox, keepsFractions: true)
            }
        }
    }
}
