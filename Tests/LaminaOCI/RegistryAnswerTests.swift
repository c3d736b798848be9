import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaOCI

private typealias Answer = ScriptedServer.Answer

/// A registry with one manifest that requires tokens from its own service; its answers can be changed.
private final class OddRegistry: Sendable {
    struct Script {
        /// Its answer to a token that it does not know; nil: 401 with a challenge.
        var refusal: Answer?
        /// Its answer instead of the manifest to a client with a good token.
        var manifest: Answer?
        /// The token service's answer; `TOKEN` is a good one.
        var token: Answer?
        var wantsToken = true
        /// Tokens up to this number are not known any more.
        var forgotten = 0
        var issued = 0
    }

    static let manifest =
        #"{"schemaVersion":2,"config":{"digest":"sha256:\#(String(repeating: "0", count: 64))","size":2},"layers":[]}"#
    let script = Mutex(Script())
    let server: ScriptedServer
    private let port = Mutex("")

    init() throws {
        let box = Mutex<(@Sendable (ScriptedServer.Request) -> Answer)?>(nil)
        let shared = Box(box)
        server = try ScriptedServer { request in shared.answer.withLock { $0 }?(request) ?? Answer(500) }
        let host = server.host
        shared.answer.withLock { $0 = { [weak self] request in self?.answer(request, host) ?? Answer(500) } }
    }

    private final class Box: Sendable {
        let answer: Mutex<(@Sendable (ScriptedServer.Request) -> Answer)?>
        init(_ answer: consuming Mutex<(@Sendable (ScriptedServer.Request) -> Answer)?>) { self.answer = answer }
    }

    private func answer(_ request: ScriptedServer.Request, _ host: String) -> Answer {
        script.withLock { script in
            if request.path.hasPrefix("/token") {
                script.issued += 1
                var answer = script.token ?? Answer(200, [:], #"{"token":"TOKEN","expires_in":3600}"#)
                answer.body = answer.body.replacing("TOKEN", with: "t\(script.issued)")
                return answer
            }
            if request.path.hasPrefix("/login") {
                return Answer(200, ["Content-Type": "text/html; charset=utf-8"], "<html>Please log in</html>")
            }
            guard script.wantsToken else { return script.manifest ?? Answer(200, [:], Self.manifest) }
            let number = request.authorization.flatMap { Int($0.dropFirst("Bearer t".count)) }
            if let number, number > script.forgotten { return script.manifest ?? Answer(200, [:], Self.manifest) }
            let challenge = ["WWW-Authenticate": #"Bearer realm="http://\#(host)/token",service="odd""#]
            return number == nil ? Answer(401, challenge) : script.refusal ?? Answer(401, challenge)
        }
    }

    var issued: Int { script.withLock { $0.issued } }
    func set(_ change: (inout Script) -> Void) { script.withLock { change(&$0) } }

    func source(hosts: String? = nil, mirrorOf host: String? = nil) throws -> RegistrySource {
        let registries = Registries(
            hosts: HostsConfiguration(directories: hosts.map { [$0] } ?? []), credentials: .none,
            settings: Tale().settings { $0.tryLimit = 2 })
        return RegistrySource(
            client: try registries.client(for: host ?? server.host, plainHTTP: false), repository: "test/odd")
    }
}

@Suite("what registries and what stands before them answer", .serialized)
struct RegistryAnswerTests {
    private static let html = ["Content-Type": "text/html"]
    private static let page = "<html><h1>nginx</h1></html>"
    private static let denied =
        #"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#

    static let refusals: [ScriptedServer.Answer?] = [
        nil, Answer(401), Answer(401, html, page), Answer(401, ["WWW-Authenticate": "Negotiate"]), Answer(403),
        Answer(403, html, page), Answer(403, [:], denied), Answer(400), Answer(400, [:], denied),
        Answer(400, html, page),
    ]

    @Test(
        "a token that is refused while it seems good is dropped and asked for anew, once, whatever the refusal looks like",
        arguments: refusals)
    func staleTokens(_ refusal: ScriptedServer.Answer?) throws {
        let registry = try OddRegistry()
        defer { registry.server.stop() }
        registry.set { $0.refusal = refusal }
        let source = try registry.source()
        #expect(try source.manifest(.tag("x")) { false }.bytes == Array(OddRegistry.manifest.utf8))
        #expect(registry.issued == 1)
        registry.set { $0.forgotten = 1 }
        #expect(try source.manifest(.tag("x")) { false }.bytes == Array(OddRegistry.manifest.utf8))
        #expect(try source.manifest(.tag("x")) { false }.bytes == Array(OddRegistry.manifest.utf8))
        #expect(registry.issued == 2)
        // Refused with any token: one more token is fetched, then that is the answer.
        registry.set { $0.forgotten = .max }
        let before = registry.server.requests.count
        let error = #expect(throws: OCIError.self) { try source.manifest(.tag("x")) { false } }
        #expect(registry.server.requests.count - before <= 6, "\(registry.server.requests.suffix(8))")
        #expect(error?.message.contains(registry.server.host) == true && error?.isTransient == false)
    }

    /// What comes instead of a manifest, whether that is a final refusal, and what the error says.
    static let manifests: [(answer: ScriptedServer.Answer, code: OCIError.Code, words: String)] = [
        (Answer(200, html, page), .http, "'text/html'"), (Answer(200, [:], page), .http, "without a Content-Type"),
        (Answer(200, ["Content-Type": "application/json"], page), .http, "'application/json'"),
        (Answer(200, ["Content-Type": "application/vnd.oci.image.manifest.v1+json"]), .http, "0 bytes"),
        (Answer(200, html, page, hasLength: false), .http, "'text/html'"),
        (Answer(206, html, page), .http, "a part of"),
        // JSON, and no manifest.
        (Answer(200, ["Content-Type": "application/json"], #"{"message":"Forbidden"}"#), .http, "'application/json'"),
        (Answer(200, [:], "{}"), .http, "2 bytes"), (Answer(200, [:], #""ok""#), .http, "4 bytes"),
        (Answer(200, [:], "[]"), .http, "2 bytes"), (Answer(200, [:], "null"), .http, "4 bytes"),
        (Answer(302, ["Location": "/login"]), .http, "/login"),
        (Answer(307, ["Location": "/login?next=x"]), .http, "'text/html'"),
        (Answer(302), .http, "302"), (Answer(301, ["Location": "ftp://x/"]), .http, "no place"),
        (Answer(204), .http, "204"),
        (Answer(400), .http, "400"), (Answer(401), .unauthorized, "credentials"),
        (Answer(403, html, page), .unauthorized, "403"),
        (Answer(404, html, page), .notFound, "404"), (Answer(405), .http, "405"), (Answer(410), .http, "410"),
        (Answer(416), .http, "416"), (Answer(429, ["Retry-After": "0"]), .unavailable, "429"),
        (Answer(451), .http, "451"),
        (Answer(500, html, page), .unavailable, "500"), (Answer(502, html, page), .unavailable, "502"),
        (Answer(503), .unavailable, "503"),
        (
            Answer(
                200, ["Docker-Content-Digest": "sha256:\(String(repeating: "1", count: 64))"],
                #"{"schemaVersion":2}"#),
            .digestMismatch, "sha256:1111"
        ),
        (Answer(400, [:], "Client sent an HTTP request to an HTTPS server.\n"), .tls, "speaks TLS"),
        (Answer(400, html, "<center>The plain HTTP request was sent to HTTPS port</center>"), .tls, "speaks TLS"),
    ]

    @Test("what is no manifest is told with who sent it, and the next server is asked", arguments: manifests)
    func oddManifests(_ answer: ScriptedServer.Answer, _ code: OCIError.Code, _ words: String) throws {
        let (mirror, registry) = (try OddRegistry(), try OddRegistry())
        defer {
            mirror.server.stop()
            registry.server.stop()
        }
        mirror.set { ($0.wantsToken, $0.manifest) = (false, answer) }
        let error = #expect(throws: OCIError.self) { try mirror.source().manifest(.tag("x")) { false } }
        #expect(error?.code == code, "\(String(describing: error))")
        #expect(
            error?.message.contains(words) == true && error?.message.contains(mirror.server.host) == true,
            "\(String(describing: error))")
        let root = try Access.directory([
            "certs/\(registry.server.host)/hosts.toml":
                "server = \"http://\(registry.server.host)\"\n[host.\"http://\(mirror.server.host)\"]"
        ])
        defer { removeTree(root) }
        let source = try registry.source(hosts: root + "/certs")
        #expect(try source.manifest(.tag("x")) { false }.bytes == Array(OddRegistry.manifest.utf8))
        // And `doctor` shows the reason.
        let image = try ImageReference(parsing: "\(registry.server.host)/test/odd:x")
        let registries = Registries(
            hosts: HostsConfiguration(directories: [root + "/certs"]), credentials: .none, settings: Tale().settings())
        let visits = try #require(try RegistryProbe(image, plainHTTP: false, registries: registries)).visits { false }
        #expect(visits.first?.failure?.message.contains(words) == true && visits.last?.failure == nil)
    }

    /// What a token service says, and whether a token came with it.
    static let tokens: [(answer: ScriptedServer.Answer, isGood: Bool)] = [
        (Answer(200, html, #"{"token":"TOKEN"}"#), true),
        (Answer(200, [:], #"{"access_token":"TOKEN","expires_in":"60"}"#), true),
        (Answer(200, [:], #"{"token":"TOKEN","expires_in":0}"#), true),
        (Answer(200, [:], #"{"token":"TOKEN","expires_in":-5,"issued_at":"?"}"#), true),
        (Answer(200, [:], #"{"token":"","access_token":"TOKEN","expires_in":1e99}"#), true),
        (Answer(200, [:], "{}"), false),
        (Answer(200, html, page), false), (Answer(200), false), (Answer(200, [:], #"{"token":"a b"}"#), false),
        (Answer(204), false), (Answer(302, ["Location": "/login"]), false), (Answer(400, [:], denied), false),
        (Answer(401), false), (Answer(403, html, page), false), (Answer(404), false), (Answer(500), false),
        (Answer(503), false),
    ]

    @Test(
        "a token service's answer is a token, or an error that names the service and says nothing of secrets",
        arguments: tokens)
    func oddTokens(_ answer: ScriptedServer.Answer, _ isGood: Bool) throws {
        let registry = try OddRegistry()
        defer { registry.server.stop() }
        registry.set { $0.token = answer }
        let source = try registry.source()
        if isGood {
            #expect(try source.manifest(.tag("x")) { false }.bytes == Array(OddRegistry.manifest.utf8))
        } else {
            let error = #expect(throws: OCIError.self) { try source.manifest(.tag("x")) { false } }
            #expect(error?.message.contains("\(registry.server.host)/token") == true, "\(String(describing: error))")
        }
    }

    @Test(
        "a blob that comes as a page of HTML is asked of the next server, and where a redirect led there the registry is asked again"
    )
    func oddBlobs() throws {
        let digest = try Access.registry.get().pushBlob(Access.content, name: "test/odd")
        let registry = try CountingProxy(upstream: Access.registry.get().port)
        defer { registry.stop() }
        let size = Int64(Access.content.count)
        for answer in [
            Answer(200, Self.html, Self.page), Answer(200, Self.html, Self.page, hasLength: false),
            Answer(302, ["Location": "/login"]),
        ] {
            let mirror = try OddRegistry()
            defer { mirror.server.stop() }
            mirror.set { ($0.wantsToken, $0.manifest) = (false, answer) }
            let root = try Access.directory([
                "certs/\(registry.host)/hosts.toml":
                    "server = \"http://\(registry.host)\"\n[host.\"http://\(mirror.server.host)\"]"
            ])
            defer { removeTree(root) }
            let source = try mirror.source(hosts: root + "/certs", mirrorOf: registry.host)
            for range in [0..<1000, 2_000_000..<2_000_500] as [Range<Int64>] {
                var bytes: [UInt8] = []
                try source.read(digest, size: size, range: range, shouldStop: { false }) { bytes += $0 }
                #expect(bytes == Array(Access.content[Int(range.lowerBound)..<Int(range.upperBound)]))
            }
        }
    }
}
