import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("zstd:chunked, and what is proven of a layer")
    struct ChunkedFormats {
        static let hasSkopeo = access("/usr/bin/skopeo", X_OK) == 0

        /// Converts the plain fixture.
        private func convert(_ sandbox: Sandbox) throws -> String {
            let image = "oci:\(sandbox.directory)/image:z"
            try sandbox.lamina("convert", "--format", "zstd-chunked", "oci:\(Fixtures.layout("plain-gzip"))", image)
            return image
        }

        @Test(
            "an image that lamina converts to zstd:chunked mounts as containerd's tree, before and after it is merged")
        func converted() throws {
            try Sandbox.with { sandbox in
                let image = try convert(sandbox)
                try TreeOracle.expectFixture(at: try sandbox.mount(image), in: sandbox, "lazily", keepsFractions: true)
                try sandbox.lamina("pull", image)
                try TreeOracle.expectFixture(
                    at: try sandbox.mount(image, at: "again"), in: sandbox, "merged", keepsFractions: true)
                #expect(try sandbox.sql("SELECT DISTINCT format FROM layer_status") == ["zstd:chunked"])
            }
        }

        @Test("zstd -d makes of each layer the tar that the configuration names")
        func ordinary() throws {
            try Sandbox.with { sandbox in
                _ = try convert(sandbox)
                let script = """
                    import json, subprocess, hashlib, sys
                    read = lambda d: open(sys.argv[1] + '/blobs/sha256/' + d[7:], 'rb').read()
                    manifest = json.loads(read(json.load(open(sys.argv[1] + '/index.json'))['manifests'][0]['digest']))
                    names = json.loads(read(manifest['config']['digest']))['rootfs']['diff_ids']
                    for layer, name in zip(manifest['layers'], names, strict=True):
                        assert layer['mediaType'].endswith('tar+zstd')
                        tar = subprocess.run(['zstd', '-dc'], input=read(layer['digest']), stdout=-1, check=True).stdout
                        assert 'sha256:' + hashlib.sha256(tar).hexdigest() == name
                    """
                try run(["python3", "-c", script, sandbox.directory + "/image"]).orThrow()
            }
        }

        @Test(
            "skopeo takes it, and what skopeo makes of it as tar+gzip is lamina's tree again",
            .enabled(if: hasSkopeo, "skopeo is missing (apt install skopeo)"))
        func skopeo() throws {
            try Sandbox.with { sandbox in
                let (image, copy) = (try convert(sandbox), "oci:\(sandbox.directory)/copy:g")
                try Skopeo.copy([image, "oci:\(sandbox.directory)/same:z"], in: sandbox)
                try Skopeo.copy(["--dest-compress", "--dest-compress-format", "gzip", image, copy], in: sandbox)
                let back = "oci:\(sandbox.directory)/back:e"
                try sandbox.lamina("convert", copy, back)
                try TreeOracle.expectFixture(at: try sandbox.mount(back), in: sandbox, "from skopeo")
            }
        }

        @Test("zstd-chunked-skopeo-1.9, whose tars lack zeros at their ends, is served with mismatches in its ledger")
        func mismatch() throws {
            try Sandbox.with { sandbox in
                let image = "oci:\(Fixtures.layout("zstd-chunked-skopeo-1.9"))"
                try sandbox.lamina("pull", image)
                #expect(
                    try sandbox.sql("SELECT diff_id_proof, computed_diff_id IS NOT NULL FROM layer_status")
                        == ["mismatch|1", "mismatch|1", "mismatch|1"])
                try TreeOracle.expectFixture(
                    at: try sandbox.mount(image), in: sandbox, "level chunks", keepsFractions: true)
                #expect(try sandbox.sql("SELECT quarantine IS NULL FROM layer") == ["1", "1", "1"])
                try sandbox.lamina("check")
            }
        }

        @Test("[store] require = \"diffid\" mounts what is proven, and refuses the rest with the way out")
        func require() throws {
            try Sandbox.with { sandbox in
                let configuration = sandbox.directory + "/config.toml"
                let file = try File(configuration, O_WRONLY | O_CREAT, mode: 0o600)
                try Array("[store]\nrequire = \"diffid\"\n".utf8).withUnsafeBytes { try file.write($0, at: 0) }
                let mount = try sandbox.mountPoint()
                let wrong = try sandbox.attempt(
                    "mount", "--config", configuration, "oci:\(Fixtures.layout("zstd-chunked-skopeo-1.9"))", mount)
                #expect(wrong.exitCode != 0 && wrong.errors.contains("its tar has the digest sha256:"))
                #expect(wrong.errors.contains("require = \"chunks\""))
                try sandbox.lamina("mount", "--config", configuration, "oci:\(Fixtures.layout("estargz"))", mount)
                try TreeOracle.expectFixture(at: mount, in: sandbox, "proven")
                #expect(
                    try sandbox.number("SELECT count(*) FROM layer_status WHERE diff_id_proof = 'proven'") == 3)
            }
        }
    }
}
