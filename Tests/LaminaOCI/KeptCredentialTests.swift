import Glibc
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaOCI

@Suite("Credentials that came along with pulls")
struct KeptCredentialTests {
    private func with(_ body: (String) throws -> Void) throws {
        let directory = try temporaryDirectory("kept")
        defer { removeTree(directory) }
        try body(directory + "/credentials.json")
    }

    private func image(_ reference: String) throws -> ImageReference { try ImageReference(parsing: reference) }

    private func basic(_ password: String) -> Credentials { .basic(user: "u", password: Secret(password)) }

    private func silent(_ path: String) -> KeptCredentials { KeptCredentials(path: path) { Issue.record("\($0)") } }

    @Test("they are of the image's repository, and the next process has them from a file that only its owner reads")
    func kept() throws {
        try with { path in
            let kept = silent(path)
            #expect(kept.credentials(for: "reg.example:5000", repository: "team/app") == nil)
            for (reference, credentials) in [
                ("reg.example:5000/team/app:1", basic("p:\"\\\n\u{1}ü")), ("debian", .identityToken(Secret("it"))),
                (
                    "reg.example:5000/team/other@sha256:\(String(repeating: "0", count: 64))",
                    .registryToken(Secret("rt"))
                ),
            ] { #expect(try kept.begin(credentials, of: image(reference)) != nil) }
            #expect(try File(path, O_RDONLY).status().st_mode & 0o777 == 0o600)
            for known in [kept, silent(path)] {
                #expect(known.credentials(for: "reg.example:5000", repository: "team/app") == basic("p:\"\\\n\u{1}ü"))
                #expect(
                    known.credentials(for: "reg.example:5000", repository: "team/other") == .registryToken(Secret("rt"))
                )
                #expect(
                    known.credentials(for: "registry-1.docker.io", repository: "library/debian")
                        == .identityToken(Secret("it")))
                #expect(known.credentials(for: "reg.example:5000", repository: "team") == nil)
                #expect(known.credentials(for: "reg.example", repository: "team/app") == nil)
            }
            // Another mode, and what an interrupted writer left, do not stay.
            chmod(path, 0o644)
            try write("unfinished", path + ".new")
            _ = try kept.begin(basic("new"), of: image("reg.example:5000/team/app:2"))
            #expect(try File(path, O_RDONLY).status().st_mode & 0o777 == 0o600)
            #expect(access(path + ".new", F_OK) != 0)
            #expect(silent(path).credentials(for: "reg.example:5000", repository: "team/app") == basic("new"))
        }
    }

    @Test("what is for another server than the image's registry is not kept")
    func otherServers() throws {
        try with { path in
            let kept = silent(path)
            let (own, hub) = (try image("reg.example/a:1"), try image("hub"))
            for (server, isKept) in [
                ("", true), ("https://reg.example", true), ("reg.example/v2/", true),
                ("https://reg.example/team", true),
                ("https://other.example", false), ("reg.example.evil", false), ("https://reg.example:5000", false),
            ] {
                #expect((kept.begin(basic("p"), of: own, server: server) != nil) == isKept, "\(server)")
            }
            #expect(kept.begin(basic("p"), of: hub, server: "https://index.docker.io/v1/") != nil)
            let layout = try ImageReference(layout: "/tmp")
            #expect(kept.begin(basic("p"), of: layout) == nil)
        }
    }

    @Test("those that never worked give way to those that did, whoever pulls at the same time")
    func ends() throws {
        try with { path in
            let kept = silent(path)
            let image = try image("reg.example/a:1")
            func known() -> Credentials? { kept.credentials(for: "reg.example", repository: "a") }
            // Two pulls with the wrong credentials.
            let first = try #require(kept.begin(basic("wrong"), of: image))
            let second = try #require(kept.begin(basic("wrong"), of: image))
            kept.end(first, succeeded: false)
            #expect(known() == basic("wrong"), "the other pull goes on")
            kept.end(second, succeeded: false)
            #expect(known() == nil)
            #expect(silent(path).credentials(for: "reg.example", repository: "a") == nil)
            let right = try #require(kept.begin(basic("right"), of: image))
            kept.end(right, succeeded: true)
            // One that fails for another reason.
            kept.end(try #require(kept.begin(basic("right"), of: image)), succeeded: false)
            #expect(known() == basic("right"))
            let wrong = try #require(kept.begin(basic("wrong"), of: image))
            let worse = try #require(kept.begin(basic("worse"), of: image))
            #expect(known() == basic("worse"))
            kept.end(wrong, succeeded: false)
            kept.end(worse, succeeded: false)
            #expect(known() == basic("right"))
            #expect(silent(path).credentials(for: "reg.example", repository: "a") == basic("right"))
            // New ones that work replace the old ones.
            kept.end(try #require(kept.begin(basic("newer"), of: image)), succeeded: true)
            #expect(silent(path).credentials(for: "reg.example", repository: "a") == basic("newer"))
        }
    }

    @Test("they are bounded in number and size, and the oldest go")
    func bounds() throws {
        try with { path in
            let reports = Mutex<[String]>([])
            let kept = KeptCredentials(path: path) { report in reports.withLock { $0.append(report) } }
            let long = String(repeating: "x", count: KeptCredentials.secretLimit)
            #expect(try kept.begin(basic(long), of: image("reg.example/long:1")) == nil)
            #expect(reports.withLock { $0.count == 1 && $0[0].contains("reg.example/long") && !$0[0].contains("xxx") })
            for number in 0..<100 {
                _ = try kept.begin(basic(String(long.dropLast())), of: image("reg.example/\(number):1"))
            }
            #expect(try readFile(path).count <= DockerConfig.byteLimit)
            #expect(kept.credentials(for: "reg.example", repository: "99") != nil)
            #expect(kept.credentials(for: "reg.example", repository: "0") == nil)
            #expect(silent(path).credentials(for: "reg.example", repository: "99") != nil)
        }
        try with { path in
            let entries = (0..<KeptCredentials.entryLimit).map { number in
                #"{"name": "reg.example/\#(number)", "username": "u", "password": "\#(number)"}"#
            }
            try write(#"{"credentials": [\#(entries.joined(separator: ","))]}"#, path)
            let kept = silent(path)
            _ = try kept.begin(basic("0"), of: image("reg.example/0:1"))
            _ = try kept.begin(basic("more"), of: image("reg.example/more:1"))
            let next = silent(path)
            #expect(next.credentials(for: "reg.example", repository: "0") == basic("0"), "it was used again")
            #expect(next.credentials(for: "reg.example", repository: "1") == nil)
            #expect(next.credentials(for: "reg.example", repository: "more") == basic("more"))
        }
    }

    @Test("a file that is damaged, or cannot be written, is told without what is secret in it, and stops nothing")
    func damage() throws {
        try with { path in
            for text in [
                "", "{", "[]", #"{"credentials": 1}"#, #"{"credentials": [{"name": "a/b"}]}"#,
                #"{"credentials": [{"username": "u", "password": "s3cret"}]}"#,
                #"{"credentials": [{"name": "a/b", "auth": "s3cret!"}]}"#, String(repeating: " ", count: 2 << 20),
            ] {
                try write(text, path)
                let reports = Mutex<[String]>([])
                let kept = KeptCredentials(path: path) { report in reports.withLock { $0.append(report) } }
                #expect(
                    reports.withLock { $0.count == 1 && $0[0].contains(path) && !$0[0].contains("s3cret") },
                    "\(text.prefix(50))")
                _ = try kept.begin(basic("p"), of: image("reg.example/a:1"))
                #expect(silent(path).credentials(for: "reg.example", repository: "a") == basic("p"))
            }
        }
        let reports = Mutex<[String]>([])
        let kept = KeptCredentials(path: "/proc/none/credentials.json") { report in
            reports.withLock { $0.append(report) }
        }
        _ = try kept.begin(basic("s3cret"), of: image("reg.example/a:1"))
        #expect(kept.credentials(for: "reg.example", repository: "a") == basic("s3cret"))
        #expect(reports.withLock { $0.count == 1 && $0[0].contains("/proc/none") && !$0[0].contains("s3cret") })
    }

    @Test("what CRI's AuthConfig says is read as docker has it")
    func authConfig() {
        func read(
            _ username: String = "", _ password: String = "", auth: String = "", identity: String = "",
            registry: String = ""
        ) -> Credentials? {
            Credentials(
                username: username, password: password, auth: auth, identityToken: identity, registryToken: registry)
        }
        #expect(read("u", "p") == .basic(user: "u", password: Secret("p")))
        #expect(read(auth: Base64.encode("u:p:q\0".utf8)) == .basic(user: "u", password: Secret("p:q")))
        #expect(read("u", identity: "it") == .identityToken(Secret("it")))
        #expect(read(registry: "rt") == .registryToken(Secret("rt")))
        #expect(read() == nil && read(auth: "no base64!") == nil && read("", "p") == nil)
    }

    @Test("docker's files go before them, and a token that was of no use is not kept to when they come")
    func inUse() throws {
        let registry = try Access.registry.get()
        let digest = try registry.pushBlob(Access.content, name: "test/kept")
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        let tokens = try TokenServer(wants: .basicOrUseless(Base64.encode("u:p".utf8)))
        defer { tokens.stop() }
        proxy.tokens = tokens
        try with { path in
            let kept = silent(path)
            let docker = path + ".docker"
            let registries = Registries(
                credentials: CredentialStore(file: nil, defaultFile: docker, kept: kept),
                settings: Tale().settings())
            let source = RegistrySource(
                client: try registries.client(for: proxy.host, plainHTTP: true), repository: "test/kept")
            func read() throws {
                try source.read(digest, size: Int64(Access.content.count), range: 0..<10, shouldStop: { false }) { _ in
                }
            }
            let error = #expect(throws: OCIError.self) { try read() }
            #expect(error?.code == .unauthorized)
            _ = try kept.begin(basic("p"), of: image("\(proxy.host)/test/kept:1"))
            try read()
            #expect(tokens.requests.count == 2)

            let store = registries.credentials
            func found() throws -> Credentials? {
                try store.find(host: proxy.host, repository: "test/kept") { false }?.credentials
            }
            #expect(try found() == basic("p"))
            try write(Access.config(proxy.host, password: "docker"), docker)
            #expect(try found() == .basic(user: "tester", password: Secret("docker")))
        }
    }

    private func write(_ text: String, _ path: String) throws {
        let file = try File(path, O_WRONLY | O_CREAT | O_TRUNC)
        try Array(text.utf8).withUnsafeBytes { try file.write($0, at: 0) }
    }
}
