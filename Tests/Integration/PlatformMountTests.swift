import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("images of other platforms", Requirements.tools("python3"))
    struct OtherPlatforms {
        /// `LAYOUT PLATFORM…`: an OCI layout with an index of one image for each platform, which has its name in a file.
        private static let make = """
            import gzip, hashlib, io, json, os, sys, tarfile
            layout, platforms = sys.argv[1], sys.argv[2:]
            os.makedirs(layout + "/blobs/sha256", exist_ok=True)
            def add(data, media_type):
                name = hashlib.sha256(data).hexdigest()
                with open(f"{layout}/blobs/sha256/{name}", "wb") as file: file.write(data)
                return {"mediaType": media_type, "digest": "sha256:" + name, "size": len(data)}
            manifests = []
            for platform in platforms:
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w") as tar:
                    entry = tarfile.TarInfo("platform")
                    entry.size = len(platform)
                    tar.addfile(entry, io.BytesIO(platform.encode()))
                data = buffer.getvalue()
                words = dict(zip(["os", "architecture", "variant"], platform.split("/")))
                config = dict(words, config={}, rootfs={"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]})
                manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                            "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
                            "layers": [add(gzip.compress(data, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")]}
                manifests.append(dict(add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json"), platform=words))
            index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
            if len(manifests) == 1:
                entry = dict(manifests[0])
                del entry["platform"]
            else:
                entry = add(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
            entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
            with open(layout + "/index.json", "w") as file: json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
            with open(layout + "/oci-layout", "w") as file: json.dump({"imageLayoutVersion": "1.0.0"}, file)
            """

        private static let host = Platform.host.description
        private static let foreign = Platform.host.architecture == "s390x" ? "linux/riscv64" : "linux/s390x"

        private func expectMounted(_ platform: String, _ sandbox: Sandbox, _ arguments: String...) throws -> Outcome {
            let mount = try sandbox.mountPoint()
            let outcome = try sandbox.start(["mount"] + arguments + [mount]).wait().orThrow()
            #expect(try run(["cat", mount + "/platform"]).orThrow().output == platform)
            try sandbox.lamina("umount", mount)
            return outcome
        }

        @Test("of a reference that was pulled for two platforms this machine's is mounted, whichever was pulled last")
        func two() throws {
            try Sandbox.with { sandbox in
                let layout = sandbox.directory + "/image"
                try run(["python3", "-c", Self.make, layout, Self.foreign, Self.host]).orThrow()
                let image = "oci:\(layout):latest"
                for platforms in [[Self.host, Self.foreign], [Self.foreign, Self.host]] {
                    for platform in platforms { try sandbox.lamina("pull", "--platform", platform, image) }
                    #expect(try !expectMounted(Self.host, sandbox, image).errors.contains("image for"))
                }
                // Who asks for another one has it, and knows what it is.
                #expect(try expectMounted(Self.foreign, sandbox, "--platform", Self.foreign, image).errors.isEmpty)
            }
        }

        @Test("where there is only another platform's image it is mounted, with a warning")
        func only() throws {
            try Sandbox.with { sandbox in
                let layout = sandbox.directory + "/image"
                try run(["python3", "-c", Self.make, layout, Self.foreign]).orThrow()
                let image = "oci:\(layout):latest"
                for _ in 0..<2 {
                    let warned = try expectMounted(Self.foreign, sandbox, image)
                    #expect(
                        warned.errors.contains("is an image for \(Self.foreign), and this machine is \(Self.host)"),
                        "\(warned)")
                }
                // Of an index, whose other image cannot be had any more.
                let index = sandbox.directory + "/index"
                try run(["python3", "-c", Self.make, index, Self.foreign, "linux/mips64le"]).orThrow()
                let indexed = "oci:\(index):latest"
                try sandbox.lamina("pull", "--platform", Self.foreign, indexed)
                #expect(try expectMounted(Self.foreign, sandbox, indexed).errors.contains("image for \(Self.foreign)"))
                try run(["rm", "-r", index]).orThrow()
                #expect(try expectMounted(Self.foreign, sandbox, indexed).errors.contains("image for \(Self.foreign)"))
            }
        }
    }
}
