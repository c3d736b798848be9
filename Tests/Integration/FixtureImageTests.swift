import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// The reference is what containerd makes of the same image: Tests/Fixtures/tree.jsonl.
    @Suite("the fixture images, pulled and mounted")
    struct FixtureImages {
        static let names = [
            "estargz", "estargz-64k", "zstd-chunked-stargz", "zstd-chunked-skopeo-1.9", "zstd-chunked-podman-5",
        ]

        /// Whether its writer kept the fractions of seconds.
        static func keepsFractions(_ name: String) -> Bool {
            name.hasSuffix("skopeo-1.9") || name.hasSuffix("podman-5")
        }

        /// Pushes a fixture; returns its name at the sandbox's proxy.
        static func reference(_ name: String, _ sandbox: Sandbox) throws -> String {
            try Shared.registry.get().push(layout: Fixtures.layout(name), name: name, tag: "latest")
            return "\(try sandbox.proxy().host)/\(name):latest"
        }

        @Test("with all files merged, the tree is containerd's", arguments: names)
        func merged(_ name: String) throws {
            try Sandbox.with { sandbox in
                let reference = try Self.reference(name, sandbox)
                let report: PullReport = try decoded(sandbox.lamina("pull", reference, "--json").output)
                #expect(report.complete && report.landedBytes == report.bytes)
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "merged", keepsFractions: Self.keepsFractions(name))
                #expect(try sandbox.opens().waited == 0)
            }
        }

        @Test("with none merged before the walk, the tree is containerd's", arguments: names)
        func lazy(_ name: String) throws {
            try Sandbox.with { sandbox in
                let reference = try Self.reference(name, sandbox)
                let report: PullReport = try decoded(sandbox.lamina("pull", "--lazy", reference, "--json").output)
                #expect(!report.complete && report.landedBytes == 0)
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "not merged", keepsFractions: Self.keepsFractions(name))
                // One open also lands its neighbours in the blob, and a file that a higher layer replaces is never opened.
                #expect(try sandbox.opens().waited > 0)
                #expect(try sandbox.status().images.first?.landedBytes ?? 0 > report.bytes / 2)
            }
        }

        @Test("mounted without a pull, the tree is containerd's", arguments: names)
        func mountedAtOnce(_ name: String) throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mount("oci:\(Fixtures.layout(name))")
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "mounted at once", keepsFractions: Self.keepsFractions(name))
            }
        }

        @Test(
            "with the server restarted in between, its mounts come back and the tree is containerd's", arguments: names)
        func restarted(_ name: String) throws {
            try Sandbox.with { sandbox in
                let reference = try Self.reference(name, sandbox)
                let first = try sandbox.serve()
                let mount = try sandbox.mount(reference)
                let half = try run(["/bin/sh", "-c", "cat \"$1\"/etc/* >/dev/null 2>&1; true", "sh", mount])
                #expect(half.exitCode == 0)
                first.send(SIGTERM)
                #expect(first.wait(seconds: 20).exitCode == 0)
                #expect(try sandbox.mounts().isEmpty)

                let second = try sandbox.serve()
                #expect(try sandbox.mounts().contains { $0.directory == mount && $0.type == "overlay" })
                #expect(try sandbox.status().mounts.map(\.target) == [mount])
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "after a restart", keepsFractions: Self.keepsFractions(name))
                second.send(SIGTERM)
                #expect(second.wait(seconds: 20).exitCode == 0)

                // Everything is merged by now.
                _ = try sandbox.serve()
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "after another restart", keepsFractions: Self.keepsFractions(name))
            }
        }

        @Test(
            "after SIGKILL of the server the mount goes on with the next one, and the tree is containerd's",
            arguments: names)
        func killed(_ name: String) throws {
            try Sandbox.with { sandbox in
                let reference = try Self.reference(name, sandbox)
                let mount = try sandbox.mount(reference)
                _ = try run(["/bin/sh", "-c", "cat \"$1\"/etc/* >/dev/null 2>&1; true", "sh", mount])
                guard let pid = try sandbox.status().server?.pid else { throw Outcome.Failed(description: "no server") }
                kill(pid, SIGKILL)
                #expect(eventually { !isAlive(pid) })
                #expect(try run(["ls", mount]).exitCode == 0, "the next server answers")

                let other = try sandbox.mount(reference, at: "other")
                try TreeOracle.expectFixture(
                    at: other, in: sandbox, "a new mount after SIGKILL", keepsFractions: Self.keepsFractions(name))
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, "the mount that was there before SIGKILL",
                    keepsFractions: Self.keepsFractions(name))
                #expect(try sandbox.mounts().count { $0.type == "fuse.lamina" } == 1)
                #expect(try sandbox.mounts().count { $0.directory == mount } == 1)
            }
        }
    }

    @Suite("a writable mount")
    struct WritableMount {
        @Test("append, chmod, mv and rm on lower files work, last beyond the mount, and leave the store as it was")
        func writes() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let reference = image.reference(try sandbox.proxy())
                try sandbox.lamina("pull", reference)
                let before = try Self.checksums(sandbox)
                let (mount, upper) = (try sandbox.mountPoint(), try sandbox.mountPoint("upper"))
                try sandbox.lamina("mount", "--rw", upper, reference, mount)
                let script = """
                    set -e; cd "$1"
                    echo appended >>files/000/00000; [ "$(tail -c 9 files/000/00000)" = appended ]
                    echo appended >>larger
                    cmp -n 25165824 larger "$2"/larger; [ "$(tail -c 9 larger)" = appended ]
                    chmod 4711 files/000/00001; [ "$(stat -c %a files/000/00001)" = 4711 ]
                    mv files/000/00002 moved; cmp moved "$2"/files/000/00002; [ ! -e files/000/00002 ]
                    rm files/000/00003; [ ! -e files/000/00003 ]
                    rm -r files/000; mkdir files/000; [ -z "$(ls -A files/000)" ]
                    echo new >new
                    """
                try run(["/bin/sh", "-c", script, "sh", mount, image.tree]).orThrow()
                try sandbox.lamina("umount", mount)
                #expect(try Self.checksums(sandbox) == before)

                try sandbox.lamina("mount", "--rw", upper, reference, mount)
                let again =
                    "set -e; cd \"$1\"; [ \"$(cat new)\" = new ]; cmp moved \"$2\"/files/000/00002; [ -z \"$(ls -A files/000)\" ]"
                try run(["/bin/sh", "-c", again, "sh", mount, image.tree]).orThrow()
                let clean = try sandbox.mount(reference, at: "clean")
                try TreeOracle.expectSame(image.tree, at: clean, in: sandbox)
            }
        }

        @Test("lower files that are not merged can be changed as well")
        func writesToUnmerged() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let (mount, upper) = (try sandbox.mountPoint(), try sandbox.mountPoint("upper"))
                try sandbox.lamina("mount", "--rw", upper, image.reference(try sandbox.proxy()), mount)
                let script = """
                    set -e; cd "$1"
                    echo appended >>files/000/00000
                    size=$(stat -c %s "$2"/files/000/00000); cmp -n $size files/000/00000 "$2"/files/000/00000
                    chmod 600 larger; cmp larger "$2"/larger
                    mv middle files/renamed; cmp files/renamed "$2"/middle
                    """
                try run(["/bin/sh", "-c", script, "sh", mount, image.tree]).orThrow()
            }
        }

        private static func checksums(_ sandbox: Sandbox) throws -> String {
            let script = "cd \"$1\"/content && find . -type f -printf '%p %s %m %n %T@\\n' -exec sha256sum {} + | sort"
            return try run(["/bin/sh", "-c", script, "sh", sandbox.root]).orThrow().output
        }
    }
}
