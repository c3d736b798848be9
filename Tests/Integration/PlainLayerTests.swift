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
                try PlainImages.addLayer(to: base.layout, in: sandbox)
                let docker = try PlainImages.layout(of: tar, "gzip", in: sandbox, docker: true)
                let zstd = sandbox.directory + "/skopeo.oci"
                try Skopeo.copy(
                    ["--dest-compress-format", "zstd", "oci:\(base.layout):latest", "oci:\(zstd):latest"], in: sandbox)
                // umoci refuses Docker's manifests: the reference is the same tar in another image.
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
    }
}
