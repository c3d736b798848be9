import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("what containerd unpacks of an image is what lamina shows of it", Containerd.isInstalled)
    struct ContainerdImages {
        /// Pushes a layout to the shared registry; returns its name there.
        private func push(_ layout: String, _ name: String, tag: String? = nil) throws -> String {
            let registry = try Shared.registry.get()
            try registry.push(layout: layout, sourceTag: tag, name: name, tag: "1")
            return "\(registry.host)/\(name):1"
        }

        /// Expects that an image, mounted before and after its files are there, shows the tree of a directory.
        private func expect(
            _ reference: String, shows unpacked: String, keepsFractions: Bool, _ sandbox: Sandbox, _ name: String
        ) throws {
            let mount = try sandbox.mount(reference, at: "lazy-\(name)")
            try TreeOracle.expectSame(
                unpacked, at: mount, in: sandbox, keepsFractions: keepsFractions, ignoringDirectoryTimes: true, name)
            let report: PullReport = try decoded(sandbox.lamina("pull", reference, "--json").output)
            #expect(report.complete, "\(name)")
            let again = try sandbox.mount(reference, at: "merged-\(name)")
            try TreeOracle.expectSame(
                unpacked, at: again, in: sandbox, keepsFractions: keepsFractions, ignoringDirectoryTimes: true, name)
        }

        @Test("converted by ctr-remote to eStargz, to zstd:chunked, and to tar")
        func converted() throws {
            try Sandbox.with { sandbox in
                let containerd = try Containerd(in: sandbox)
                let plain = try push(Fixtures.layout("plain-gzip"), "converted/plain")
                let unpacked = try containerd.unpack(plain)
                let host = try Shared.registry.get().host
                for (name, options, format) in [
                    ("estargz", ["--estargz", "--estargz-chunk-size", "65536"], "estargz"),
                    ("zstd", ["--zstdchunked"], "zstd:chunked"), ("tar", ["--uncompress"], "tar"),
                ] {
                    let reference = "\(host)/converted/\(name):1"
                    try run(
                        ["ctr-remote", "-a", containerd.socket, "images", "convert", "--oci"] + options
                            + [plain, reference]
                    ).orThrow()
                    try containerd.remote("images", "push", "--plain-http", reference)
                    // eStargz has only whole seconds.
                    try expect(
                        reference, shows: unpacked, keepsFractions: name == "tar", sandbox, name)
                    let found = try sandbox.sql(
                        """
                        SELECT DISTINCT s.format FROM image_content AS c JOIN layer_status AS s ON s.digest = c.layer
                        WHERE c.reference = '\(reference)'
                        """)
                    #expect(found == [format])
                }
            }
        }

        // It reads stargz-snapshotter's dialect of zstd:chunked; convert writes the other one, which podman reads.
        @Test("ctr-remote finds the table of contents that convert wrote, with the digest that it gave")
        func tableOfContents() throws {
            try Sandbox.with { sandbox in
                let containerd = try Containerd(in: sandbox)
                let layout = sandbox.directory + "/written"
                let written = try sandbox.lamina(
                    "convert", "--json", "oci:\(Fixtures.layout("plain-gzip"))", "oci:\(layout):latest")
                let report: ConvertReport = try decoded(written.output)
                let registry = try Shared.registry.get()
                try registry.push(layout: layout, sourceTag: "latest", name: "written", tag: "1")
                try containerd.ctr(
                    "images", "pull", "--plain-http", "--snapshotter", "overlayfs", "\(registry.host)/written:1")
                #expect(!report.layers.isEmpty)
                for layer in report.layers {
                    let found = try containerd.remote("images", "get-toc-digest", layer.digest)
                    #expect(found.output == layer.tocDigest + "\n")
                }
            }
        }

        @Test(
            "optimized by ctr-remote for a workload that was watched, with what it read in front",
            Requirements.tools("gcc"))
        func optimized() throws {
            try Sandbox.with { sandbox in
                let containerd = try Containerd(in: sandbox)
                let tree = sandbox.directory + "/tree"
                try run(["/bin/sh", "-ec", Scripts.workload, "sh", tree]).orThrow()
                let tar = sandbox.directory + "/layer.tar"
                try run(["tar", "-C", tree, "-cf", tar, "--format=gnu", "."]).orThrow()
                let plain = try push(PlainImages.layout(of: tar, "gzip", in: sandbox).layout, "optimized/plain")
                let unpacked = try containerd.unpack(plain)
                let reference = "\(try Shared.registry.get().host)/optimized/estargz:1"
                try containerd.remote(
                    "images", "optimize", "--oci", "--period", "2", "--net-host", "--entrypoint", "[\"/program\"]",
                    plain, reference)
                try containerd.remote("images", "push", "--plain-http", reference)
                try expect(reference, shows: unpacked, keepsFractions: false, sandbox, "optimized")
                // The program and the file that it read are before the landmark, the other one is after it.
                #expect(
                    try sandbox.sql(
                        """
                        SELECT DISTINCT f.path FROM file AS f JOIN layer AS l ON f.layer = 'sha256:' || lower(hex(l.digest))
                        JOIN content AS c ON f.digest = 'sha256:' || lower(hex(c.digest))
                        JOIN chunk_source AS s ON s.content = c.id AND s.layer = l.id AND s.blob_offset < l.prioritized_end
                        ORDER BY 1
                        """) == ["/data/hot", "/program"])
            }
        }

        @Test("made by GNU tar in every one of its odd corners, whatever compressed it", Requirements.tools("pigz"))
        func oddCorners() throws {
            try Sandbox.with { sandbox in
                let containerd = try Containerd(in: sandbox)
                let tree = sandbox.directory + "/tree"
                try run(["python3", "-c", PlainImages.oddTree, tree]).orThrow()
                // containerd turns every time before 1970 into 1970; lamina keeps it, as GNU tar and umoci do (PlainLayers).
                try run(["rm", tree + "/before-1970"]).orThrow()
                let posix = ["--sort=name", "--format=posix", "--xattrs"]
                for (name, options, compression) in [
                    // containerd refuses sparse files in GNU's own format ("unhandled tar header type 83").
                    ("gnu", ["--format=gnu"], "gzip"),
                    // From a global header that is called /tmp/GlobalHead.1.1, as by GNU tar, containerd makes the directory
                    // /tmp.
                    ("global", posix + ["--sparse", "--pax-option=globexthdr.name=g,comment=x"], "pigz"),
                    ("sparse-0.0", posix + ["--sparse", "--sparse-version=0.0"], "tar"),
                    ("sparse-0.1", posix + ["--sparse", "--sparse-version=0.1"], "zstd"),
                    ("sparse-1.0", posix + ["--sparse", "--sparse-version=1.0"], "gzip"),
                ] {
                    let tar = "\(sandbox.directory)/\(name).tar"
                    try run(["tar", "-C", tree, "-cf", tar] + options + ["."]).orThrow()
                    let layout = try PlainImages.layout(of: tar, compression, in: sandbox).layout
                    let reference = try push(layout, "odd/\(name)")
                    try run(["rm", "-r", layout]).orThrow()
                    let unpacked = try containerd.unpack(reference, "unpacked-\(name)")
                    try expect(reference, shows: unpacked, keepsFractions: true, sandbox, name)
                }
            }
        }

        @Test(
            "made by umoci with whiteouts, copied by skopeo to zstd, or with Docker's manifest",
            Requirements.tools("umoci", "skopeo", "zstd"))
        func writers() throws {
            try Sandbox.with { sandbox in
                let containerd = try Containerd(in: sandbox)
                let tree = sandbox.directory + "/tree"
                try run(["python3", "-c", Scripts.generate, tree, "7", "large:3", "600"]).orThrow()
                let tar = sandbox.directory + "/layer.tar"
                try run(["tar", "-C", tree, "-cf", tar, "--format=gnu", "."]).orThrow()
                let docker = try PlainImages.layout(of: tar, "gzip", in: sandbox, docker: true).layout
                let changed = try PlainImages.layout(of: tar, "gzip", in: sandbox).layout
                try PlainImages.addLayer(to: changed, in: sandbox)
                let zstd = sandbox.directory + "/skopeo.oci"
                try Skopeo.copy(
                    ["--dest-compress-format", "zstd", "oci:\(changed):latest", "oci:\(zstd):latest"], in: sandbox)
                for (name, layout) in [("docker", docker), ("umoci", changed), ("skopeo", zstd)] {
                    let reference = try push(layout, "writers/\(name)", tag: "latest")
                    let unpacked = try containerd.unpack(reference, "unpacked-\(name)")
                    try expect(reference, shows: unpacked, keepsFractions: true, sandbox, name)
                }
            }
        }
    }
}
