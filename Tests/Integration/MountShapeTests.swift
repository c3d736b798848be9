import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("what a mounted image looks like to find, tar and their kin", Requirements.tools("python3"))
    struct MountShapes {
        /// `LAYOUT COUNT`: an OCI layout of COUNT layers, tagged latest; each has a directory and a file of its own and one
        /// that all have.
        private static let layers = """
            import gzip, hashlib, io, json, os, sys, tarfile
            layout, count = sys.argv[1], int(sys.argv[2])
            os.makedirs(layout + "/blobs/sha256")
            def add(data, media_type):
                name = hashlib.sha256(data).hexdigest()
                with open(f"{layout}/blobs/sha256/{name}", "wb") as file: file.write(data)
                return {"mediaType": media_type, "digest": "sha256:" + name, "size": len(data)}
            diff_ids, layers = [], []
            for number in range(count):
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w") as tar:
                    for name in ["d", f"d/only{number}"]:
                        entry = tarfile.TarInfo(name)
                        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                        tar.addfile(entry)
                    for name in [f"f{number}", "d/same", f"d/only{number}/x"]:
                        entry = tarfile.TarInfo(name)
                        entry.size = len(str(number))
                        tar.addfile(entry, io.BytesIO(str(number).encode()))
                data = buffer.getvalue()
                diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
                layers.append(add(gzip.compress(data, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
            machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
            config = {"architecture": machine, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
            manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"), "layers": layers}
            entry = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
            entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
            with open(layout + "/index.json", "w") as file: json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
            with open(layout + "/oci-layout", "w") as file: json.dump({"imageLayoutVersion": "1.0.0"}, file)
            """

        /// `DIRECTORY`: how many entries a tree has; fails where one is on another device, or is listed with another number than it has.
        private static let agreement = """
            import os, sys
            device, count, problems = os.lstat(sys.argv[1]).st_dev, 0, []
            for pair in [0, 1]:
                for directory, names, files in os.walk(sys.argv[1]):
                    for entry in os.scandir(directory):
                        status = os.lstat(entry.path)
                        count += 1 - pair
                        if status.st_dev != device: problems.append(f"{entry.path}: device {status.st_dev}, not {device}")
                        if entry.inode() != status.st_ino: problems.append(f"{entry.path}: listed as {entry.inode()}, is {status.st_ino}")
            if problems: sys.exit("\\n".join(problems[:10]))
            print(count)
            """

        private func image(_ layers: Int, in sandbox: Sandbox) throws -> String {
            let layout = "\(sandbox.directory)/image\(layers)"
            try run(["python3", "-c", Self.layers, layout, "\(layers)"]).orThrow()
            return "oci:\(layout):latest"
        }

        @Test("one device, and the numbers of listings are those of stat", arguments: [1, 2, 5], [false, true])
        func numbers(layers: Int, writable: Bool) throws {
            try Sandbox.with { sandbox in
                let (image, mount) = (try image(layers, in: sandbox), try sandbox.mountPoint())
                let upper = try sandbox.mountPoint("upper")
                if writable {
                    try sandbox.lamina("mount", "--rw", upper, image, mount)
                    try write("new".utf8, to: mount + "/new")
                    try write("changed".utf8, to: mount + "/d/same")
                    try createDirectories(mount + "/d/made")
                } else {
                    try sandbox.lamina("mount", image, mount)
                }
                let outcome = try run(["python3", "-c", Self.agreement, mount])
                #expect(outcome.exitCode == 0, "\(outcome)")
                #expect(outcome.output == "\(2 + 3 * layers + (writable ? 2 : 0))\n", "\(outcome)")
                // Programs that stay on one device leave nothing out.
                let all = try run(["find", mount, "-type", "f"]).orThrow().output
                #expect(try run(["find", mount, "-xdev", "-type", "f"]).orThrow().output == all)
                try sandbox.lamina("umount", mount)
            }
        }

        @Test("numbers stay what they were when an image is mounted again, and small where nothing is written")
        func constant() throws {
            try Sandbox.with { sandbox in
                let (image, mount) = (try image(1, in: sandbox), try sandbox.mountPoint())
                var seen: [String] = []
                for _ in 0..<2 {
                    try sandbox.lamina("mount", image, mount)
                    seen.append(try run(["ls", "-Ri", mount]).orThrow().output)
                    try sandbox.lamina("umount", mount)
                }
                #expect(seen[0] == seen[1])
                // Programs without large-file support take only 32 bits (EOVERFLOW).
                for line in seen[0].split(separator: "\n") {
                    guard let number = line.split(separator: " ").first.flatMap({ UInt64($0) }) else { continue }
                    #expect(number < 1 << 32)
                }
            }
        }

        @Test(
            "an image without layers is an empty directory, and one that takes what is written",
            arguments: [false, true])
        func empty(writable: Bool) throws {
            try Sandbox.with { sandbox in
                let (image, mount) = (try image(0, in: sandbox), try sandbox.mountPoint())
                let upper = try sandbox.mountPoint("upper")
                if writable {
                    try sandbox.lamina("mount", "--rw", upper, image, mount)
                    try write("new".utf8, to: mount + "/new")
                    #expect(names(in: upper) == ["new"])
                } else {
                    try sandbox.lamina("mount", image, mount)
                    #expect(names(in: mount).isEmpty)
                    #expect(mkdir(mount + "/new", 0o755) != 0 && errno == EROFS)
                    #expect(try run(["stat", "-c", "%a %u", mount]).orThrow().output == "755 0\n")
                }
                try sandbox.lamina("umount", mount)
            }
        }

        @Test("an image of 500 layers is mounted; of 501 it is said that overlayfs takes 500")
        func many() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mountPoint()
                try sandbox.lamina("mount", try image(500, in: sandbox), mount, seconds: 600)
                #expect(try run(["cat", mount + "/d/same", mount + "/f0"]).orThrow().output == "4990")
                #expect(names(in: mount).count == 501)
                try sandbox.lamina("umount", mount)
                let more = try sandbox.attempt("mount", try image(501, in: sandbox), mount, seconds: 600)
                #expect(more.exitCode == 1)
                #expect(more.errors.contains("501 layers") && more.errors.contains("500"), "\(more)")
                let upper = try sandbox.mountPoint(String(repeating: "u", count: 200))
                try sandbox.lamina("mount", "--rw", upper, try image(3, in: sandbox), mount)
                try sandbox.lamina("umount", mount)
            }
        }
    }
}
