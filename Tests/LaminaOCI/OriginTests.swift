import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaOCI

@Suite("Where a URL leads")
struct OriginTests {
    private func source(_ host: String, credentials: String) throws -> RegistrySource {
        let registries = Registries(
            hosts: HostsConfiguration(directories: []),
            credentials: CredentialStore(file: credentials, defaultFile: nil),
            settings: Tale().settings { $0.tryLimit = 1 })
        return RegistrySource(client: try registries.client(for: host, plainHTTP: false), repository: "test/origin")
    }

    @Test(
        "scheme, host and port are those that libcurl connects to",
        arguments: [
            ("http://registry", "http://registry"), ("HTTPS://Registry.Example:443/v2", "https://registry.example"),
            ("http://registry:80?x=/y@z", "http://registry"), ("https://registry:80/", "https://registry:80"),
            ("http://[::1]:5000/v2/", "http://[::1]:5000"), ("http://127.1/", "http://127.0.0.1"),
            ("http://0x7f000001:5000/", "http://127.0.0.1:5000"), ("http://registry/\\@elsewhere/", "http://registry"),
            ("http://registry#@elsewhere/", "http://registry"), ("http:///v2", "http://v2"),
        ])
    func origins(url: String, origin: String) {
        #expect(Origin(of: url)?.text == origin)
    }

    @Test(
        "what has a user in it, or is no URL of HTTP, leads nowhere",
        arguments: [
            "http://registry\\@elsewhere/", "http://user@registry/", "http://user:word@registry/", "http://@registry/",
            "ftp://registry/", "registry/v2", "//registry/", "http://", "http://reg istry/",
            "http://registry:x/", "http://registry:99999/", "file:///etc/passwd", "http://registry\0.elsewhere/",
        ])
    func nowhere(url: String) {
        #expect(Origin(of: url) == nil)
    }

    @Test("a URL is shown without user, password, query, and what would turn a terminal over")
    func shown() {
        #expect(Origin.withoutQuery("https://a/b?Signature=hunter2") == "https://a/b")
        #expect(Origin.withoutQuery("https://user:hunter2@a/b#c") == "https://…@a/b")
        #expect(Origin.withoutQuery("https://a/\u{1B}[2J\u{202E}b") == "https://a/?[2J?b")
    }

    @Test("a redirect that two parsers read differently gets nothing that is the registry's")
    func deceit() throws {
        let elsewhere = try ScriptedServer { _ in ScriptedServer.Answer(200, [:], "x") }
        defer { elsewhere.stop() }
        for form in ["http://REGISTRY\\@ELSEWHERE/", "http://REGISTRY@ELSEWHERE/", "http://REGISTRY%2f@ELSEWHERE/"] {
            let registry = try ScriptedServer { request in
                if request.authorization == nil {
                    return ScriptedServer.Answer(401, ["WWW-Authenticate": "Basic realm=\"x\""])
                }
                let host = request.host ?? ""
                let place = form.replacing("REGISTRY", with: host).replacing("ELSEWHERE", with: elsewhere.host)
                return ScriptedServer.Answer(307, ["Location": place])
            }
            defer { registry.stop() }
            let root = try Access.directory(["creds.json": Access.config(registry.host)])
            defer { removeTree(root) }
            let source = try source(registry.host, credentials: root + "/creds.json")
            let error = try #require(throws: OCIError.self) {
                _ = try source.manifest(.tag("latest"), shouldStop: { false })
            }
            #expect(!error.description.contains("pass:word"), "\(error)")
            #expect(registry.requests.contains { $0.authorization != nil }, "\(form)")
            #expect(elsewhere.requests.allSatisfy { $0.authorization == nil }, "\(form): \(elsewhere.requests)")
        }
    }

    @Test("what a registry says is told without what it was shown, and on one line")
    func echo() throws {
        let registry = try ScriptedServer { request in
            guard let shown = request.authorization else {
                return ScriptedServer.Answer(401, ["WWW-Authenticate": "Basic realm=\"x\""])
            }
            let message = "no, \(shown) pass:word https://store/x?Signature=hunter2 \\u001b[2J\\nlamina: all is well"
            return ScriptedServer.Answer(403, [:], #"{"errors":[{"code":"DENIED","message":"\#(message)"}]}"#)
        }
        defer { registry.stop() }
        let root = try Access.directory(["creds.json": Access.config(registry.host)])
        defer { removeTree(root) }
        let source = try source(registry.host, credentials: root + "/creds.json")
        let error = try #require(throws: OCIError.self) {
            _ = try source.manifest(.tag("latest"), shouldStop: { false })
        }
        let text = error.description
        #expect(text.contains("DENIED: no,") && text.contains("https://store/x"), "\(text)")
        for secret in ["pass:word", Base64.encode("tester:pass:word".utf8), "hunter2", "\n", "\u{1B}"] {
            #expect(!text.contains(secret), "\(text)")
        }
    }
}
