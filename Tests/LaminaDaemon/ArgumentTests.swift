import ArgumentParser
import LaminaDaemon
import Testing

@testable import lamina

@Suite("the command line")
struct ArgumentTests {
    private func parse<Command: ParsableCommand>(_ type: Command.Type, _ words: String...) throws -> Command {
        try #require(try Lamina.parseAsRoot(words) as? Command)
    }

    @Test("pull")
    func pull() throws {
        let command = try parse(
            Pull.self, "pull", "a/b:1", "--lazy", "--platform", "linux/arm64", "--plain-http", "--json", "--root", "/r",
            "--verbose")
        #expect(command.image == "a/b:1" && command.lazy && command.facts.json)
        #expect(command.imageOptions.platform == "linux/arm64" && command.imageOptions.plainHTTP)
        #expect(command.common.root == "/r" && command.common.verbose)
        let plain = try parse(Pull.self, "pull", "a")
        #expect(!plain.lazy && !plain.facts.json && !plain.imageOptions.plainHTTP && plain.common.root == nil)
    }

    @Test("mount and umount")
    func mounts() throws {
        let command = try parse(Mount.self, "mount", "oci:/d:t", "/m", "--rw", "/u")
        #expect(command.image == "oci:/d:t" && command.directory == "/m" && command.rw == "/u")
        #expect(try parse(Mount.self, "mount", "a", "m").rw == nil)
        #expect(try parse(Unmount.self, "umount", "/m", "--json").directory == "/m")
    }

    @Test("check")
    func check() throws {
        let plain = try parse(Check.self, "check")
        #expect(plain.image == nil && plain.readData == nil && !plain.repair && plain.time == nil)
        let command = try parse(Check.self, "check", "a:1", "--read-data=2.5", "--repair", "--time", "10m", "--json")
        #expect(command.image == "a:1" && command.readData == 2.5 && command.repair && command.time == "10m")
        #expect(Check.completed(["check", "--read-data", "a"]) == ["check", "--read-data=100", "a"])
        #expect(Check.seconds("90") == 90 && Check.seconds("1.5h") == 5400 && Check.seconds("2s") == 2)
        for wrong in ["--read-data=0", "--read-data=101", "--read-data=x", "--time=0", "--time=5d", "--time=m"] {
            #expect(throws: (any Error).self) { try Lamina.parseAsRoot(["check", wrong]) }
        }
    }

    @Test("check --containerd, with a socket and without")
    func checkContainerd() throws {
        let words = Check.completed(["check", "--containerd", "/s", "--json"])
        let command = try #require(try Lamina.parseAsRoot(words) as? Check)
        #expect(command.containerd == "/s" && command.snapshotter == nil && command.image == nil && command.facts.json)
        for words in [["check", "--containerd"], ["check", "--containerd", "--snapshotter", "overlayfs"]] {
            let command = try #require(try Lamina.parseAsRoot(Check.completed(words)) as? Check)
            #expect(command.containerd == "/run/containerd/containerd.sock", "\(words)")
        }
        for wrong in [
            ["--containerd=/s", "a:1"], ["--containerd=/s", "--repair"], ["--containerd=/s", "--read-data=5"],
            ["--containerd=/s", "--time=5m"], ["--snapshotter=a"], ["--containerd=/s", "--snapshotter=a\"b"],
            ["--containerd=/s", "--snapshotter="],
        ] {
            #expect(throws: (any Error).self, "\(wrong)") { try Lamina.parseAsRoot(["check"] + wrong) }
        }
    }

    @Test("ls, status, doctor, version")
    func facts() throws {
        #expect(try parse(List.self, "ls").image == nil)
        let list = try parse(List.self, "ls", "-l", "a")
        #expect(list.long && list.image == "a")
        #expect(try parse(Status.self, "status", "--watch").watch)
        #expect(try parse(Doctor.self, "doctor", "--json").facts.json)
        #expect(try parse(Version.self, "version", "--json").facts.json)
    }

    @Test("rm, gc, pin, unpin")
    func space() throws {
        let remove = try parse(Remove.self, "rm", "a", "b:1", "--no-gc", "--json")
        #expect(remove.images == ["a", "b:1"] && remove.noCollection && remove.facts.json)
        #expect(try !parse(Remove.self, "rm", "a").noCollection)
        #expect(throws: (any Error).self) { try parse(Remove.self, "rm") }
        #expect(try parse(Collect.self, "gc", "--dry-run").dryRun)
        #expect(try parse(Pin.self, "pin", "a").image == "a")
        #expect(try parse(Unpin.self, "unpin", "a", "--root", "/r").common.root == "/r")
        #expect(try parse(Pull.self, "pull", "a", "--pin").pin)
        #expect(try parse(Seal.self, "seal", "a", "--platform", "linux/arm64").imageOptions.platform == "linux/arm64")
        #expect(try parse(Mount.self, "mount", "a", "b", "--sealed").sealed)
    }

    @Test("convert")
    func convert() throws {
        let command = try parse(
            Convert.self, "convert", "dir:/a", "oci:/b:c", "--chunk-size", "65536", "--level", "9", "--prioritize",
            "/list",
            "--prioritized-file", "a", "--prioritized-file", "b c", "--threads", "3")
        #expect(command.source == "dir:/a" && command.destination == "oci:/b:c")
        #expect(command.chunkSize == 65536 && command.level == 9 && command.threads == 3)
        #expect(command.prioritize == "/list" && command.prioritizedFiles == ["a", "b c"])
    }

    @Test("serve")
    func serve() throws {
        let command = try parse(Serve.self, "serve", "--exit-when-idle", "--ready-fd", "3")
        #expect(command.exitWhenIdle && command.readyFd == 3)
    }

    @Test("--config and -config on every command")
    func config() throws {
        let commands: [[String]] = [
            ["pull", "a"], ["mount", "a", "b"], ["umount", "a"], ["ls"], ["status"], ["convert", "a", "b"], ["doctor"],
            ["serve"], ["version"],
        ]
        for words in commands {
            for option in ["--config", "-config"] {
                #expect(throws: Never.self, "\(words) \(option)") {
                    try Lamina.parseAsRoot(words + [option, "/c", "--root", "/r"])
                }
            }
        }
        #expect(try parse(Status.self, "status", "-config", "/c").common.config == "/c")
        #expect(try parse(List.self, "ls", "-l", "-config", "/c").common.config == "/c")
    }

    @Test(
        "a wrong command line ends with 64",
        arguments: [
            ["pull"], ["pull", "a", "b"], ["mount", "a"], ["nonsense"], ["ls", "--sideways"], ["status", "--config"],
            ["convert", "a", "b", "--level", "13"], ["convert", "a", "b", "--chunk-size", "1"],
            ["convert", "a", "b", "--threads", "0"], ["serve", "--ready-fd", "-2"],
        ])
    func wrong(words: [String]) {
        do {
            _ = try Lamina.parseAsRoot(words)
            Issue.record("\(words) was taken")
        } catch {
            #expect(Lamina.exitCode(for: error).rawValue == 64)
        }
    }

    @Test("an error of a command becomes its exit code")
    func errors() {
        for (error, code) in [
            (DaemonError(.busy, "x"), 75), (DaemonError(.permission, "x"), 77),
            (DaemonError(.remote(exitCode: 2), "x"), 2),
        ] as [(DaemonError, Int32)] {
            let thrown = #expect(throws: ExitCode.self) { try reporting { throw error } }
            #expect(thrown?.rawValue == code)
        }
    }
}
