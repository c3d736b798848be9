import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("files with holes", Requirements.passthrough, Requirements.tools("du", "truncate"))
    struct SparseFiles {
        /// A directory of files with large holes: at the front, between data, at the end, or nothing else; 600 MB by `ls`, of
        /// which some 5 MB are data.
        private static let make = """
            set -e; cd "$1"
            truncate -s 200M disk; dd if=/dev/urandom of=disk bs=1M count=1 seek=50 conv=notrunc status=none
            dd if=/dev/urandom of=disk bs=1000 count=1 seek=190001 conv=notrunc status=none
            head -c 3000000 /dev/urandom >tail; truncate -s 150000001 tail
            truncate -s 100M front; head -c 777 /dev/urandom >>front
            truncate -s 150M nothing
            head -c 500000 /dev/urandom >data
            """

        /// How many bytes on disk the contents of a store take.
        private func allocated(_ sandbox: Sandbox) throws -> Int {
            let output = try run(["du", "-s", "-B1", sandbox.root + "/content"]).orThrow().output
            // Directories and a file for each content besides the bytes: 256 of the former.
            return (output.split(separator: "\t").first.flatMap { Int($0) } ?? .max) - (256 << 12)
        }

        private func expectSame(_ tree: String, _ mount: String, _ location: SourceLocation = #_sourceLocation) throws {
            let sums = "cd \"$1\" && sha256sum disk tail front nothing data"
            let wanted = try run(["sh", "-c", sums, "sh", tree]).orThrow().output
            #expect(try run(["sh", "-c", sums, "sh", mount]).orThrow().output == wanted, sourceLocation: location)
        }

        @Test(
            "zeros of files that were sparse take no disk, whatever the format, chunk by chunk and within chunks",
            arguments: [("estargz", 0), ("estargz", 1 << 20), ("zstd-chunked", 0), ("zstd-chunked", 1 << 20)])
        func pulled(format: String, chunkSize: Int) throws {
            try Sandbox.with { sandbox in
                let tree = try sandbox.mountPoint("tree")
                try run(["sh", "-c", Self.make, "sh", tree]).orThrow()
                let image = "oci:\(sandbox.directory)/image:x"
                let size = chunkSize > 0 ? ["--chunk-size", "\(chunkSize)"] : []
                try sandbox.start(["convert", "--format", format] + size + ["dir:\(tree)", image]).wait().orThrow()
                try sandbox.lamina("pull", image)
                #expect(try allocated(sandbox) < 12 << 20)
                #expect(try sandbox.number("SELECT merged_contents = contents FROM image_status") == 1)
                let mount = try sandbox.mount(image)
                try expectSame(tree, mount)
                // The kernel has the files themselves: their holes are recorded.
                let opens = try sandbox.opens()
                #expect(opens.passthrough == 5 && opens.cached == 0, "\(opens)")
                #expect(
                    try run(["sh", "-c", "cat '\(sandbox.root)/server.log'"]).output.contains("has a hole") == false)
                try sandbox.lamina("umount", mount)
                // Another version of it shares chunks of zeros, which are copied as holes.
                try run([
                    "sh", "-c", "printf more >>\"$1/disk\"; printf x | dd of=\"$1/front\" conv=notrunc status=none",
                    "sh", tree,
                ])
                .orThrow()
                let next = "oci:\(sandbox.directory)/next:x"
                try sandbox.start(["convert", "--format", format] + size + ["dir:\(tree)", next]).wait().orThrow()
                try sandbox.lamina("pull", next)
                try expectSame(tree, try sandbox.mount(next, at: "next"))
                #expect(try allocated(sandbox) < 24 << 20)
                let used = try sandbox.number("SELECT sum(size - holes) FROM content WHERE state = 2")
                #expect(used < 24 << 20)
                let check = try sandbox.attempt("check", "--read-data")
                #expect(check.exitCode == 0, "\(check)")
            }
        }

        @Test("are put first in their layer like others, and keep their holes", arguments: ["gnu", "posix"])
        func prioritized(format: String) throws {
            try Sandbox.with { sandbox in
                let tree = try sandbox.mountPoint("tree")
                try run(["sh", "-c", Self.make, "sh", tree]).orThrow()
                let tar = sandbox.directory + "/sparse.tar"
                try run([
                    "tar", "--format", format, "--sparse", "-C", tree, "-cf", tar, "data", "disk", "front", "nothing",
                    "tail",
                ])
                .orThrow()
                let image = "oci:\(sandbox.directory)/image:x"
                try sandbox.start([
                    "convert", "--prioritized-file", "nothing", "--prioritized-file", "tail", "--prioritized-file",
                    "data",
                    "tar:\(tar)", image,
                ]).wait().orThrow()
                try sandbox.lamina("pull", image)
                #expect(try allocated(sandbox) < 12 << 20)
                try expectSame(tree, try sandbox.mount(image))
            }
        }

        @Test(
            "read through a mount before they are there, they land the same way",
            arguments: ["estargz", "zstd-chunked"])
        func lazily(format: String) throws {
            try Sandbox.with { sandbox in
                let tree = try sandbox.mountPoint("tree")
                try run(["sh", "-c", Self.make, "sh", tree]).orThrow()
                let image = "oci:\(sandbox.directory)/image:x"
                try sandbox.lamina("convert", "--format", format, "dir:\(tree)", image)
                let mount = try sandbox.mount(image)
                try expectSame(tree, mount)
                try sandbox.lamina("umount", mount)
                #expect(
                    try eventually(seconds: 60) {
                        try sandbox.number("SELECT merged_contents = contents FROM image_status") == 1
                    })
                #expect(try allocated(sandbox) < 12 << 20)
                let check = try sandbox.attempt("check", "--read-data")
                #expect(check.exitCode == 0, "\(check)")
                try expectSame(tree, try sandbox.mount(image, at: "again"))
            }
        }
    }
}
