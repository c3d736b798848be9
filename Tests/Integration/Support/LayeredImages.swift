/// Images of several plain layers. (`umoci insert` leaves out the padding of a tar's last entry.)
enum LayeredImages {
    /// `LAYOUT ENTRYPOINT TAR…`: an OCI layout of these layers, the lowest first, compressed by gzip and tagged latest.
    private static let make = """
        import gzip, hashlib, json, os, sys
        layout, entrypoint, tars = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
        os.makedirs(layout + "/blobs/sha256")
        def add(data, media_type):
            name = hashlib.sha256(data).hexdigest()
            with open(f"{layout}/blobs/sha256/{name}", "wb") as file: file.write(data)
            return {"mediaType": media_type, "digest": "sha256:" + name, "size": len(data)}
        diff_ids, layers = [], []
        for tar in tars:
            with open(tar, "rb") as file: data = file.read()
            diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
            layers.append(add(gzip.compress(data, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
        config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/usr/bin"], "Entrypoint": entrypoint},
                  "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [{"created_by": "test"} for _ in tars]}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"), "layers": layers}
        entry = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        with open(layout + "/index.json", "w") as file: json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
        with open(layout + "/oci-layout", "w") as file: json.dump({"imageLayoutVersion": "1.0.0"}, file)
        """

    /// - Parameter entrypoint: words without spaces in them.
    static func make(_ layout: String, of tars: [String], entrypoint: [String] = []) throws {
        try run(["python3", "-c", make, layout, entrypoint.joined(separator: " ")] + tars, seconds: 240).orThrow()
    }
}
