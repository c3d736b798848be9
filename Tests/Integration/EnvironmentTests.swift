import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("the environment that lamina is started in", Requirements.tools("setpriv:util-linux", "unshare:util-linux"))
    struct StartEnvironment {
        private static let image = "oci:\(Fixtures.layout("estargz"))"

        /// Mounts, reads and unmounts; each command has `prefix`, words of a shell before the program's name, and `suffix`
        /// after everything.
        private func expectWorks(
            _ sandbox: Sandbox, prefix: String = "exec", suffix: String = "",
            location: SourceLocation = #_sourceLocation
        ) throws {
            let mount = try sandbox.mountPoint()
            func attempt(_ arguments: String) throws {
                let script = "\(prefix) '\(Requirements.lamina)' \(arguments) --root '\(sandbox.root)' \(suffix)"
                let outcome = try run(["sh", "-c", script])
                #expect(outcome.exitCode == 0, "\(outcome)", sourceLocation: location)
            }
            try attempt("mount '\(Self.image)' '\(mount)'")
            let tree = try run(["grep", "-rc", "", mount + "/etc"])
            #expect(tree.errors.isEmpty, "\(tree)", sourceLocation: location)
            // Users other than root read it too.
            let other = "cd '\(mount)' && exec setpriv --reuid=65534 --regid=65534 --clear-groups cat etc/hello"
            #expect(try run(["sh", "-c", other]).exitCode == 0, sourceLocation: location)
            try attempt("status")
            try attempt("umount '\(mount)'")
            #expect(
                eventually(seconds: 60) { processes(withArgumentContaining: sandbox.root).isEmpty },
                sourceLocation: location)
        }

        @Test(
            "closed descriptors of standard input, output and errors, each and all of them",
            arguments: ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
        func closed(_ closing: String) throws {
            try Sandbox.with { try expectWorks($0, suffix: closing) }
        }

        @Test(
            "few descriptors, small files, a small stack",
            arguments: [
                "ulimit -Sn 64", "ulimit -n 64", "ulimit -Sn 20", "ulimit -Sf 1", "ulimit -s 256",
                "ulimit -c 0 && ulimit -t 600", "ulimit -Sv 300000", "ulimit -Sd 40000", "ulimit -v 1500000",
                "ulimit -l 0",
            ])
        func limits(_ limit: String) throws {
            try Sandbox.with { try expectWorks($0, prefix: "\(limit) && exec") }
        }

        @Test("little memory that may not become more: it ends at once, with the limit's name")
        func hardMemoryLimit() throws {
            for kibibytes in [250_000, 400_000] {
                try Sandbox.with { sandbox in
                    let mount = try sandbox.mountPoint()
                    let script = """
                        ulimit -v \(kibibytes) && exec setpriv --inh-caps=-sys_resource --bounding-set=-sys_resource \
                            '\(Requirements.lamina)' mount '\(Self.image)' '\(mount)' --root '\(sandbox.root)'
                        """
                    let outcome = try run(["sh", "-c", script], seconds: 60)
                    #expect(!outcome.isTimedOut && outcome.signal == nil, "\(outcome)")
                    #expect(outcome.exitCode == 1 && outcome.errors.contains("'ulimit -v'"), "\(outcome)")
                    #expect(try sandbox.mounts().isEmpty)
                }
            }
        }

        @Test("a hard limit of 64 open files that may not be raised: it works, and the server's log names the limit")
        func hardLimit() throws {
            try Sandbox.with { sandbox in
                let drop = "ulimit -n 64 && exec setpriv --inh-caps=-sys_resource --bounding-set=-sys_resource"
                try expectWorks(sandbox, prefix: drop)
                let log = String(decoding: try readFile(sandbox.root + "/server.log"), as: UTF8.self)
                #expect(log.contains("ulimit -Hn") && log.contains("limit=64"), "\(log)")
            }
        }

        @Test("a mask of 077, and of 0777", arguments: ["umask 077", "umask 0777"])
        func mask(_ mask: String) throws {
            try Sandbox.with { try expectWorks($0, prefix: "\(mask) && exec") }
        }

        @Test(
            "an empty environment, another language, a directory that is gone",
            arguments: [
                "exec env -i", "exec env -u HOME -u PATH -u USER", "exec env HOME=/nonexistent TMPDIR=/nonexistent",
                "LC_ALL=tr_TR.UTF-8 LANG=de_DE.UTF-8 exec", "LC_ALL=nonsense exec", "TZ=nonsense exec",
                "d=$(mktemp -d) && cd $d && rmdir $d && exec",
            ])
        func variables(_ prefix: String) throws {
            try Sandbox.with { try expectWorks($0, prefix: prefix) }
        }

        @Test("signals that the starter ignores or blocks")
        func signals() throws {
            try Sandbox.with { try expectWorks($0, prefix: "trap '' INT TERM HUP PIPE USR2 CHLD && exec") }
        }

        @Test("everything but the store is read-only")
        func readOnly() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mountPoint()
                try createDirectories(sandbox.root)
                let script = """
                    set -e
                    mount --bind '\(sandbox.root)' '\(sandbox.root)'
                    mount -o remount,bind,ro /
                    ! touch /tmp/lamina-writable 2>/dev/null
                    export LAMINA_ROOT='\(sandbox.root)'
                    lamina='\(Requirements.lamina)'
                    $lamina pull '\(Self.image)'
                    $lamina mount '\(Self.image)' '\(mount)'
                    cat '\(mount)/etc/hello'
                    $lamina status > /dev/null
                    $lamina umount '\(mount)'
                    """
                try run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script]).orThrow()
                #expect(eventually(seconds: 60) { processes(withArgumentContaining: sandbox.root).isEmpty })
            }
        }

        @Test("what cannot be written to standard output is an error, whatever command it is")
        func fullOutput() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mount(Self.image)
                try run(["cat", mount + "/etc/hello"]).orThrow()
                for arguments in [
                    "ls", "ls -l", "ls --json", "ls '\(Self.image)'", "status", "status --json", "status --watch",
                    "inspect '\(Self.image)'", "config show", "config check",
                    "doctor", "version", "--version", "--help", "help mount", "mount --help",
                    "--generate-completion-script bash",
                    "debug bundle --output -", "gc --dry-run", "check", "pull '\(Self.image)'",
                ] {
                    let outcome = try run([
                        "sh", "-c",
                        "LAMINA_ROOT='\(sandbox.root)' exec '\(Requirements.lamina)' \(arguments) > /dev/full",
                    ])
                    #expect(outcome.exitCode == 1, "\(arguments): \(outcome)")
                    #expect(
                        outcome.errors.contains("write error") && outcome.errors.contains("No space left"), "\(outcome)"
                    )
                }
                try sandbox.lamina("umount", mount)
            }
        }
    }
}
