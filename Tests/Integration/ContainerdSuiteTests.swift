import LaminaTestSupport
import Testing

/// Tests/Containerd: Go programs, built with Debian's packages alone.
private enum GoTests {
    static let directory = Fixtures.directory + "/../Containerd"

    static let program = Result<String, any Error> {
        let program = try Shared.directory.get() + "/containerd.test"
        let words = "cd \"$1\" && GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= exec go test -c -o \"$2\" ."
        try run(["/bin/sh", "-c", words, "sh", directory, program], seconds: 600).orThrow()
        return program
    }

    /// Runs the tests of this name; they must pass, and be this many.
    static func expect(_ pattern: String, atLeast count: Int, seconds: Double) throws {
        let child = try Child(
            [
                try program.get(), "-test.root", "-test.v", "-test.parallel", "2", "-test.run", pattern,
                "-test.timeout", "\(Int(seconds))s",
            ], environment: ["LAMINA_BINARY": Requirements.lamina, "TMPDIR": Requirements.directory])
        let outcome = child.wait(seconds: seconds + 30)
        let lines = outcome.output.split(separator: "\n")
        let failed = lines.filter {
            // The suite itself leaves out Rename.
            $0.contains("--- FAIL") || ($0.contains("--- SKIP") && !$0.contains("/Rename "))
        }
        #expect(outcome.exitCode == 0, "\(outcome.output.suffix(8000))\n\(outcome.errors.suffix(4000))")
        #expect(failed.isEmpty, "\(failed.joined(separator: "\n"))")
        #expect(lines.count { $0.contains("--- PASS") } >= count)
    }
}

extension EndToEnd {
    @Suite("containerd's tests", Requirements.tools("go:golang-go"))
    struct ContainerdSuite {
        @Test("the SnapshotterSuite passes against lamina, two at a time")
        func direct() throws { try GoTests.expect("^TestDirect$", atLeast: 21, seconds: 240) }

        @Test("the SnapshotterSuite passes under containerd's metadata layer, two at a time")
        func metadata() throws { try GoTests.expect("^TestMetadata$", atLeast: 21, seconds: 240) }

        @Test("each row of the protocol that can be got wrong holds")
        func protocolRows() throws {
            try GoTests.expect("^Test[^DM]|^TestMounts$|^TestMany", atLeast: 16, seconds: 240)
        }
    }
}
