import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaOCI

@Suite("Registries as they are", .serialized)
struct RegistryAccessTests {
    func source(
        _ host: String, hosts: String? = nil, credentials: String? = nil, settings: RegistryClient.Settings
    ) throws -> RegistrySource {
        let registries = Registries(
            hosts: HostsConfiguration(directories: hosts.map { [$0] } ?? []),
            credentials: CredentialStore(file: credentials, defaultFile: nil), settings: settings)
        return RegistrySource(client: try registries.client(for: host, plainHTTP: false), repository: "test/access")
    }

    func push() throws -> Digest { try Access.registry.get().pushBlob(Access.content, name: "test/access") }

    func read(_ source: RegistrySource, _ digest: Digest, _ range: Range<Int64>? = nil) throws -> Bool {
        let size = Int64(Access.content.count)
        let range = range ?? 0..<size
        var bytes: [UInt8] = []
        try source.read(digest, size: size, range: range, shouldStop: { false }) { bytes += $0 }
        return bytes == Array(Access.content[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    /// A registry that requires tokens, and the service that gives them.
    private struct Gate {
        let proxy: CountingProxy
        let tokens: TokenServer

        init(_ wants: TokenServer.Wants = .nothing, lifetime: Int = 300) throws {
            proxy = try CountingProxy(upstream: Access.registry.get().port)
            tokens = try TokenServer(wants: wants, lifetime: lifetime)
            proxy.tokens = tokens
        }

        func stop() {
            proxy.stop()
            tokens.stop()
        }
    }

    // MARK: TLS

    @Test("TLS with an own CA, HTTP/2 and a password: all of it through hosts.toml and docker's configuration")
    func secured() throws {
        let digest = try push()
        let authority = try Access.authority.get()
        let registry = try RegistryFixture(
            guarded: .init(certificate: authority.server, htpasswd: Access.htpasswd), serving: Access.registry.get())
        defer { registry.stop() }
        let root = try Access.directory([
            "certs/\(registry.host)/hosts.toml": "ca = \"\(authority.certificate)\"",
            "creds.json": Access.config(registry.host), "wrong.json": Access.config(registry.host, password: "hunter2"),
            "certs-none/\(registry.host)/hosts.toml": "server = \"https://\(registry.host)\"",
            "certs-skip/\(registry.host)/hosts.toml": "skip_verify = true",
        ])
        defer { removeTree(root) }
        let settings = Tale().settings { $0.tryLimit = 1 }
        let source = try source(
            registry.host, hosts: root + "/certs", credentials: root + "/creds.json", settings: settings)
        #expect(try read(source, digest))
        #expect(try read(source, digest, 5000..<2_000_000))
        // The protocol of the answers, seen on the way.
        let version = Mutex<String?>(nil)
        var attempt = HostAttempt(
            host: source.client.hosts[0],
            resource: .init(repository: "test/access", path: "blobs/\(digest)", blob: digest, subject: "the blob"),
            session: source.client.session, settings: settings)
        attempt.observe = { exchange, _ in version.withLock { $0 = exchange.httpVersion } }
        _ = try attempt.run(
            into: RangeReceiver(range: 0..<10, size: Int64(Access.content.count), subject: "it") { _ in }
        ) { false }
        #expect(version.withLock { $0 } == "2")
        // Docker's files beside each other work too.
        #expect(
            try read(
                self.source(
                    registry.host, hosts: root + "/certs-skip", credentials: root + "/creds.json", settings: settings),
                digest))
        func failure(hosts: String, credentials: String?) throws -> OCIError? {
            #expect(throws: OCIError.self) {
                try read(
                    self.source(
                        registry.host, hosts: root + hosts, credentials: credentials.map { root + $0 },
                        settings: settings), digest)
            }
        }
        let untrusted = try failure(hosts: "/certs-none", credentials: "/creds.json")
        #expect(untrusted?.code == .tls && untrusted?.message.contains("hosts.toml") == true)
        let anonymous = try failure(hosts: "/certs", credentials: nil)
        #expect(
            anonymous?.code == .unauthorized
                && anonymous?.message.contains("there are none for \(registry.host)") == true)
        let refused = try failure(hosts: "/certs", credentials: "/wrong.json")
        #expect(refused?.code == .unauthorized && refused?.message.contains("\(root)/wrong.json") == true)
        #expect(refused?.description.contains("hunter2") == false)
    }

    @Test("a registry that demands a certificate gets the one of its configuration, and no other host does")
    func clientCertificates() throws {
        let digest = try push()
        let authority = try Access.authority.get()
        let registry = try RegistryFixture(
            guarded: .init(certificate: authority.server, clientAuthority: authority.certificate),
            serving: Access.registry.get())
        defer { registry.stop() }
        let both = try [authority.client.path, authority.client.key].map {
            String(decoding: try readFile($0, limit: 1 << 16), as: UTF8.self)
        }
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        proxy.faults.redirect = "https://\(registry.host)"
        let rude = try CountingProxy(upstream: registry.port)
        defer { rude.stop() }
        rude.faults.endsBehindHandshake = true
        let ca = "ca = \"\(authority.certificate)\"\n"
        let pair = "client = [[\"\(authority.client.path)\", \"\(authority.client.key)\"]]\n"
        let root = try Access.directory([
            "pair/\(registry.host)/hosts.toml": ca + pair,
            "one/\(registry.host)/hosts.toml": ca + "client = \"both.pem\"\n",
            "one/\(registry.host)/both.pem": both.joined(),
            "none/\(registry.host)/hosts.toml": ca, "none/\(rude.host)/hosts.toml": ca,
            "files/\(registry.host)/ca.crt": String(
                decoding: try readFile(authority.certificate, limit: 1 << 16), as: UTF8.self),
            "files/\(registry.host)/me.cert": both[0], "files/\(registry.host)/me.key": both[1],
            "sent/\(proxy.host)/hosts.toml": "server = \"http://\(proxy.host)\"\n" + ca + pair,
        ])
        defer { removeTree(root) }
        let settings = Tale().settings { $0.tryLimit = 1 }
        for way in ["pair", "one", "files"] {
            let source = try source(registry.host, hosts: "\(root)/\(way)", settings: settings)
            #expect(try read(source, digest, 0..<100_000), "\(way)")
        }
        func failure(_ host: String, _ way: String) throws -> OCIError {
            try #require(throws: OCIError.self) {
                try read(self.source(host, hosts: "\(root)/\(way)", settings: settings), digest)
            }
        }
        let refused = try failure(registry.host, "none")
        #expect(refused.code == .network && refused.message.contains(registry.host), "\(refused)")
        #expect(refused.message.contains("client") && refused.message.contains("hosts.toml"), "\(refused)")
        // A reset may overtake the alert that would make it certain.
        let hungUp = try failure(rude.host, "none")
        #expect(hungUp.code == .network && hungUp.message.contains("'client' in hosts.toml"), "\(hungUp)")
        // What the redirecting registry would be shown is not meant for the place that it redirects to.
        let sent = try failure(proxy.host, "sent")
        #expect(sent.message.contains("https://\(registry.host)") && sent.code == .network, "\(sent)")
        #expect(proxy.requests.map(\.status).contains(307))
    }

    // MARK: Tokens

    @Test(
        "a token is fetched once for many ranges, and one that expires within a layer is renewed before and after it is refused"
    )
    func tokens() throws {
        let digest = try push()
        let gate = try Gate(.basic(Base64.encode("tester:\(Access.password)".utf8)), lifetime: 5)
        defer { gate.stop() }
        let (proxy, tokens) = (gate.proxy, gate.tokens)
        let root = try Access.directory(["creds.json": Access.config(proxy.host)])
        defer { removeTree(root) }
        let source = try source(proxy.host, credentials: root + "/creds.json", settings: Tale().settings())
        for part in 0..<10 as Range<Int64> { #expect(try read(source, digest, part * 1000..<part * 1000 + 1000)) }
        #expect(tokens.issued == 1)
        #expect(proxy.requests.map(\.status) == [401] + [Int](repeating: 206, count: 10))
        // Refused while it seems to be good: renewed, and the range is requested again.
        tokens.revoke()
        #expect(try read(source, digest, 0..<500))
        #expect(tokens.issued == 2)
        // A layer that takes longer than the token lives: cut in the middle, it goes on with another token.
        proxy.reset()
        proxy.faults.bytesPerSecond = 300_000
        proxy.faults.cutAfter = 600_000
        #expect(try read(source, digest))
        #expect(tokens.issued > 3)
        #expect(proxy.repeatedByteCount(of: digest) == 0)
        // Renewed before it expires: no request was refused.
        #expect(!proxy.requests.map(\.status).contains(401))
        #expect(
            tokens.requests.allSatisfy {
                $0.contains("scope=repository%3Atest%2Faccess%3Apull") && $0.contains("account=tester")
            })
    }

    @Test("an identity token is exchanged by POST, and many threads get one token")
    func identityToken() throws {
        let digest = try push()
        let gate = try Gate(.refreshToken("identity"))
        defer { gate.stop() }
        let (proxy, tokens) = (gate.proxy, gate.tokens)
        let root = try Access.directory(["creds.json": #"{"auths": {"\#(proxy.host)": {"identitytoken": "identity"}}}"#]
        )
        defer { removeTree(root) }
        let source = try source(proxy.host, credentials: root + "/creds.json", settings: Tale().settings())
        let failures = Mutex(0)
        let threads = try (0..<6).map { number in
            try Thread("reader") {
                let right = try? self.read(source, digest, Int64(number) * 100..<Int64(number) * 100 + 100)
                if right != true { failures.withLock { $0 += 1 } }
            }
        }
        threads.forEach { $0.join() }
        #expect(failures.withLock { $0 } == 0)
        #expect(tokens.issued == 1)
        #expect(tokens.requests.allSatisfy { $0.hasPrefix("POST ") && $0.contains("grant_type=refresh_token") })
    }

    @Test("who may not have a token is told so once, by name and without the password")
    func refusedToken() throws {
        let digest = try push()
        let gate = try Gate(.basic("nobody"))
        defer { gate.stop() }
        let (proxy, tokens) = (gate.proxy, gate.tokens)
        let root = try Access.directory(["creds.json": Access.config(proxy.host, password: "hunter2")])
        defer { removeTree(root) }
        for credentials in [root + "/creds.json", nil] {
            let tale = Tale()
            let source = try source(proxy.host, credentials: credentials, settings: tale.settings())
            let before = tokens.requests.count
            let error = #expect(throws: OCIError.self) { try read(source, digest) }
            #expect(error?.code == .unauthorized)
            #expect(tokens.requests.count == before + 1)
            #expect(error?.description.contains(credentials ?? "no credentials") == true)
            #expect(error?.description.contains("hunter2") == false && tale.text.contains("hunter2") == false)
        }
    }

    // MARK: Redirects

    @Test(
        "a 307 to another host gets neither Authorization nor configured headers, and is remembered until it is refused"
    )
    func redirects() throws {
        let digest = try push()
        let gate = try Gate()
        defer { gate.stop() }
        let proxy = gate.proxy
        let store = try CountingProxy(upstream: Access.registry.get().port)
        defer { store.stop() }
        proxy.faults.redirect = "http://\(store.host)"
        let root = try Access.directory([
            "certs/\(proxy.host)/hosts.toml": "server = \"http://\(proxy.host)\"\n[header]\nX-Key = \"hunter2\""
        ])
        defer { removeTree(root) }
        let source = try source(proxy.host, hosts: root + "/certs", settings: Tale().settings())
        for part in 0..<5 as Range<Int64> { #expect(try read(source, digest, part * 1000..<part * 1000 + 1000)) }
        #expect(proxy.requests.map(\.status) == [401, 307])
        #expect(proxy.requests.last?.authorization?.hasPrefix("Bearer ") == true)
        #expect(proxy.requests.allSatisfy { $0.fields["x-key"] == "hunter2" })
        #expect(store.requests.map(\.status) == [Int](repeating: 206, count: 5))
        #expect(store.requests.allSatisfy { $0.authorization == nil && $0.fields["x-key"] == nil })
        // The URL expires in the middle: a new one is requested, without a wait and without a byte twice.
        store.reset()
        store.faults.cutAfter = 1_000_000
        store.faults.cutCount = 1
        #expect(try read(source, digest))
        store.faults = Faults()
        store.faults.status = 403
        store.faults.statusCount = 1
        #expect(try read(source, digest, 0..<10))
        #expect(store.repeatedByteCount(of: digest) == 10)
        #expect(proxy.requests.map(\.status) == [401, 307, 307, 307])
    }

    // MARK: Answers

    @Test("a manifest that comes gzip-encoded is read, and one that claims it falsely is an error")
    func gzip() throws {
        _ = try Access.registry.get().push(layout: Fixtures.layout("estargz"), name: "test/access", tag: "v1")
        let proxy = try CountingProxy(upstream: Access.registry.get().port)
        defer { proxy.stop() }
        let source = try source(proxy.host, settings: Tale().settings())
        let plain = try source.manifest(.tag("v1")) { false }
        proxy.faults.scope = .manifests
        proxy.faults.body = storedGzip(plain.bytes)
        proxy.faults.fields = ["Content-Encoding": "gzip"]
        #expect(try source.manifest(.tag("v1")) { false }.bytes == plain.bytes)
        #expect(proxy.requests.last?.fields["accept-encoding"] == "gzip")
        proxy.faults.body = plain.bytes
        #expect(throws: OCIError.self) { try source.manifest(.tag("v1")) { false } }
        // Blobs are requested uncompressed by HTTP: a range counts the bytes that are sent.
        let digest = try push()
        #expect(try read(source, digest, 0..<10))
        #expect(proxy.requests.last?.fields["accept-encoding"] == nil)
    }

    @Test("a registry that ignores ranges sends a layer once, whatever parts of it are read by how many threads")
    func spool() throws {
        let digest = try push()
        let size = Int64(Access.content.count)
        let proxy = try CountingProxy(upstream: Access.registry.get().port)
        defer { proxy.stop() }
        proxy.faults.ignoresRange = true
        proxy.faults.cutAfter = 2_000_000
        proxy.faults.cutCount = 1
        let source = try source(proxy.host, settings: Tale().settings())
        let failures = Mutex(0)
        // The end first, as for a table of contents.
        #expect(try read(source, digest, size - 1000..<size))
        let threads = try (0..<4).map { number in
            try Thread("reader") {
                for part in 0..<6 {
                    let start = Int64(part * 4 + number) * (size / 24)
                    if (try? self.read(source, digest, start..<start + size / 24)) != true {
                        failures.withLock { $0 += 1 }
                    }
                }
            }
        }
        threads.forEach { $0.join() }
        #expect(failures.withLock { $0 } == 0)
        // Once; what was on its way when the first request was given up; and again up to the cut.
        #expect(proxy.requests.count <= 3)
        #expect(proxy.sentByteCount() < 3 * size)
    }
}
