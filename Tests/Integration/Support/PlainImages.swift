import LaminaTestSupport

/// Images of plain layers, made by common tools.
enum PlainImages {
    /// `TAR LAYOUT COMPRESSION`: an OCI layout of one layer, tagged latest; `docker` as a fourth word: with Docker's media types.
    static let makeLayout = """
        import hashlib, json, os, subprocess, sys
        tar, layout, compression = sys.argv[1:4]
        is_docker = sys.argv[4:] == ["docker"]
        os.makedirs(layout + "/blobs/sha256")
        def digest(path):
            with open(path, "rb") as file: return hashlib.file_digest(file, "sha256").hexdigest()
        def add(data, media_type):
            name = hashlib.sha256(data).hexdigest()
            with open(f"{layout}/blobs/sha256/{name}", "wb") as file: file.write(data)
            return {"mediaType": media_type, "digest": "sha256:" + name, "size": len(data)}
        blob = layout + "/blob"
        words = {"gzip": ["gzip", "-1"], "pigz": ["pigz", "-1"], "bgzip": ["bgzip"], "zstd": ["zstd", "-1"], "tar": ["cat"]}
        with open(tar, "rb") as source, open(blob, "wb") as target:
            subprocess.run(words[compression] + ([] if compression == "tar" else ["-c"]), stdin=source, stdout=target, check=True)
        suffix = {"zstd": "+zstd", "tar": ""}.get(compression, "+gzip")
        layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip" if is_docker
                              else "application/vnd.oci.image.layer.v1.tar" + suffix,
                 "digest": "sha256:" + digest(blob), "size": os.path.getsize(blob)}
        os.rename(blob, f"{layout}/blobs/{layer['digest'].replace(':', '/')}")
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(tar)]},
                  "history": [{"created_by": "test"}]}
        config_type = "application/vnd.docker.container.image.v1+json" if is_docker else "application/vnd.oci.image.config.v1+json"
        manifest_type = "application/vnd.docker.distribution.manifest.v2+json" if is_docker else "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": manifest_type, "config": add(json.dumps(config).encode(), config_type), "layers": [layer]}
        entry = add(json.dumps(manifest).encode(), manifest_type)
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        with open(layout + "/index.json", "w") as file: json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
        with open(layout + "/oci-layout", "w") as file: json.dump({"imageLayoutVersion": "1.0.0"}, file)
        print(layer["digest"], layer["size"])
        """

    /// `DIRECTORY`: files that need GNU tar's unusual features.
    static let oddTree = """
        import os, sys
        root = os.fsencode(sys.argv[1])
        os.makedirs(root + b"/dir")
        def make(name, data=b"x"):
            with open(root + b"/" + name, "wb") as file: file.write(data)
            return root + b"/" + name
        make(b"latin-\\xe9\\xff", b"not UTF-8")
        make(b"dir/" + b"n" * 200, b"a long name")
        os.symlink(b"t" * 150 + b"\\xfe", root + b"/dir/link")
        os.utime(make(b"before-1970"), ns=(-5 * 10**9 - 250_000_000, -5 * 10**9 - 250_000_000))
        os.utime(make(b"sub-second"), ns=(1, 1_600_000_000_123_456_789))
        os.utime(make(b"far"), (5_000_000_000, 5_000_000_000))
        os.chown(make(b"owned"), 3_000_000, 4_000_000)
        os.link(make(b"one", b"linked"), root + b"/two")
        os.mkfifo(root + b"/fifo")
        os.mknod(root + b"/device", 0o20640, os.makedev(300, 70000))
        os.setxattr(make(b"attributes"), b"user.colour", b"blue\\0green")
        with open(root + b"/sparse", "wb") as file:
            for part in range(30):
                file.seek(100_000 + 262_144 * part)
                file.write(bytes([part + 1]) * 5000)
            file.truncate(9_000_000)
        with open(root + b"/hole", "wb") as file: file.truncate(3_000_000)
        os.utime(root + b"/dir", (1_500_000_000, 1_500_000_000))
        """

    /// Makes an image of a tar in the sandbox; returns its layout.
    static func layout(
        of tar: String, _ compression: String, in sandbox: Sandbox, docker: Bool = false
    ) throws -> (layout: String, layer: String, size: Int64) {
        let layout = "\(sandbox.directory)/\(compression)\(docker ? "-docker" : "").oci"
        let made = try run(
            ["python3", "-c", makeLayout, tar, layout, compression] + (docker ? ["docker"] : []), seconds: 240
        ).orThrow()
        let words = made.output.split { $0 == " " || $0 == "\n" }.map(String.init)
        return (layout, words[0], Int64(words[1]) ?? 0)
    }

    /// Has umoci add a layer to an image, with a new file and whiteouts of some.
    static func addLayer(to layout: String, in sandbox: Sandbox) throws {
        let bundle = sandbox.directory + "/bundle"
        removeTree(bundle)
        try run(["umoci", "unpack", "--image", layout + ":latest", bundle]).orThrow()
        // The root gets another time, in whole seconds: then umoci lists it. Otherwise its time is that of the layer below,
        // which a view's root does not take.
        let change = "rm -r \"$1\"/files/000; echo new >\"$1\"/new; touch -d @1600000000 \"$1\""
        try run(["/bin/sh", "-c", change, "sh", bundle + "/rootfs"]).orThrow()
        try run(["umoci", "repack", "--image", layout + ":latest", bundle]).orThrow()
    }

    /// What umoci unpacks from an image, described; the mount at `path` is compared with it.
    static func differences(
        fromUmoci layout: String, at mount: String, in sandbox: Sandbox
    ) throws -> String? {
        let bundle = sandbox.directory + "/bundle"
        removeTree(bundle)
        try run(["umoci", "unpack", "--image", layout + ":latest", bundle]).orThrow()
        let (expected, actual) = (sandbox.directory + "/umoci.jsonl", sandbox.directory + "/lamina.jsonl")
        try TreeOracle.describe(bundle + "/rootfs", to: expected)
        try TreeOracle.describe(mount, to: actual)
        let outcome = try run(["python3", Fixtures.directory + "/tree.py", "--diff", expected, actual])
        return outcome.exitCode == 0 ? nil : outcome.output + outcome.errors
    }
}
