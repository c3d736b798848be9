import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("places to mount at, and what else is there", Requirements.tools("unshare:util-linux"))
    struct MountPlaces {
        private static let image = "oci:\(Fixtures.layout("estargz"))"

        private func lamina(_ root: String, _ arguments: String...) throws -> Outcome {
            try run([Requirements.lamina] + arguments + ["--root", root])
        }

        @Test(
            "the store's directory is reached by a link, or through another directory",
            arguments: ["link", "far/link", "x/../store", "missing/../store", "link/../store/."])
        func linkedRoot(_ path: String) throws {
            try Sandbox.with { sandbox in
                symlink("store", sandbox.directory + "/link")
                symlink("..", sandbox.directory + "/far")
                try createDirectories(sandbox.directory + "/x")
                // What `far/link` names leads out of the sandbox's directory and back.
                let name = sandbox.directory.split(separator: "/").last.map(String.init) ?? ""
                let root = sandbox.directory + "/" + path.replacing("far/", with: "far/\(name)/")
                let mount = try sandbox.mountPoint()
                try lamina(root, "mount", Self.image, mount).orThrow()
                try run(["cat", mount + "/etc/hello"]).orThrow()
                // By its own path it is the same store and the same server.
                #expect(try sandbox.status().mounts.map(\.target) == [mount])
                try lamina(root, "umount", mount).orThrow()
                #expect(eventually(seconds: 60) { processes(withArgumentContaining: sandbox.root).isEmpty })
            }
        }

        @Test("a mount point that is a link is mounted and unmounted by that link")
        func linkedTarget() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mountPoint()
                let link = sandbox.directory + "/link"
                symlink("mnt", link)
                try sandbox.lamina("mount", Self.image, link)
                #expect(try Mount.all().contains { $0.directory == mount })
                try sandbox.lamina("umount", link)
                #expect(try !Mount.all().contains { $0.directory == mount })
            }
        }

        @Test("what somebody else mounted over an image is left alone, and named")
        func covered() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mount(Self.image, at: "above/mnt")
                try run(["mount", "-t", "tmpfs", "tmpfs", mount]).orThrow()
                let refused = try sandbox.attempt("umount", mount)
                #expect(refused.exitCode == 1)
                #expect(refused.errors.contains("hidden by another mount, of tmpfs at \(mount)"), "\(refused)")
                try run(["umount", mount]).orThrow()
                // Of the directory above.
                let above = sandbox.directory + "/above"
                try run(["mount", "-t", "tmpfs", "tmpfs", above]).orThrow()
                for exists in [false, true] {
                    if exists { try createDirectories(mount) }
                    let hidden = try sandbox.attempt("umount", mount)
                    #expect(hidden.exitCode == 1)
                    #expect(hidden.errors.contains("of tmpfs at \(above)"), "\(hidden)")
                }
                try run(["umount", above]).orThrow()
                try run(["cat", mount + "/etc/hello"]).orThrow()
                try sandbox.lamina("umount", mount)
            }
        }

        @Test("two stores mount in one place: each takes down its own, and not before it is on top")
        func twoStores() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mount(Self.image)
                let second = sandbox.directory + "/second"
                try lamina(second, "mount", "oci:\(Fixtures.layout("estargz-64k"))", mount).orThrow()
                let refused = try sandbox.attempt("umount", mount)
                #expect(refused.exitCode == 1 && refused.errors.contains("lamina:\(second)"), "\(refused)")
                #expect(try sandbox.status().mounts.count == 1)
                // A server that ends, and one that starts: neither touches the other's mounts.
                try sandbox.lamina("shutdown")
                try run(["cat", mount + "/etc/hello"]).orThrow()
                try lamina(second, "umount", mount).orThrow()
                let next = try sandbox.serve()
                next.send(SIGINT)
                next.wait(seconds: 30)
                #expect(eventually(seconds: 60) { processes(withArgumentContaining: second).isEmpty })
            }
        }

        @Test(
            "a command in another mount namespace says that what is mounted is not seen there, and leaves nothing mounted"
        )
        func otherNamespace() throws {
            try Sandbox.with { sandbox in
                let other = try sandbox.mount(Self.image, at: "other")
                let server = try #require(try sandbox.status().server?.pid)
                let mount = try sandbox.mountPoint()
                let command = "'\(Requirements.lamina)' mount --root '\(sandbox.root)' '\(Self.image)' '\(mount)'"
                let alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
                let unseen = try run(alone + [command])
                #expect(unseen.exitCode == 1)
                for word in ["process \(server)", "another mount namespace", "nsenter", "lamina shutdown"] {
                    #expect(unseen.errors.contains(word), "\(unseen)")
                }
                // If another directory is at that path, it is not mounted over.
                let elsewhere = try run(alone + ["mount -t tmpfs tmpfs '\(mount)' && \(command)"])
                #expect(elsewhere.exitCode == 1)
                #expect(
                    elsewhere.errors.contains("another directory for the lamina server (process \(server))"),
                    "\(elsewhere)")
                #expect(try sandbox.status().mounts.map(\.target) == [other])
                #expect(try !Mount.all().contains { $0.directory == mount })
            }
        }

        @Test("where mounts propagate into the command's namespace they are there, and umount ends them there too")
        func propagatedNamespace() throws {
            try Sandbox.with { sandbox in
                let shared = try sandbox.mountPoint("shared")
                try run(["mount", "--bind", shared, shared]).orThrow()
                try run(["mount", "--make-shared", shared]).orThrow()
                _ = try sandbox.mount(Self.image, at: "other")
                let mount = try sandbox.mountPoint("shared/mnt")
                let options = "--root '\(sandbox.root)'"
                let script = """
                    '\(Requirements.lamina)' mount \(options) '\(Self.image)' '\(mount)' && cat '\(mount)/etc/hello' &&
                    mount --make-private '\(mount)' && '\(Requirements.lamina)' umount \(options) '\(mount)' &&
                    ! grep -q ' \(mount) ' /proc/self/mountinfo
                    """
                try run(["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]).orThrow()
                #expect(try !Mount.all().contains { $0.directory == mount })
            }
        }

        @Test("a busy umount names the processes, or what is mounted inside")
        func busy() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mount(Self.image)
                func refusal() throws -> String {
                    let outcome = try sandbox.attempt("umount", mount)
                    #expect(outcome.exitCode == 1)
                    return outcome.errors
                }
                let scripts = [
                    "cd '\(mount)'; exec sleep 601", "exec sleep 602 < '\(mount)/etc/hello'",
                ]
                for script in scripts {
                    let child = try sandbox.startProgram(["sh", "-c", script])
                    let isInside = eventually(seconds: 30) {
                        let place = "/proc/\(child.pid)"
                        return File.linkTarget(of: place + "/cwd") == mount
                            || File.linkTarget(of: place + "/fd/0") == mount + "/etc/hello"
                    }
                    #expect(isInside, "\(script): \(child.errorsSoFar)")
                    let errors = try refusal()
                    #expect(errors.contains("process \(child.pid) (") && !errors.contains("fuser"), "\(errors)")
                    child.send(SIGKILL)
                    child.wait()
                }
                let inner = mount + "/etc"
                try sandbox.lamina("mount", "oci:\(Fixtures.layout("estargz-64k"))", inner)
                let nested = try refusal()
                #expect(nested.contains("\(inner) (overlay (lamina:\(sandbox.root)))"), "\(nested)")
                try sandbox.lamina("umount", inner)
                try sandbox.lamina("umount", mount)
            }
        }
    }
}
