import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("commands that meet a server which ends")
    struct EndingServers {
        /// How many commands are tried; `LAMINA_ENDING_TRIES` sets another number, as `make endings` does.
        private static let tries = getenv("LAMINA_ENDING_TRIES").flatMap { Int(String(cString: $0)) } ?? 160

        /// Whether another command has the store, as may happen without a server: that is reported, and is not about a server's
        /// end.
        private static func isTaken(_ errors: String) -> Bool {
            errors.contains("is in use by lamina ") && !errors.contains("is in use by lamina serve")
        }

        @Test("every command succeeds, at whatever moment of a server's end it comes")
        func endings() throws {
            try Sandbox.with { sandbox in
                let image = "oci:\(Fixtures.layout("estargz"))"
                let mounts = try (0..<3).map { try sandbox.mountPoint("mnt\($0)") }
                try sandbox.lamina("pull", image)
                var failures: [String] = []
                var count = 0
                var random = SplitMix(seed: 11)
                while count < Self.tries {
                    try sandbox.lamina("mount", image, mounts[0])
                    try sandbox.lamina("umount", mounts[0])
                    // The server checks once a second whether anything is mounted, and then ends: the commands come in the two
                    // seconds around that, some at once.
                    let others = [
                        ["pull", image], ["status"], ["gc"], ["pin", image], ["check"], ["unpin", image], ["ls"],
                    ]
                    var commands: [(at: Double, words: [String])] = others.map { words in
                        return (Double(random.next() % 1300) / 1000, words)
                    }
                    commands.append((Double(random.next() % 1300) / 1000, ["mount", image, mounts[1]]))
                    commands.append((Double(random.next() % 1300) / 1000, ["mount", image, mounts[2]]))
                    commands.sort { $0.at < $1.at }
                    let started = now()
                    var children: [Child] = []
                    for command in commands {
                        let wait = started + command.at - now()
                        if wait > 0 { usleep(UInt32(wait * 1e6)) }
                        children.append(try Child([Requirements.lamina] + command.words + ["--root", sandbox.root]))
                    }
                    for (child, command) in zip(children, commands) {
                        let outcome = child.wait(seconds: 60)
                        count += 1
                        if outcome.exitCode == 0 {
                            if command.words[0] == "mount" { try sandbox.lamina("umount", command.words[2]) }
                        } else if outcome.exitCode != 75 || !Self.isTaken(outcome.errors) {
                            failures.append(outcome.description)
                        }
                    }
                }
                #expect(
                    failures.isEmpty, "\(failures.count) of \(count): \(failures.prefix(3).joined(separator: "\n"))")
            }
        }
    }
}

/// The same numbers each time (SplitMix64).
private struct SplitMix {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}
