import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("what the README has people do", Requirements.tools("make", "strip:binutils", "diff:diffutils"))
    struct Readme {
        private static let package: String = {
            // …/Tests/Integration/InstallTests.swift
            let parts = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
            return parts.joined(separator: "/")
        }()

        @Test("after make build, make install needs no Swift in root's PATH; before it says what to do")
        func install() throws {
            try Sandbox.with { sandbox in
                // A built package, as far as an installation can tell.
                let package = sandbox.directory + "/package"
                try createDirectories(package + "/.build/release")
                try run(["cp", "-r", Self.package + "/Makefile", Self.package + "/config", package]).orThrow()
                // sudo's PATH, which has no swift.
                let path = sandbox.directory + "/bin"
                try createDirectories(path)
                try write("#!/bin/sh\necho 'swift: command not found' >&2\nexit 127\n".utf8, to: path + "/swift")
                chmod(path + "/swift", 0o755)
                let target = sandbox.directory + "/target"
                let install = [
                    "env", "PATH=\(path):/usr/sbin:/usr/bin:/sbin:/bin", "make", "-C", package, "install",
                    "DESTDIR=\(target)",
                ]
                let early = try run(install)
                #expect(early.exitCode != 0)
                #expect(
                    early.errors.contains("run \"make build\" first") && !early.errors.contains("not found"), "\(early)"
                )
                try run(["cp", Requirements.lamina, package + "/.build/release/lamina"]).orThrow()
                let outcome = try run(install)
                #expect(outcome.exitCode == 0 && !outcome.errors.contains("swift"), "\(outcome)")
                try run([target + "/usr/local/bin/lamina", "version"]).orThrow()
                for name in ["lib/systemd/system/lamina.service", "share/man/man1/lamina.1"] {
                    #expect(access("\(target)/usr/local/\(name)", F_OK) == 0, "\(name)")
                }
            }
        }

        @Test("the demo passes while the files that it shows are written, replaced and removed")
        func demo() throws {
            try Sandbox.with { sandbox in
                let source = sandbox.directory + "/files"
                try run(["python3", "-c", Scripts.generate, source, "5", "large:1", "300"]).orThrow()
                let busy = """
                    cd '\(source)'; mkdir churn; n=0
                    while :; do n=$((n+1)); mkdir churn/$n; echo $n > churn/$n/file; echo $n > always; rm -rf churn/$((n-5)); done
                    """
                let churn = try sandbox.startProgram(["sh", "-c", busy])
                defer { churn.send(SIGKILL) }
                let outcome = try run([
                    "env", "LAMINA_DEMO_DIR=\(sandbox.directory)", "LAMINA_DEMO_SOURCE=\(source)",
                    Self.package + "/scripts/demo.sh", Requirements.lamina,
                ])
                #expect(outcome.exitCode == 0 && outcome.output.contains("That was all"), "\(outcome)")
            }
        }
    }
}
