import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd.UnderContainerd {
    @Test(
        "check --containerd finds what containerd needs and lamina does not have, and what is mounted of what is gone")
    func check() throws {
        try Self.with { containerd, sandbox in
            let reference = try EndToEnd.FixtureImages.reference("estargz", sandbox)
            try containerd.pullLazily(reference)
            try containerd.pullLazily(reference, namespace: "other")
            for name in ["one", "two"] {
                try containerd.ctr("containers", "create", "--snapshotter", "lamina", reference, name, "true").orThrow()
            }
            // containerd's garbage collection removes what belongs to nothing.
            try createDirectories(sandbox.root + "/snapshots/4711/fs")
            let sound = try containerd.check()
            #expect(sound.differences == [], "\(sound)")
            #expect(sound.namespaces == 2 && sound.containerdSnapshots == 8, "three layers twice, two containers")
            #expect(sound.snapshots == 5 && sound.lazyLayers == 3 && sound.mounts == 0)
            #expect(access(sandbox.root + "/snapshots/4711", F_OK) != 0)
            let words = try sandbox.lamina("check", "--containerd", containerd.socket).output
            #expect(
                words
                    == "8 snapshots of containerd in 2 namespaces, 5 snapshots of the store (3 lazy), 0 mounts of them: all agree\n"
            )

            func directory(_ name: String) throws -> String {
                let found = try sandbox.sql(
                    "SELECT directory FROM snapshot_status WHERE name LIKE 'default/%/\(name)' AND kind = 'active'")
                return "\(sandbox.root)/\(found.first ?? "none")"
            }
            let (one, two) = (try directory("one"), try directory("two"))
            // Mounted, and then removed under the mount.
            let lower = try sandbox.mountPoint("lower")
            let (overlay, bind) = (try sandbox.mountPoint("overlay"), try sandbox.mountPoint("bind"))
            let work = one.dropLast(2) + "work"
            try Mount.mount(
                type: "overlay", source: "overlay", at: overlay,
                data: "upperdir=\(one),workdir=\(work),lowerdir=\(lower)")
            defer { try? Mount.unmount(overlay) }
            try Mount.mount(type: "none", source: one, at: bind, flags: .bind)
            defer { try? Mount.unmount(bind) }
            #expect(try containerd.check().mounts == 2)
            try containerd.ctr("containers", "rm", "one").orThrow()
            let mounted = try containerd.check().differences
            #expect(
                mounted.map(\.kind) == ["mount", "mount"] && Set(mounted.map(\.name)) == [overlay, bind], "\(mounted)")
            try Mount.unmount(overlay)
            try Mount.unmount(bind)

            try run(["mv", two.dropLast(2) + "work", two.dropLast(2) + "aside"]).orThrow()
            let broken = try containerd.check().differences
            #expect(broken.map(\.kind) == ["directory"] && broken.first?.name.hasSuffix("/work") == true, "\(broken)")
            try run(["mv", two.dropLast(2) + "aside", two.dropLast(2) + "work"]).orThrow()

            // Without lamina's knowledge.
            try run([
                "sqlite3", "-cmd", ".timeout 5000", sandbox.root + "/index.db", "DELETE FROM snapshot WHERE kind = 2",
            ]).orThrow()
            let missing = try containerd.check().differences.filter { $0.kind == "missing" }
            #expect(
                missing.map(\.name) == ["two"] && missing.first?.reason == "the container two needs it", "\(missing)")
        }
    }

    @Test("check --containerd says who does not answer, and who is no snapshotter")
    func checkNobody() throws {
        try Self.with { containerd, sandbox in
            let nobody = try sandbox.attempt("check", "--containerd", sandbox.directory + "/none")
            #expect(nobody.exitCode == 69 && nobody.errors.contains("no containerd answers at"), "\(nobody)")
            // containerd has no namespace, and therefore nothing to list, before there is an image.
            try containerd.pullLazily(EndToEnd.FixtureImages.reference("estargz", sandbox))
            let other = try sandbox.attempt("check", "--containerd", containerd.socket, "--snapshotter", "other")
            #expect(other.exitCode == 1 && other.errors.contains("other"), "\(other)")
        }
    }
}
