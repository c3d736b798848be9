import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("layers that the manifest says are elsewhere", Requirements.tools("python3", "docker-registry"))
    struct ForeignLayers {
        /// `LAYOUT KIND URL…`: removes the layers from a layout; the manifest names them as foreign, with the URLs, in which
        /// DIGEST is the layer's.
        private static let makeForeign = """
            import hashlib, json, os, sys
            layout, kind, urls = sys.argv[1], sys.argv[2], sys.argv[3:]
            path = lambda digest: layout + "/blobs/sha256/" + digest[7:]
            index = json.load(open(layout + "/index.json"))
            entry = index["manifests"][0]
            manifest = json.load(open(path(entry["digest"])))
            for layer in manifest["layers"]:
                os.unlink(path(layer["digest"]))
                layer["mediaType"] = kind
                layer["urls"] = [url.replace("DIGEST", layer["digest"]) for url in urls]
            data = json.dumps(manifest).encode()
            entry.update(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))
            open(path(entry["digest"]), "wb").write(data)
            json.dump(index, open(layout + "/index.json", "w"))
            """

        private func foreign(
            _ fixture: String, _ sandbox: Sandbox, _ urls: String...,
            kind: String = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        ) throws -> String {
            let layout = "\(sandbox.directory)/foreign"
            try run(["rm", "-rf", layout]).orThrow()
            try run(["cp", "-r", Fixtures.layout(fixture), layout]).orThrow()
            try run(["python3", "-c", Self.makeForeign, layout, kind] + urls).orThrow()
            return "oci:" + layout
        }

        @Test(
            "they are fetched from the first URL that has them, lazily and as a whole, and verified like others",
            arguments: ["estargz", "plain-gzip"])
        func fetched(fixture: String) throws {
            try Sandbox.with { sandbox in
                let registry = try Shared.registry.get()
                try registry.push(layout: Fixtures.layout(fixture), name: "elsewhere/\(fixture)", tag: "x")
                let good = "http://\(registry.host)/v2/elsewhere/\(fixture)/blobs/DIGEST"
                let image = try foreign(
                    fixture, sandbox, "ftp://127.0.0.1/DIGEST", "http://\(registry.host)/nobody?it=DIGEST",
                    good + "#part",
                    kind: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
                // Lazily: what is read later must be found too, also by the next process.
                let mount = try sandbox.mount(image)
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "lazily", keepsFractions: fixture == "plain-gzip")
                try sandbox.lamina("umount", mount)
                try sandbox.lamina("pull", image)
                #expect(try sandbox.number("SELECT merged_contents = contents FROM image_status") == 1)
                let shown = try sandbox.lamina("inspect", "--json", image).output
                #expect(shown.contains("url:http:"), "\(shown)")
                let doctor = try sandbox.lamina("doctor", image)
                #expect(!doctor.output.contains("fail"), "\(doctor)")
                // And so does convert.
                let converted = "oci:\(sandbox.directory)/converted:x"
                try sandbox.lamina("convert", "--format", "zstd-chunked", image, converted)
                try TreeOracle.expectFixture(
                    at: try sandbox.mount(converted, at: "converted"), in: sandbox, "converted",
                    keepsFractions: true)
            }
        }

        @Test("where nobody has them the error names the URLs")
        func named() throws {
            try Sandbox.with { sandbox in
                let registry = try Shared.registry.get()
                let url = "http://\(registry.host)/v2/nobody/has/blobs/DIGEST"
                let image = try foreign("estargz", sandbox, url, "file:///etc/passwd", "http://user:secret@127.0.0.1/x")
                let outcome = try sandbox.attempt("pull", image)
                #expect(outcome.exitCode != 0)
                #expect(outcome.errors.contains("http://\(registry.host)/v2/nobody/has/blobs/sha256:"), "\(outcome)")
                #expect(outcome.errors.contains("'file:///etc/passwd' is no URL of HTTP"), "\(outcome)")
                let doctor = try sandbox.attempt("doctor", image)
                #expect(doctor.output.contains("/v2/nobody/has/blobs/"), "\(doctor)")
            }
        }

        @Test("bytes of a URL that are not the layer's are refused")
        func wrong() throws {
            try Sandbox.with { sandbox in
                let registry = try Shared.registry.get()
                try registry.push(layout: Fixtures.layout("estargz-64k"), name: "elsewhere/other", tag: "x")
                let manifest = try run(["sh", "-c", "ls -S \(Fixtures.layout("estargz-64k"))/blobs/sha256 | head -1"])
                    .output
                let other = "http://\(registry.host)/v2/elsewhere/other/blobs/sha256:\(manifest.prefix(64))"
                let outcome = try sandbox.attempt("pull", try foreign("estargz", sandbox, other))
                #expect(outcome.exitCode != 0 && !outcome.isTimedOut, "\(outcome)")
                #expect(try sandbox.sql("SELECT count(*) FROM content WHERE state = 2") == ["0"])
            }
        }
    }
}
