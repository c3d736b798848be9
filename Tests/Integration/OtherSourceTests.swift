import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// A hostile image that lists every file of another image, each with its digest, and whose registry does harm.
    @Suite("an image that lists every digest of another image")
    struct OtherSources {
        enum Harm: CaseIterable { case lies, isGone, stalls }

        private static let large = "large"
        /// Made once: these are compared with what is read, in no time.
        private static let files = (0..<24).map { noise(20_000, seed: 100 + UInt64($0)) }
        private static let largeFile = noise(1 << 20, seed: 99)
        /// Above it a file is read in parts while it merges.
        private static let threshold = "fuse.lazy_threshold=262144"

        /// The files of both images.
        private static let entries: [HandmadeLayer.Entry] =
            [.init("data/", type: "dir")] + files.enumerated().map { .init("data/\($0)", $1) }
            + [.init(large, largeFile, chunkSize: 64 << 10)]

        private static let honest = HandmadeLayer(entries)
        /// The same files, elsewhere in a blob of its own.
        private static let hostile = HandmadeLayer([.init("first", noise(70_000, seed: 98))] + entries)

        private func push(_ sandbox: Sandbox, _ layer: HandmadeLayer, _ repository: String) throws {
            let layout = "\(sandbox.directory)/\(repository.replacing("/", with: "-")).oci"
            let image = try HandmadeImage(layout, layer)
            try Shared.registry.get().push(layout: image.directory, sourceTag: "x", name: repository, tag: "1")
        }

        private func doHarm(_ harm: Harm, _ proxy: CountingProxy) {
            switch harm {
            case .lies:
                // A byte of each chunk, behind the heads of its member and its first block.
                let digest = SHA256.hash(Self.hostile.blob())
                proxy.faults.corruptions = Self.hostile.offsets.values.flatMap { $0 }
                    .map { .init(digest: digest, offset: Int64($0) + 20) }
            case .isGone: proxy.stop()
            case .stalls: proxy.faults.stallAfter = 0
            }
        }

        /// Reads all of a mounted image, and compares it with what was pushed; returns how long it took.
        private func read(_ mount: String) throws -> Double {
            let began = now()
            for (number, bytes) in Self.files.enumerated() {
                #expect(try readFile("\(mount)/data/\(number)") == bytes)
            }
            #expect(try readFile("\(mount)/\(Self.large)") == Self.largeFile)
            return now() - began
        }

        // MARK: By registry

        private static func basic(_ user: String, _ password: String) throws -> String {
            try run(["sh", "-c", "printf %s \"$1\" | base64 -w0", "sh", "\(user):\(password)"]).orThrow().output
        }

        /// A registry that wants a password, and what counts the requests there.
        private struct Guarded {
            let proxy: CountingProxy
            let tokens: TokenServer
            let user: String
            var host: String { proxy.host }

            init(_ user: String) throws {
                self.user = user
                proxy = try CountingProxy(upstream: Shared.registry.get().port)
                tokens = try TokenServer(wants: .basic(OtherSources.basic(user, "word")))
                proxy.tokens = tokens
            }

            /// Tokens of this server's, and none of another's.
            func expectOwnCredentials(_ other: Guarded, _ what: String) {
                let shown = proxy.requests.compactMap(\.authorization)
                #expect(!shown.isEmpty, "\(what)")
                #expect(shown.allSatisfy { $0.hasPrefix("Bearer token-\(tokens.port)-") }, "\(what): \(Set(shown))")
                #expect(tokens.issued > 0 && !tokens.requests.contains { $0.contains("\(other.tokens.port)") })
            }

            func stop() {
                proxy.stop()
                tokens.stop()
            }
        }

        @Test(
            "the honest image is right, within the time that its own registry takes, and no request with one's credentials is made for the other, whatever the hostile one's registry does",
            arguments: Harm.allCases)
        func harm(harm: Harm) throws {
            let (own, other) = (try Guarded("owner"), try Guarded("stranger"))
            defer {
                own.stop()
                other.stop()
            }
            func serve(_ sandbox: Sandbox) throws {
                let credentials = [own, other].map {
                    #""\#($0.host)": {"username": "\#($0.user)", "password": "word"}"#
                }
                let path = sandbox.directory + "/credentials.json"
                try write(#"{"auths": {\#(credentials.joined(separator: ", "))}}"#.utf8, to: path)
                _ = try sandbox.supervise("--set", "resolver.creds_file=\(path)", "--set", Self.threshold)
            }
            let usual = try Sandbox.with { sandbox in
                try push(sandbox, Self.honest, "listed/honest")
                try push(sandbox, Self.hostile, "listed/hostile")
                try serve(sandbox)
                return try read(sandbox.mount("\(own.host)/listed/honest:1"))
            }
            try Sandbox.with { sandbox in
                try serve(sandbox)
                // Indexed first: its places are the first of each digest.
                let hostile = try sandbox.mount("\(other.host)/listed/hostile:1", at: "hostile")
                let honest = try sandbox.mount("\(own.host)/listed/honest:1", at: "honest")
                own.proxy.reset()
                doHarm(harm, other.proxy)
                let readers = try (0..<6).map { number in
                    let name = number < 5 ? "data/\(number)" : Self.large
                    let right = "\(sandbox.directory)/right\(number)"
                    try write(number < 5 ? Self.files[number] : Self.largeFile, to: right)
                    return try sandbox.startProgram(["cmp", right, "\(hostile)/\(name)"])
                }
                defer { for reader in readers { reader.send(SIGKILL) } }
                usleep(1_000_000)
                #expect(own.proxy.requests.isEmpty, "asked for the hostile image: \(own.proxy.requests.map(\.path))")
                let took = try read(honest)
                print("\(harm): read in \(took) s, \(usual) s without the other image")
                #expect(took <= 2 * usual + 1, "\(harm)")
                // The hostile one has got no wrong byte, and no error but its own registry's.
                for reader in readers where !reader.isRunning {
                    let outcome = reader.wait()
                    let isError = outcome.exitCode == 2 && outcome.errors.contains("Input/output error")
                    #expect(outcome.exitCode == 0 || isError, "\(outcome)")
                }
                own.expectOwnCredentials(other, "the honest image's registry")
                other.expectOwnCredentials(own, "the hostile image's registry")
                #expect(own.proxy.requests.allSatisfy { $0.path.contains("/listed/honest/") })
                #expect(other.proxy.requests.allSatisfy { $0.path.contains("/listed/hostile/") })
            }
        }

        // MARK: By repository of one registry

        /// `tester:pass:word` and `thief:other:word`, by bcrypt.
        private static let users =
            RegistryPulls.htpasswd + "\nthief:$2y$04$012345678901234567890uCEbhqphBM4WYjewkBDLSmHbAEpVKZK2"

        @Test(
            "of one registry each repository is shown what came with its own pulls, also by the next server, whatever its images list",
            Containerd.isInstalled)
        func repositories() throws {
            let registry = try RegistryFixture(
                guarded: .init(htpasswd: Self.users), serving: Shared.registry.get())
            defer { registry.stop() }
            let proxy = try CountingProxy(upstream: registry.port)
            defer { proxy.stop() }
            let (owner, thief) = try (Self.basic("tester", "pass:word"), Self.basic("thief", "other:word"))
            // Nothing is fetched that nobody reads: then each request has a reader.
            try CRI.with("[fuse]\nlazy_threshold = 262144\n[snapshotter]\nbackground_merge = false\nprefetch = false\n")
            { cri, sandbox in
                try push(sandbox, Self.honest, "listed/private")
                try push(sandbox, Self.hostile, "listed/thief")
                let (own, other) = ("\(proxy.host)/listed/private:1", "\(proxy.host)/listed/thief:1")
                try cri("pull", other, "thief", "other:word")
                try cri("pull", own, "tester", "pass:word")
                func mounted(_ reference: String, _ name: String, _ body: (String) throws -> Void) throws {
                    let mount = try sandbox.mountPoint(name)
                    try cri.containerd.mountImage(reference, at: mount, namespace: "k8s.io")
                    defer { try? cri.containerd.unmountImage(mount, namespace: "k8s.io") }
                    try body(mount)
                }
                func shown(_ words: String) -> [String] {
                    proxy.requests.filter { $0.authorization == "Basic " + words }.map(\.path)
                }
                func expectOwn(_ what: String) {
                    #expect(shown(owner).allSatisfy { $0.contains("/listed/private/") || $0 == "/v2/" }, "\(what)")
                    #expect(shown(thief).allSatisfy { $0.contains("/listed/thief/") || $0 == "/v2/" }, "\(what)")
                }
                doHarm(.lies, proxy)
                for round in ["first", "after a restart"] {
                    let before = shown(owner).count
                    try mounted(other, "thief-\(round.count)") { mount in
                        for number in 0..<4 {
                            let file = round == "first" ? number : number + 4
                            #expect(throws: (any Error).self) { try readFile("\(mount)/data/\(file)") }
                        }
                    }
                    #expect(shown(owner).count == before, "the owner's credentials were shown for the thief: \(round)")
                    if round == "first" { try cri.containerd.lamina.killServer() }
                    expectOwn(round)
                }
                let before = shown(thief).count
                try mounted(own, "private") { _ = try read($0) }
                #expect(shown(thief).count == before && !shown(owner).isEmpty)
                expectOwn("at the end")
                print(
                    "one registry: \(shown(owner).count) requests with the owner's, \(shown(thief).count) with the thief's"
                )
            }
        }
    }
}
