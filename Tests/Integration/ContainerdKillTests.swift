import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd.UnderContainerd {
    /// How many times the server is killed: LAMINA_CONTAINERD_KILLS for a long run.
    private static let kills = getenv("LAMINA_CONTAINERD_KILLS").flatMap { Int(String(cString: $0)) } ?? 8

    /// What is running when the server is killed.
    private enum Work: CaseIterable {
        case pull, pullElsewhere, unpack, start, removal
    }

    /// The errors that a client of containerd gets when the server dies in the middle of its call, and during the second or so
    /// before containerd connects again. Like any client, it tries again, a little later each time.
    ///
    /// What the first try has left may be collected during the second one: containerd then answers that it is there without
    /// holding it for the client, and does not know it when the layer above comes.
    private static func isCutShort(_ outcome: Outcome) -> Bool {
        outcome.errors.contains("code = Unavailable") || outcome.errors.contains(": unavailable")
            || outcome.errors.contains("parent snapshot sha256:")
                && outcome.errors.contains("does not exist: not found")
    }

    @Test("killed again and again while containers run, start and end and images come and go, no container notices")
    func killed() throws {
        try Self.with { containerd, sandbox in
            let images = try ProgramImage.pushed.get()
            let (running, other) = (images.estargz, try EndToEnd.FixtureImages.reference("estargz", sandbox))
            let plain = try EndToEnd.FixtureImages.reference("plain-gzip", sandbox)
            try containerd.pullLazily(running)
            let long = try Self.startReader(of: running, containerd, sandbox)
            var (cutShort, tries) = (0, 0)
            for round in 0..<Self.kills {
                let work = Work.allCases[round % Work.allCases.count]
                for attempt in 0..<6 {
                    let name = "short\(round)-\(attempt)"
                    let child =
                        switch work {
                        case .pull: try containerd.startLazyPull(other)
                        case .pullElsewhere: try containerd.startLazyPull(other, namespace: "other")
                        case .unpack: try containerd.startPull(plain)
                        case .start:
                            try containerd.startRun(running, name, ["/bin/sh", "-c", "echo fine; cat /data/above"])
                        case .removal:
                            try containerd.startCtr(["images", "rm", "--sync", round % 2 == 0 ? other : plain])
                        }
                    tries += 1
                    if attempt == 0 {
                        // The calls of one of these come within the first third of a second.
                        usleep(.random(in: 0...300_000))
                        try containerd.lamina.killServer()
                    }
                    let outcome = child.wait(seconds: 120)
                    // A container's own exit counts: ctr's clean-up after it is a call like any other.
                    let isDone = work == .start ? outcome.output == "fine\nabove\n" : outcome.exitCode == 0
                    if isDone { break }
                    if attempt < 5, Self.isCutShort(outcome), work != .start || outcome.output.isEmpty {
                        cutShort += 1
                        usleep(300_000 * UInt32(attempt + 1))
                        continue
                    }
                    Issue.record("round \(round), try \(attempt) of \(work): \(outcome)")
                    break
                }
            }
            print(
                "\(Self.kills) kills, \(containerd.lamina.takeovers) takeovers; of \(tries) commands \(cutShort) were cut short"
            )
            try File(sandbox.directory + "/stop", O_WRONLY | O_CREAT).truncate(to: 0)
            let outcome = long.wait(seconds: 120)
            // Its last message comes after all its reads.
            #expect(outcome.output.hasPrefix("rounds "), "\(outcome)")
            try Self.expectAgreement(containerd, sandbox)
        }
    }

    /// A container that reads the files of its image over and over, until there is a file `stop` in the sandbox.
    private static func startReader(
        of reference: String, _ containerd: LaminaContainerd, _ sandbox: Sandbox
    ) throws -> Child {
        let loop = """
            import glob, os, sys
            n = 0
            while not os.path.exists("/host/stop"):
                for path in filter(os.path.exists, glob.glob("/usr/lib/python3.11/**/*.py", recursive=True)[:200]):
                    with open(path, "rb") as file: assert file.read(1) or os.path.getsize(path) == 0
                n += 1
            print("rounds", n)
            """
        let child = try containerd.startCtr([
            "run", "--rm", "--snapshotter", "lamina", "--mount",
            "type=bind,src=\(sandbox.directory),dst=/host,options=rbind:ro", reference, "long", "/usr/bin/python3",
            "-c",
            loop,
        ])
        let isRunning = try eventually(seconds: 60) {
            try containerd.ctr("tasks", "ls").output.split(separator: "\n")
                .contains { $0.hasPrefix("long ") && $0.hasSuffix("RUNNING") }
        }
        #expect(isRunning)
        return child
    }

    /// Expects that containerd and lamina agree when everything has ended, and that nothing is left when all is removed.
    private static func expectAgreement(_ containerd: LaminaContainerd, _ sandbox: Sandbox) throws {
        // Both know what interrupted calls have left; a client that crashes leaves the same.
        try containerd.removeContainers()
        let report = try containerd.check()
        #expect(report.differences == [], "\(report)")
        #expect(report.containerdSnapshots > 0 && report.mounts == 0, "\(report)")
        let left = try sandbox.mounts().filter { $0.directory != sandbox.root + "/fs" }
        #expect(left.isEmpty, "\(left)")
        try containerd.removeAll(namespaces: ["default", "other"])
        let empty = try containerd.check()
        #expect(empty.differences == [] && empty.snapshots == 0 && empty.containerdSnapshots == 0, "\(empty)")
        #expect(try eventually(seconds: 20) { try sandbox.number("SELECT count(*) FROM content") == 0 })
        #expect(names(in: sandbox.root + "/snapshots").isEmpty)
    }
}
