import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Images whose tables of contents, members or registries would take a node's memory or disk: `Tests/Fixtures/hostile/crowd.py`.
    @Suite("images that would take the node's memory or disk")
    struct Crowds {
        private static let memoryLimit: Int64 = 512 << 20
        private static let indexLimit: Int64 = 256 << 20
        /// In seconds.
        private static let patience = 120.0
        /// How many times smaller images and limits are; LAMINA_CROWD=1, with a release binary, tries them as they are.
        private static let scale = getenv("LAMINA_CROWD").flatMap { Int(String(cString: $0)) } ?? 60

        private static let limits = ["max_image_entries", "takes too much memory", "over its limit"]

        struct Crowd: CustomStringConvertible {
            var kind: String
            var layers: Int
            var entries: Int
            /// What a refusal says; nil: it may be served, too.
            var words: [String]?

            /// Whether what counts is how many they are.
            var isScaled: Bool { !["deep", "behind"].contains(kind) }

            var description: String { "\(layers) layers of \(entries) \(kind)" }
        }

        static let crowds = [
            Crowd(kind: "files", layers: 6, entries: 1_400_000, words: Self.limits),
            Crowd(kind: "directories", layers: 6, entries: 1_400_000, words: Self.limits),
            Crowd(kind: "chunks", layers: 6, entries: 1_400_000, words: Self.limits),
            Crowd(kind: "implied", layers: 6, entries: 1_400_000, words: Self.limits),
            Crowd(kind: "names", layers: 6, entries: 1_100_000, words: Self.limits),
            Crowd(kind: "targets", layers: 6, entries: 60_000, words: Self.limits),
            Crowd(kind: "attributes", layers: 6, entries: 3_000, words: Self.limits),
            Crowd(kind: "deep", layers: 1, entries: 400),
            Crowd(kind: "behind", layers: 1, entries: 3),
            Crowd(kind: "both", layers: 6, entries: 1_300_000),
        ]

        private func make(_ crowd: Crowd, _ sandbox: Sandbox) throws -> String {
            let layout = "\(sandbox.directory)/crowd"
            try run(
                [
                    "python3", Hostile.directory + "/crowd.py", layout, crowd.kind, "\(crowd.layers)",
                    "\(crowd.isScaled ? crowd.entries / Self.scale : crowd.entries)",
                ], seconds: 300
            ).orThrow()
            return "oci:\(layout):x"
        }

        /// What a file of the index takes on disk.
        private func bytes(_ name: String, _ sandbox: Sandbox) -> Int64 {
            (try? File("\(sandbox.root)/\(name)", O_RDONLY).size()) ?? 0
        }

        @Test(
            "is refused with the limit's name, or served, with 512 MiB of memory and 256 MiB of index at most",
            arguments: crowds)
        func crowd(crowd: Crowd) throws {
            try Sandbox.with { sandbox in
                let reference = try make(crowd, sandbox)
                let limit = try MemoryLimit(bytes: Int(Self.memoryLimit))
                let entries = 1_500_000 / (crowd.isScaled ? Self.scale : 1)
                let child = try limit.start(
                    [
                        Requirements.lamina, "pull", "--lazy", reference, "--root", sandbox.root, "--set",
                        "store.max_layer_entries=\(entries)", "--set", "store.max_image_entries=\(entries)",
                    ], in: sandbox)
                var (index, log): (Int64, Int64) = (0, 0)
                func look() {
                    index = max(index, bytes("index.db", sandbox))
                    log = max(log, bytes("index.db-wal", sandbox))
                }
                let began = now()
                while child.isRunning, now() < began + Self.patience {
                    look()
                    _ = child.peakResidentBytes
                    usleep(5000)
                }
                let outcome = child.wait(seconds: 1)
                look()
                print(
                    "\(crowd), \(Self.scale) times less: exit code \(outcome.exitCode ?? -1), \(outcome.peakBytes >> 20) MiB of memory, \(index >> 20) MiB of index and \(log >> 20) of its log, \(Int(outcome.seconds * 1000)) ms"
                )
                // What is there without an image.
                let most = Self.indexLimit / (crowd.isScaled ? Int64(Self.scale) : 1) + (1 << 20)
                #expect(outcome.exitCode == 0 || outcome.exitCode == 1, "\(outcome)")
                #expect(outcome.peakBytes <= Self.memoryLimit, "\(crowd): \(outcome.peakBytes >> 20) MiB")
                #expect(index <= most && log <= most, "\(crowd): \(index >> 20) MiB, and \(log >> 20) of log")
                if let words = crowd.words {
                    #expect(outcome.exitCode == 1 && words.contains { outcome.errors.contains($0) }, "\(outcome)")
                }
                guard outcome.exitCode == 0 else { return }
                // What is served is served within the same memory.
                let mount = try sandbox.mount(reference)
                let server = try #require(try sandbox.status().server)
                let list = try run(["sh", "-c", "find \"$1\" -xdev | head -5000 | wc -l", "sh", mount]).orThrow()
                let read = try run([
                    "sh", "-c", "find \"$1\" -xdev -type f | head -20 | xargs -n1 head -c1", "sh", mount,
                ])
                let peak = try #require(processPeakBytes(server.pid))
                print(
                    "\(crowd): served with \(peak >> 20) MiB; \(list.output.filter(\.isNumber)) names, reads end with \(read.exitCode ?? -1)"
                )
                #expect(peak <= Self.memoryLimit)
                index = bytes("index.db", sandbox)
                #expect(index <= most, "\(crowd): \(index >> 20) MiB once it was read")
            }
        }

        // MARK: Disk

        /// What a store takes, with the nameless files that processes have open there.
        private func bytesOnDisk(_ sandbox: Sandbox, _ process: pid_t) throws -> Int64 {
            let text = try run(["du", "-s", "-x", "--block-size=1", sandbox.root]).output
            var sum = Int64(text.prefix { $0.isNumber }) ?? 0
            for name in names(in: "/proc/\(process)/fd") {
                let path = "/proc/\(process)/fd/\(name)"
                var facts = stat()
                if stat(path, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG, facts.st_nlink == 0 {
                    sum += Int64(facts.st_blocks) * 512
                }
            }
            return sum
        }

        @Test(
            "max_bytes holds against a registry that ignores ranges, from the first pull on and for readers; what fits is read right"
        )
        func withoutRanges() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.medium.get()
                let small = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let limit: Int64 = 100 << 20
                // What is in flight, and what a sync has not given back yet.
                let above: Int64 = 40 << 20
                let config = sandbox.directory + "/config.toml"
                try write("[store]\nmax_bytes = \(limit)\n".utf8, to: config)
                _ = try sandbox.supervise("--config", config)
                let server = try #require(try sandbox.status().server).pid
                var most: Int64 = 0
                func watch(_ child: Child, seconds: Double) throws -> Outcome {
                    let end = now() + seconds
                    while child.isRunning, now() < end {
                        most = max(most, try bytesOnDisk(sandbox, server))
                        usleep(20_000)
                    }
                    return child.wait(seconds: 1)
                }
                // Its table of contents is behind more than may be kept.
                proxy.faults.ignoresRange = true
                let refused = try watch(sandbox.start(["pull", "--lazy", image.reference(proxy)]), seconds: 60)
                #expect(refused.exitCode != 0 && refused.errors.contains("max_bytes"), "\(refused)")
                // Known already, its files are behind it. By another name, as it is known of this one that it has no ranges.
                let ranged = try CountingProxy(upstream: Shared.registry.get().port)
                defer { ranged.stop() }
                let mount = try sandbox.mount(image.reference(ranged))
                ranged.faults.ignoresRange = true
                ranged.reset()
                for name in ["part0", "part7"] {
                    let reader = try sandbox.startProgram(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"])
                    let outcome = try watch(reader, seconds: 90)
                    print(
                        "\(name): \(outcome.exitCode ?? -1) after \(outcome.seconds) s, \(ranged.requests.count) requests, at most \(most >> 20) MiB on disk"
                    )
                    #expect(!outcome.isTimedOut && outcome.exitCode != 1, "\(outcome)")
                    #expect(most <= limit + above, "\(most >> 20) MiB with a limit of \(limit >> 20)")
                }
                #expect(ranged.requests.count < 100)
                // It goes on for what fits.
                let other = try sandbox.mount(small.reference(ranged), at: "small")
                try TreeOracle.expectSame(small.tree, at: other, in: sandbox)
                most = max(most, try bytesOnDisk(sandbox, server))
                #expect(most <= limit + above, "\(most >> 20) MiB with a limit of \(limit >> 20)")
            }
        }
    }
}
