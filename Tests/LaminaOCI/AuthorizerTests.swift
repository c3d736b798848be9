import LaminaDigest
import LaminaTestSupport
import Testing

@testable import LaminaOCI

@Suite("What is shown to a registry")
struct AuthorizerTests {
    private static let content = "content"

    private func read(_ repository: String, of client: RegistryClient) throws -> String {
        var bytes: [UInt8] = []
        let content = Array(Self.content.utf8)
        try RegistrySource(client: client, repository: repository).read(
            SHA256.hash(content), size: Int64(content.count), range: 0..<Int64(content.count), shouldStop: { false }
        ) { bytes += $0 }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A registry, and on the same port the service for its tokens, which are the names of the repositories that they are for.
    private func registry(lifetime: Int) throws -> ScriptedServer {
        try ScriptedServer { request in
            if request.path.hasPrefix("/token?") {
                let names = ["a", "b"].filter { request.path.contains("repository%3A\($0)%3Apull") }
                return .init(200, [:], #"{"token": "\#(names.joined())", "expires_in": \#(lifetime)}"#)
            }
            let name = request.path.hasPrefix("/v2/a/") ? "a" : "b"
            guard request.authorization == "Bearer \(name)" else {
                let realm = "http://\(request.host ?? "")/token"
                let challenge = #"Bearer realm="\#(realm)",service="s",scope="repository:\#(name):pull,push""#
                return .init(401, ["WWW-Authenticate": challenge])
            }
            return .init(200, [:], Self.content)
        }
    }

    /// What was asked for, in short: the repository whose blob it was, or the scope of a token.
    private func asked(_ server: ScriptedServer) -> [String] {
        server.requests.map { request in
            guard request.path.hasPrefix("/token?") else { return String(request.path.dropFirst(4).prefix(1)) }
            let scope = request.path.split { "?&".contains($0) }.first { $0.hasPrefix("scope=") }
            return scope.map(String.init) ?? "no scope"
        }
    }

    @Test("a token for one repository is not asked for with the scope of another one of the same registry")
    func scopes() throws {
        let server = try registry(lifetime: 300)
        defer { server.stop() }
        let client = try Registries(settings: Tale().settings()).client(for: server.host, plainHTTP: true)
        for repository in ["a", "b", "a"] { #expect(try read(repository, of: client) == Self.content) }
        #expect(
            asked(server) == [
                // As the registry said, and then as every registry has it, without a question to this one.
                "a", "scope=repository%3Aa%3Apull%2Cpush", "a", "scope=repository%3Ab%3Apull", "b", "a",
            ])
    }

    @Test("a token is renewed with the scope that the registry named for its repository")
    func renewal() throws {
        // Renewed after three quarters of a second.
        let server = try registry(lifetime: 1)
        defer { server.stop() }
        let client = try Registries(settings: Tale().settings()).client(for: server.host, plainHTTP: true)
        #expect(try read("a", of: client) == Self.content)
        _ = pause(.milliseconds(1000), shouldStop: { false })
        #expect(try read("a", of: client) == Self.content)
        let scope = "scope=repository%3Aa%3Apull%2Cpush"
        #expect(asked(server) == ["a", scope, "a", scope, "a"])
    }
}
