import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite(
        "sealed images under containerd",
        Requirements.tools("containerd", "ctr:containerd", "runc", "ctr-remote:stargz-snapshotter"))
    struct SealedUnderContainerd {
        @Test(
            "a container that started by way of FUSE stays there, the next one is on the sealed chain, and what it changes is as on overlayfs"
        )
        func ways() throws {
            try Sandbox.with { sandbox in
                sandbox.seals = true
                let containerd = try LaminaContainerd(
                    sandbox, laminaConfiguration: "[snapshotter]\nbackground_merge = false\nprefetch = false\n")
                defer { containerd.stop() }
                let reference = try ProgramImage.pushed.get().estargz
                func start(_ name: String, _ words: String...) throws -> Child {
                    try containerd.startCtr(["run", "--snapshotter", "lamina", reference, "sealed-\(name)"] + words)
                }
                func way(_ name: String) throws -> [String] {
                    try sandbox.sql(
                        "SELECT way FROM snapshot_status WHERE kind = 'active' AND name LIKE '%/sealed-\(name)'")
                }
                try containerd.pullLazily(reference)
                let first = try start("first", "/usr/bin/sleep", "1000")
                #expect(try eventually { try containerd.ctr("tasks", "ls").output.contains("RUNNING") })
                #expect(try way("first") == ["fuse"])
                // All of it comes, and it is sealed in the background.
                try run([
                    "/bin/sh", "-c",
                    "cat \"$1\"/fs/*/usr/bin/* \"$1\"/fs/*/usr/lib/*/* \"$1\"/fs/*/usr/lib/*/*/* >/dev/null 2>&1; true",
                    "sh", sandbox.root,
                ]).orThrow()
                try run([
                    "/bin/sh", "-c", "find \"$1\"/fs -type f -exec cat {} + >/dev/null", "sh", sandbox.root,
                ]).orThrow()
                #expect(try eventually { try sandbox.number("SELECT count(*) FROM sealed_status") == 1 })
                let outcome = try containerd.run(reference, "python", ["/usr/bin/python3", "-c", ProgramImage.program])
                #expect(outcome.exitCode == 0 && outcome.output == "fine\n", "\(outcome)")
                let script =
                    "import os; os.rename('/usr/bin/stat', '/usr/bin/moved'); os.chmod('/usr/bin/sleep', 0o700); open('/new', 'w').write('x')"
                let second = try start("second", "/usr/bin/python3", "-c", script)
                #expect(second.wait(seconds: 60).exitCode == 0)
                #expect(try way("second") == ["sealed"])
                #expect(try way("first") == ["fuse"])
                #expect(first.isRunning)
                // What a commit or a build needs: the upper directory, whole files and whiteouts.
                let upper = try sandbox.sql(
                    "SELECT directory FROM snapshot_status WHERE kind = 'active' AND name LIKE '%/sealed-second'"
                ).first.map { "\(sandbox.root)/\($0)" }
                let changed = try run(["find", #require(upper), "-mindepth", "1", "-printf", "%P %y %m\\n"]).orThrow()
                    .output
                for line in ["usr/bin/moved f 755", "usr/bin/sleep f 700", "usr/bin/stat c 0", "new f 644"] {
                    #expect(changed.contains(line), "\(changed)")
                }
                #expect(
                    try run([
                        "getfattr", "-R", "-m", "trusted.overlay.metacopy|trusted.overlay.redirect", "-d",
                        #require(upper),
                    ]).output.isEmpty)
                let report = try containerd.check()
                #expect(report.differences == [], "\(report)")
                // SIGKILL of the server: the container on the sealed chain does not need it.
                let third = try start(
                    "third", "/usr/bin/python3", "-c",
                    "import os, time\nwhile not os.path.exists('/stop'): [open('/usr/bin/' + name, 'rb').read() for name in ['sleep', 'moved', 'stat'] if os.path.exists('/usr/bin/' + name)]; time.sleep(0.01)"
                )
                let isRunning = try eventually {
                    try containerd.ctr("tasks", "ls").output.split(separator: "\n").contains {
                        $0.hasPrefix("sealed-third ") && $0.contains("RUNNING")
                    }
                }
                #expect(try isRunning && way("third") == ["sealed"])
                try containerd.lamina.killServer()
                usleep(500_000)
                #expect(third.isRunning, "\(third.isRunning ? nil : third.wait(seconds: 1))")
                try containerd.ctr("tasks", "kill", "-s", "SIGKILL", "sealed-third").orThrow()
                try containerd.ctr("tasks", "kill", "-s", "SIGKILL", "sealed-first").orThrow()
                third.wait(seconds: 30)
                first.wait(seconds: 30)
                try containerd.removeContainers()
                // What nothing uses any more is unmounted.
                #expect(try eventually { try sandbox.number("SELECT count(*) FROM sealed_use") == 0 })
                #expect(try !sandbox.mounts().contains { $0.source.hasPrefix("lamina-sealed") })
                try containerd.removeAll()
                #expect(try eventually { try sandbox.number("SELECT count(*) FROM sealed_status") == 0 })
            }
        }
    }
}
