import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaOCI

@Suite("The pull secrets of a cluster")
struct ClusterSecretTests {
    /// A cluster with its API, and what is reported of it.
    private struct Cluster {
        let api: ClusterAPI
        let secrets: ClusterSecrets
        let reports: Reports

        final class Reports: Sendable {
            let lines = Mutex<[String]>([])
        }

        init(pageSize: Int = 500, token: String = "t0ken") throws {
            let api = try ClusterAPI(authorization: "Bearer t0ken", pageSize: pageSize) { Base64.encode($0.utf8) }
            let reports = Reports()
            var settings = RegistryClient.Settings()
            settings.tryLimit = 2
            settings.backoff = .milliseconds(10)
            secrets = ClusterSecrets(settings: settings) { line in
                reports.lines.withLock { $0.append(line) }
            } access: { () throws(OCIError) in
                try ClusterAccess(server: api.url, authorization: ClusterAccess.bearer(token), origin: "a test")
            }
            self.api = api
            self.reports = reports
        }

        func find(_ host: String, _ repository: String, refused: Set<Credentials> = []) throws -> String? {
            let found = try secrets.find(
                host: host, repository: repository, refused: refused, shouldStop: { false })
            guard let found, case .basic(_, let password) = found.credentials else { return nil }
            return "\(password.revealed) of \(found.origin)"
        }

        var told: [String] { reports.lines.withLock { $0 } }
    }

    private static func config(_ passwords: KeyValuePairs<String, String>) -> String {
        let auths = passwords.map { #""\#($0.key)": {"username": "u", "password": "\#($0.value)"}"# }
        return #"{"auths": {\#(auths.joined(separator: ","))}}"#
    }

    @Test("are found by registry, wildcard and repository, the most exact first; one list serves all who ask")
    func found() throws {
        let cluster = try Cluster(pageSize: 2)
        defer { cluster.api.stop() }
        cluster.api.set([
            "b": Self.config(["reg.example:5000": "host-b"]), "a": Self.config(["reg.example:5000": "host-a"]),
            "team": Self.config(["https://reg.example:5000/team/": "team"]),
            "wild": Self.config(["*.example": "wild"]), "hub": Self.config(["https://index.docker.io/v1/": "hub"]),
            "helper": #"{"credsStore": "evil", "credHelpers": {"x.example": "evil"}}"#, "broken": "{",
        ])
        #expect(try cluster.find("reg.example:5000", "other/app") == "host-a of the secret team/a")
        #expect(try cluster.find("reg.example:5000", "team/app") == "team of the secret team/team")
        #expect(try cluster.find("reg.example:5000", "teams") == "host-a of the secret team/a")
        #expect(try cluster.find("x.example", "app") == "wild of the secret team/wild")
        #expect(try cluster.find("registry-1.docker.io", "library/debian") == "hub of the secret team/hub")
        let refused: Set<Credentials> = [.basic(user: "u", password: Secret("host-a"))]
        #expect(try cluster.find("reg.example:5000", "app", refused: refused) == "host-b of the secret team/b")
        #expect(cluster.api.requests.count == 4, "\(cluster.api.requests)")
        #expect(
            cluster.api.requests[0]
                == "GET /api/v1/secrets?limit=100&fieldSelector=type%3Dkubernetes.io%2Fdockerconfigjson HTTP/1.1")
        // With a name of another number of parts, and with none.
        for host in ["a.b.example", "reg.example:5001", "example"] { #expect(try cluster.find(host, "app") == nil) }
        #expect(cluster.told.isEmpty)
    }

    @Test("that came a moment ago are known five seconds later; what is known is used while the API is away")
    func changes() throws {
        let cluster = try Cluster()
        defer { cluster.api.stop() }
        #expect(try cluster.find("reg.example", "app") == nil)
        cluster.api.set(["new": Self.config(["reg.example": "new"])])
        #expect(try cluster.find("reg.example", "app") == nil, "the API was asked twice at once")
        #expect(try eventually { try cluster.find("reg.example", "app") == "new of the secret team/new" })
        cluster.api.answer(503)
        let refused: Set<Credentials> = [.basic(user: "u", password: Secret("new"))]
        let isTold = try eventually {
            _ = try cluster.find("reg.example", "app", refused: refused)
            return !cluster.told.isEmpty
        }
        #expect(isTold)
        #expect(try cluster.find("reg.example", "app") == "new of the secret team/new")
        #expect(
            cluster.told.count == 1 && cluster.told[0].contains("\(cluster.api.url) answered 503"), "\(cluster.told)")
    }

    @Test(
        "of an API that refuses, lies or is away are none, and why is told once, without the token",
        arguments: [
            (200, "[]", "something else than a list"), (200, #"{"items": 3}"#, "something else than a list"),
            (200, "<html>", "something else than a list"), (403, nil, "may not list secrets"),
            (404, nil, "answered 404"), (302, nil, "answered 302"), (500, nil, "answered 500 (tried 2 times)"),
        ] as [(Int, String?, String)])
    func wrong(status: Int, body: String?, message: String) throws {
        let cluster = try Cluster()
        defer { cluster.api.stop() }
        cluster.api.answer(status, body)
        for _ in 0..<3 { #expect(try cluster.find("reg.example", "app") == nil) }
        #expect(cluster.told.count == 1 && cluster.told[0].contains(message), "\(cluster.told)")
        #expect(cluster.told.allSatisfy { !$0.contains("t0ken") })
    }

    @Test("of an API that does not know the token, or gives endless pages, are none")
    func endless() throws {
        let cluster = try Cluster(token: "other")
        defer { cluster.api.stop() }
        #expect(try cluster.find("reg.example", "app") == nil)
        #expect(cluster.told.count == 1 && cluster.told[0].contains("does not know whom a test names"))
        let second = try Cluster()
        defer { second.api.stop() }
        second.api.answer(200, #"{"metadata": {"continue": "x"}, "items": []}"#)
        #expect(try second.find("reg.example", "app") == nil)
        #expect(second.told.count == 1 && second.told[0].contains("the same again"), "\(second.told)")
        let gone = try Cluster()
        gone.api.stop()
        #expect(try gone.find("reg.example", "app") == nil)
        #expect(gone.told.count == 1 && gone.told[0].contains("cannot be asked"), "\(gone.told)")
    }

    @Test(
        "are tried one after the other, by registries that want a password and by those that want a token",
        arguments: ["basic", "token"])
    func several(kind: String) throws {
        let digest = try Access.registry.get().pushBlob(Access.content, name: "test/access")
        let cluster = try Cluster()
        defer { cluster.api.stop() }
        let right = Access.password
        let tokens = try TokenServer(wants: .basic(Base64.encode("u:\(right)".utf8)))
        let proxy = try CountingProxy(upstream: Access.registry.get().port)
        defer {
            proxy.stop()
            tokens.stop()
        }
        var host = proxy.host
        var registry: RegistryFixture?
        defer { registry?.stop() }
        if kind == "basic" {
            registry = try RegistryFixture(
                guarded: .init(htpasswd: Access.htpasswd), serving: Access.registry.get())
            host = try #require(registry).host
        } else {
            proxy.tokens = tokens
        }
        let user = kind == "basic" ? "tester" : "u"
        func config(_ password: String) -> String {
            #"{"auths": {"\#(host)": {"username": "\#(user)", "password": "\#(password)"}}}"#
        }
        func read(_ cluster: Cluster) throws -> [UInt8] {
            let registries = Registries(
                hosts: HostsConfiguration(directories: []),
                credentials: CredentialStore(defaultFile: nil, cluster: cluster.secrets), settings: Tale().settings())
            let source = RegistrySource(
                client: try registries.client(for: host, plainHTTP: false), repository: "test/access")
            var bytes: [UInt8] = []
            try source.read(digest, size: Int64(Access.content.count), range: 0..<100, shouldStop: { false }) {
                bytes += $0
            }
            return bytes
        }
        cluster.api.set(["a": config("wrong"), "b": config("0ld"), "c": config(right)])
        #expect(try read(cluster) == Array(Access.content[0..<100]))
        let other = try Cluster()
        defer { other.api.stop() }
        other.api.set(["a": config("wrong"), "b": config("0ld")])
        // Again: the next request tries again what was refused.
        for _ in 0..<2 {
            let error = #expect(throws: OCIError.self) { try read(other) }
            #expect(error?.code == .unauthorized, "\(String(describing: error))")
            #expect(error?.description.contains("0ld") == false)
        }
    }
}
