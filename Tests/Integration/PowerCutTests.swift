import LaminaTestSupport
import Testing

extension EndToEnd {
    /// A short run of what `make powercut` and `make faults` do for long: Tests/PowerCut.
    @Suite(
        "a store after a power cut, and after a system call that failed", Requirements.passthrough,
        Requirements.tools(
            "mkfs.ext4:e2fsprogs", "losetup:mount", "unshare:util-linux", "cc:gcc", "pkg-config", "curl"))
    struct PowerCut {
        @Test(
            "wherever the power goes amid a pull, rm or Prepare, the store opens, heals, and has what was promised")
        func cuts() throws {
            try laboratory(
                "powercut.py", "--workloads", "pull-plain,server-rm,snapshotter-long", "--noise", "own",
                "--cuts", "10", "--seconds", "140")
        }

        @Test("whichever call fails, once or from there on, no store needs help and nothing promised is gone")
        func faults() throws {
            try laboratory("faults.py", "--each", "2", "--seconds", "70")
        }

        /// Runs a program of the power-cut tests with small images. Its last lines say what was wrong, and are a table of
        /// counts.
        private func laboratory(_ program: String, _ words: String...) throws {
            try Sandbox.with { sandbox in
                let script = Fixtures.directory + "/../PowerCut/" + program
                let outcome = try run(
                    [
                        "python3", script, "--lamina", Requirements.lamina, "--directory", sandbox.directory,
                        "--scale", "0.15",
                    ] + words, seconds: 900)
                let lines = outcome.output.split(separator: "\n").suffix(40).joined(separator: "\n")
                #expect(outcome.exitCode == 0, "\(program)\n\(lines)\n\(outcome.errors.suffix(2000))")
                print(lines)
            }
        }
    }
}
