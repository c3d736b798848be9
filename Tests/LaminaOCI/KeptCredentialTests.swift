import Glibc
import LaminaDigest
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
            #expect(kept.candidates(for: "reg.example:5000", repository: "team/app").first == nil)
            for (reference, credentials) in [
                ("reg.example:5000/team/app:1", basic("p:\"\\\n\u{1}ü")), ("debian", .identityToken(Secret("it"))),
                (
                    "reg.example:5000/team/other@sha256:\(String(repeating: "0", count: 64))",
                    .registryToken(Secret("rt"))
                ),
            ] { #expect(try kept.begin(credentials, of: image(reference)) != nil) }
            #expect(try File(path, O_RDONLY).status().st_mode & 0o777 == 0o600)
            for known in [kept, silent(path)] {
                #expect(
                    known.candidates(for: "reg.example:5000", repository: "team/app").first == basic("p:\"\\\n\u{1}ü"))
                #expect(
                    known.candidates(for: "reg.example:5000", repository: "team/other").first
                        == .registryToken(Secret("rt"))
                )
                #expect(
                    known.candidates(for: "registry-1.docker.io", repository: "library/debian").first
                        == .identityToken(Secret("it")))
                #expect(known.candidates(for: "reg.example:5000", repository: "team").first == nil)
                #expect(known.candidates(for: "reg.example", repository: "team/app").first == nil)
            }
            // Another mode, and what an interrupted writer left, do not stay.
            chmod(path, 0o644)
            try write("unfinished", path + ".new")
            _ = try kept.begin(basic("new"), of: image("reg.example:5000/team/app:2"))
            #expect(try File(path, O_RDONLY).status().st_mode & 0o777 == 0o600)
            #expect(access(path + ".new", F_OK) != 0)
            #expect(silent(path).candidates(for: "reg.example:5000", repository: "team/app").first == basic("new"))
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
            func known() -> Credentials? { kept.candidates(for: "reg.example", repository: "a").first }
            // Two pulls with the wrong credentials.
            let first = try #require(kept.begin(basic("wrong"), of: image))
            let second = try #require(kept.begin(basic("wrong"), of: image))
            kept.end(first, succeeded: false)
            #expect(known() == basic("wrong"), "the other pull goes on")
            kept.end(second, succeeded: false)
            #expect(known() == nil)
            #expect(silent(path).candidates(for: "reg.example", repository: "a").first == nil)
            let right = try #require(kept.begin(basic("right"), of: image))
            kept.end(right, succeeded: true)
            // One that fails for another reason.
            kept.end(try #require(kept.begin(basic("right"), of: image)), succeeded: false)
            #expect(known() == basic("right"))
            let wrong = try #require(kept.begin(basic("wrong"), of: image))
            let worse = try #require(kept.begin(basic("worse"), of: image))
            #expect(known() == basic("right"), "the others did not work yet")
            kept.end(wrong, succeeded: false)
            kept.end(worse, succeeded: false)
            #expect(known() == basic("right"))
            #expect(silent(path).candidates(for: "reg.example", repository: "a").first == basic("right"))
            // New ones that work replace the old ones.
            kept.end(try #require(kept.begin(basic("newer"), of: image)), succeeded: true)
            #expect(silent(path).candidates(for: "reg.example", repository: "a").first == basic("newer"))
        }
    }

    @Test("those that worked are tried first, the newest of them before the others, and those that did not yet at last")
    func order() throws {
        try with { path in
            let kept = silent(path)
            let image = try image("reg.example/a:1")
            func names(_ kept: KeptCredentials) -> [String] {
                kept.candidates(for: "reg.example", repository: "a").map { $0.secret.revealed }
            }
            for password in ["old", "new"] {
                kept.end(try #require(kept.begin(basic(password), of: image)), succeeded: true)
            }
            let pull = try #require(kept.begin(basic("wrong"), of: image))
            #expect(names(kept) == ["new", "old", "wrong"])
            #expect(names(silent(path)) == ["new", "old", "wrong"])
            // As the next one to show is found, after a registry has refused those before.
            let store = CredentialStore(file: nil, defaultFile: nil, kept: kept)
            func found(_ refused: Set<Credentials>) throws -> Credentials? {
                let found = try store.find(host: "reg.example", repository: "a", refused: refused) { false }
                #expect(found?.isOneOfSeveral != false)
                return found?.credentials
            }
            #expect(try found([]) == basic("new"))
            #expect(try found([basic("new")]) == basic("old"))
            #expect(try found([basic("new"), basic("old")]) == basic("wrong"))
            #expect(try found([basic("new"), basic("old"), basic("wrong")]) == nil)
            // It was right after all.
            kept.end(pull, succeeded: true)
            #expect(names(kept) == ["wrong", "new", "old"])
            // However many come, what worked stays.
            for number in 0..<10 { _ = kept.begin(basic("\(number)"), of: image) }
            #expect(names(kept) == ["wrong", "new", "old", "9", "8", "7"])
            #expect(names(silent(path)) == names(kept))
        }
    }

    /// A registry with an image for everybody, `public`, and one for who has a password, `private`: by tokens, or by passwords. Whoever
    /// shows a wrong password gets nothing at all.
    private func registry(_ kind: String) throws -> ScriptedServer {
        let right = "Basic " + Base64.encode("u:right".utf8)
        return try ScriptedServer { request in
            let isOpen = request.path.contains("public")
            if request.path.hasPrefix("/token?") {
                guard request.authorization.map({ $0 == right }) ?? isOpen else { return .init(401) }
                return .init(200, [:], #"{"token": "\#(isOpen ? "public" : "private")"}"#)
            }
            let wanted = isOpen ? "public" : "private"
            let mayHave: Bool
            let challenge: String
            if kind == "token" {
                mayHave = request.authorization == "Bearer " + wanted
                challenge = #"Bearer realm="http://\#(request.host ?? "")/token",scope="repository:\#(wanted):pull""#
            } else {
                mayHave = request.authorization.map { $0 == right } ?? isOpen
                challenge = #"Basic realm="x""#
            }
            return mayHave ? .init(200, [:], "content") : .init(401, ["WWW-Authenticate": challenge])
        }
    }

    @Test(
        "those that are of no use any more leave what everybody may have, and what others of them give",
        arguments: ["token", "basic"])
    func dead(kind: String) throws {
        let server = try registry(kind)
        defer { server.stop() }
        try with { path in
            let kept = silent(path)
            for (name, passwords) in [("private", ["right", "dead"]), ("public", ["dead", "gone"])] {
                for password in passwords {
                    let pull = try kept.begin(basic(password), of: image("\(server.host)/\(name):1"))
                    kept.end(try #require(pull), succeeded: true)
                }
            }
            let registries = Registries(
                credentials: CredentialStore(file: nil, defaultFile: nil, kept: kept), settings: Tale().settings())
            let client = try registries.client(for: server.host, plainHTTP: true)
            func read(_ name: String) throws -> String {
                let content = Array("content".utf8)
                var bytes: [UInt8] = []
                try RegistrySource(client: client, repository: name).read(
                    SHA256.hash(content), size: 7, range: 0..<7, shouldStop: { false }
                ) { bytes += $0 }
                return String(decoding: bytes, as: UTF8.self)
            }
            // The newest are dead, the ones before are right.
            #expect(try read("private") == "content")
            // None is right, and none is needed.
            #expect(try read("public") == "content")
            let count = server.requests.count
            #expect(try read("public") == "content")
            #expect(server.requests.count == count + 1, "what was refused was shown again")
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
            #expect(kept.candidates(for: "reg.example", repository: "99").first != nil)
            #expect(kept.candidates(for: "reg.example", repository: "0").first == nil)
            #expect(silent(path).candidates(for: "reg.example", repository: "99").first != nil)
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
            #expect(next.candidates(for: "reg.example", repository: "0").first == basic("0"), "it was used again")
            #expect(next.candidates(for: "reg.example", repository: "1").first == nil)
            #expect(next.candidates(for: "reg.example", repository: "more").first == basic("more"))
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
                #expect(silent(path).candidates(for: "reg.example", repository: "a").first == basic("p"))
            }
        }
        let reports = Mutex<[String]>([])
        let kept = KeptCredentials(path: "/proc/none/credentials.json") { report in
            reports.withLock { $0.append(report) }
        }
        _ = try kept.begin(basic("s3cret"), of: image("reg.example/a:1"))
        #expect(kept.candidates(for: "reg.example", repository: "a").first == basic("s3cret"))
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
