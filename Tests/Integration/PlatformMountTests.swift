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
                // A user who asks for another platform gets it, with a warning.
                #expect(try expectMounted(Self.foreign, sandbox, "--platform", Self.foreign, image).errors.isEmpty)
            }
        }

        @Test(
            "with both in the store and the registry away, this machine's is mounted, whichever came last; each is looked at by its platform",
            arguments: [[host, foreign], [foreign, host]])
        func away(platforms: [String]) throws {
            try Sandbox.with { sandbox in
                let layout = sandbox.directory + "/image"
                try run(["python3", "-c", Self.make, layout, Self.foreign, Self.host]).orThrow()
                let image = "oci:\(layout):latest"
                for platform in platforms { try sandbox.lamina("pull", "--platform", platform, image) }
                try run(["rm", "-r", layout]).orThrow()
                for arguments in [[image], ["--platform", Self.host, image]] {
                    let mount = try sandbox.mountPoint()
                    let outcome = try sandbox.start(["mount"] + arguments + [mount]).wait().orThrow()
                    #expect(!outcome.errors.contains("image for"), "\(outcome)")
                    #expect(try run(["cat", mount + "/platform"]).orThrow().output == Self.host)
                    // Both together are two images.
                    let other = try sandbox.mountPoint("other")
                    try sandbox.lamina("mount", "--platform", Self.foreign, image, other)
                    #expect(try run(["cat", other + "/platform"]).orThrow().output == Self.foreign)
                    let mounts = "SELECT platform FROM mount_status ORDER BY platform"
                    #expect(try sandbox.sql(mounts) == [Self.host, Self.foreign].sorted())
                    for directory in [mount, other] { try sandbox.lamina("umount", directory) }
                }
                #expect(try sandbox.lamina("ls").output.split(separator: "\n").count == 3)
                for platform in platforms {
                    let size = try sandbox.lamina("ls", "-l", "--platform", platform, image).output
                    #expect(size.contains(" \(platform.utf8.count) "), "\(size)")
                    let shown = try sandbox.lamina("inspect", "--platform", platform, image).output
                    #expect(shown.contains(platform), "\(shown)")
                }
                #expect(try sandbox.lamina("inspect", image).output.contains(Self.host))
                let none = try sandbox.attempt("ls", "--platform", "linux/mips64le", image)
                #expect(
                    none.exitCode != 0 && none.errors.contains(Self.host) && none.errors.contains(Self.foreign),
                    "\(none)")
                try sandbox.lamina("check", "--read-data", image)
                try sandbox.lamina("rm", image)
                #expect(try sandbox.number("SELECT count(*) FROM image_status") == 0)
                #expect(sandbox.backingFiles().isEmpty)
            }
        }

        @Test("an image that the reference does not have any more is not mounted after a pull")
        func moved() throws {
            try Sandbox.with { sandbox in
                let layout = sandbox.directory + "/image"
                let image = "oci:\(layout):latest"
                try run(["python3", "-c", Self.make, layout, Self.foreign, Self.host]).orThrow()
                try sandbox.lamina("pull", image)
                try run(["rm", "-r", layout]).orThrow()
                try run(["python3", "-c", Self.make, layout, Self.foreign]).orThrow()
                try sandbox.lamina("pull", image)
                #expect(try expectMounted(Self.foreign, sandbox, image).errors.contains("image for \(Self.foreign)"))
                #expect(try sandbox.number("SELECT count(*) FROM image_status") == 1)
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
                // From an index whose other image cannot be fetched any more.
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
