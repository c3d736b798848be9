import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("passthrough", Requirements.passthrough)
    struct Passthrough {
        @Test("while a merged file is open, no READ comes to the server: for read, mmap and exec")
        func noReads() throws {
            try Sandbox.with { sandbox in
                // Real, dynamically linked programs, with their own bytes to check.
                let tree = try sandbox.mountPoint("tree")
                try run(["cp", "/usr/bin/sha256sum", "/usr/bin/env", tree]).orThrow()
                let image = "oci:\(sandbox.directory)/programs:latest"
                try sandbox.lamina("convert", "--chunk-size", "16384", "dir:\(tree)", image)
                let large = try Shared.small.get()
                let reference = large.reference(try sandbox.proxy())
                try sandbox.lamina("pull", image)
                try sandbox.lamina("pull", reference)
                let programs = try sandbox.mount(image, at: "programs-mounted")
                let files = try sandbox.mount(reference, at: "files")

                let status = try sandbox.status()
                #expect(status.server?.passthrough == true, "\(status.server?.passthroughReason ?? "no server")")
                let before = try sandbox.opens()
                for name in ["larger", "middle", "files/000/00000"] {
                    try run(["python3", "-c", Scripts.readAndMap, "\(files)/\(name)", "\(large.tree)/\(name)"])
                        .orThrow()
                }
                let sum = try run(["\(programs)/sha256sum", "\(programs)/sha256sum"]).orThrow().output.prefix(64)
                #expect(try run(["sha256sum", "/usr/bin/sha256sum"]).orThrow().output.prefix(64) == sum)
                #expect(try run(["\(programs)/env", "X=\(sum)"]).orThrow().output.contains("X=\(sum)"))
                let after = try sandbox.opens()
                #expect(after.reads == before.reads)
                #expect(after.readBytes == before.readBytes)
                #expect(after.cached == before.cached)
                #expect(after.waited == 0)
                // Three files, the program, what it hashed, and env.
                #expect(after.passthrough >= before.passthrough + 6)
            }
        }

        @Test("lamina status shows how many opens went which way")
        func ways() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let mount = try sandbox.mount(image.reference(try sandbox.proxy()))
                func read(_ name: String) throws {
                    try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"], seconds: 30).orThrow()
                }
                #expect(
                    try sandbox.opens()
                        == StatusReport.Opens(passthrough: 0, cached: 0, waited: 0, reads: 0, readBytes: 0))

                // Not merged and small: it waits, then the kernel reads.
                try read("files/000/00000")
                let small = try sandbox.opens()
                #expect(small.waited == 1 && small.passthrough == 1 && small.cached == 0 && small.reads == 0)

                // Not merged and over 8 MiB: at once, through the server.
                try read("larger")
                let large = try sandbox.opens()
                #expect(large.waited == 1 && large.passthrough == 1 && large.cached == 1)
                #expect(large.reads > 0 && large.readBytes >= 24 << 20)

                // Merged meanwhile, and not open.
                #expect(
                    try eventually {
                        try sandbox.number("SELECT count(*) FROM file WHERE path = '/larger' AND state = 'merged'") == 1
                    })
                try read("larger")
                let merged = try sandbox.opens()
                #expect(merged.passthrough == 2 && merged.cached == 1 && merged.reads == large.reads)

                let text = try sandbox.lamina("status").output
                #expect(text.contains("2 passthrough, 1 cached; 1 waited for a merge"))
            }
        }

        @Test(
            "a file that was opened before it was merged stays right for those who have it open, and for those who come"
        )
        func mixedOpens() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let mount = try sandbox.mount(image.reference(try sandbox.proxy()))
                let words = ["python3", "-c", Scripts.keptOpen, "\(mount)/larger", "\(image.tree)/larger"]
                try run(words, seconds: 30).orThrow()
                try run(["python3", "-c", Scripts.readAndMap, "\(mount)/larger", "\(image.tree)/larger"]).orThrow()
            }
        }

        @Test(
            "no backing ID is given for a file with a hole: a hole punched into the store is never read as zeros",
            arguments: ["larger", "middle", "files/000/00000"])
        func hole(_ name: String) throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                try sandbox.lamina("pull", reference)
                let digest = try run(["sha256sum", "\(image.tree)/\(name)"]).orThrow().output.prefix(64)
                let backing = sandbox.backingFiles().filter { $0.contains(digest) }
                #expect(backing.count == 1)
                let size = try File(backing[0], O_RDONLY).size()
                let place = size > 8192 ? size / 2 / 4096 * 4096 : 0
                try run(["fallocate", "-p", "-o", "\(place)", "-l", "4096", backing[0]]).orThrow()
                try #require(File(backing[0], O_RDONLY).firstHole() < size, "the file system has no holes")

                let mount = try sandbox.mount(reference)
                let first = try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"], seconds: 30)
                // The right bytes, or an error; and not by passthrough unless it was made whole first.
                #expect(first.exitCode == 0 || first.errors.contains("error"), "\(first)")
                if try File(backing[0], O_RDONLY).firstHole() < size {
                    #expect(try sandbox.opens().passthrough == 0)
                }
                // Sooner or later it is whole again.
                let isRight = try eventually {
                    try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"], seconds: 30).exitCode == 0
                }
                #expect(isRight, "it is not repaired")
                try run(["python3", "-c", Scripts.readAndMap, "\(mount)/\(name)", "\(image.tree)/\(name)"]).orThrow()
            }
        }

        @Test("with a hole and the registry gone, the open is an error, not zeros")
        func holeWithoutRegistry() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                try sandbox.lamina("pull", reference)
                let digest = try run(["sha256sum", "\(image.tree)/middle"]).orThrow().output.prefix(64)
                let backing = try #require(sandbox.backingFiles().first { $0.contains(digest) })
                try run(["fallocate", "-p", "-o", "1048576", "-l", "65536", backing]).orThrow()
                try sandbox.proxy().stop()
                let mount = try sandbox.mount(reference)
                let read = try run(["cmp", "\(mount)/middle", "\(image.tree)/middle"], seconds: 60)
                #expect(read.exitCode == 2 && read.errors.contains("Input/output error"), "\(read)")
                #expect(try sandbox.opens().passthrough == 0)
            }
        }
    }
}
