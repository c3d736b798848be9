import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaOCI

/// What the tests of this file share; it ends with the process.
enum Access {
    static let registry: Result<RegistryFixture, any Error> = Result { try RegistryFixture() }
    static let authority: Result<TestAuthority, any Error> = Result { try TestAuthority() }
    static let password = "pass:word"
    /// `htpasswd -nbBC 4 tester pass:word`
    static let htpasswd = "tester:$2y$04$c3QK1lim/qBgbW2WkdV9N.3Un/dvi5E8Md6r7QGKETZBdXLvwRm3C"
    static let content = noise(3_000_000, seed: 77)

    /// A scratch directory with files in it.
    static func directory(_ files: [String: String]) throws -> String {
        let root = try temporaryDirectory("access")
        for (name, text) in files {
            let path = "\(root)/\(name)"
            try createDirectories(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
            let bytes = Array(text.utf8)
            try bytes.withUnsafeBytes { try File(path, O_WRONLY | O_CREAT).write($0, at: 0) }
        }
        return root
    }

    /// A docker configuration for one registry.
    static func config(_ host: String, password: String = password) -> String {
        #"{"auths": {"\#(host)": {"auth": "\#(Base64.encode("tester:\(password)".utf8))"}}}"#
    }
}

/// What is told of retries and of servers that are given up.
final class Tale: Sendable {
    private let lines = Mutex<[String]>([])
    var text: String { lines.withLock { $0.joined(separator: "\n") } }

    func settings(_ change: (inout RegistryClient.Settings) -> Void = { _ in }) -> RegistryClient.Settings {
        var settings = RegistryClient.Settings()
        settings.backoff = .milliseconds(10)
        settings.onRetry = { failure, _ in self.lines.withLock { $0.append("retry: \(failure)") } }
        settings.onFallThrough = { failure in self.lines.withLock { $0.append("next: \(failure)") } }
        change(&settings)
        return settings
    }
}

@Suite("Registries as they are", .serialized)
struct RegistryAccessTests {
    private func source(
        _ host: String, hosts: String? = nil, credentials: String? = nil, settings: RegistryClient.Settings
    ) throws -> RegistrySource {
        let registries = Registries(
            hosts: HostsConfiguration(directories: hosts.map { [$0] } ?? []),
            credentials: CredentialStore(file: credentials, defaultFile: nil), settings: settings)
        return RegistrySource(client: try registries.client(for: host, plainHTTP: false), repository: "test/access")
    }

    private func push() throws -> Digest { try Access.registry.get().pushBlob(Access.content, name: "test/access") }

    private func read(_ source: RegistrySource, _ digest: Digest, _ range: Range<Int64>? = nil) throws -> Bool {
        let size = Int64(Access.content.count)
        let range = range ?? 0..<size
        var bytes: [UInt8] = []
        try source.read(digest, size: size, range: range, shouldStop: { false }) { bytes += $0 }
        return bytes == Array(Access.content[Int(range.lowerBound)..<Int(range.upperBound)])
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
        // Docker's files beside each other do as well.
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
        #expect(untrusted?.code == .network && untrusted?.message.contains("hosts.toml") == true)
        let anonymous = try failure(hosts: "/certs", credentials: nil)
        #expect(
            anonymous?.code == .unauthorized
                && anonymous?.message.contains("there are none for \(registry.host)") == true)
        let refused = try failure(hosts: "/certs", credentials: "/wrong.json")
        #expect(refused?.code == .unauthorized && refused?.message.contains("\(root)/wrong.json") == true)
        #expect(refused?.description.contains("hunter2") == false)
    }

    // MARK: Tokens

    @Test(
        "a token is fetched once for many ranges, and one that expires within a layer is renewed before and after it is refused"
    )
    func tokens() throws {
        let digest = try push()
        let proxy = try CountingProxy(upstream: Access.registry.get().port)
        let tokens = try TokenServer(
            wants: .basic(Base64.encode("tester:\(Access.password)".utf8)), lifetime: 5)
        proxy.tokens = tokens
        defer {
            proxy.stop()
            tokens.stop()
        }
        let root = try Access.directory(["creds.json": Access.config(proxy.host)])
        defer { removeTree(root) }
        let source = try source(proxy.host, credentials: root + "/creds.json", settings: Tale().settings())
        for part in 0..<10 as Range<Int64> { #expect(try read(source, digest, part * 1000..<part * 1000 + 1000)) }
        #expect(tokens.issued == 1)
        #expect(proxy.requests.map(\.status) == [401] + [Int](repeating: 206, count: 10))
        // Refused while it seems to be good: renewed, and the range is asked for again.
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
        // Renewed before it expires: nobody was refused.
        #expect(!proxy.requests.map(\.status).contains(401))
        #expect(
            tokens.requests.allSatisfy {
                $0.contains("scope=repository%3Atest%2Faccess%3Apull") && $0.contains("account=tester")
            })
    }

    @Test("an identity token is exchanged by POST, and many threads get one token")
    func identityToken() throws {
        let digest = try push()
        let proxy = try CountingProxy(upstream: Access.registry.get().port)
        let tokens = try TokenServer(wants: .refreshToken("identity"))
        proxy.tokens = tokens
        defer {
            proxy.stop()
            tokens.stop()
        }
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
        let proxy = try CountingProxy(upstream: Access.registry.get().port)
        let tokens = try TokenServer(wants: .basic("nobody"))
        proxy.tokens = tokens
        defer {
            proxy.stop()
            tokens.stop()
        }
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
        let port = try Access.registry.get().port
        let (proxy, store) = (try CountingProxy(upstream: port), try CountingProxy(upstream: port))
        let tokens = try TokenServer()
        proxy.tokens = tokens
        defer {
            proxy.stop()
            store.stop()
            tokens.stop()
        }
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
        // The URL expires in the middle: asked for again, without a wait and without a byte twice.
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

    // MARK: Mirrors

    @Test(
        "a mirror that is down, stalls, refuses, lacks it or lies about its size is passed over, each range once",
        arguments: 0..<6)
    func mirrors(kind: Int) throws {
        let digest = try push()
        let port = try Access.registry.get().port
        let (mirror, registry) = (try CountingProxy(upstream: port), try CountingProxy(upstream: port))
        defer {
            mirror.stop()
            registry.stop()
        }
        switch kind {
        case 0: mirror.stop()
        case 1: mirror.faults.stallAfter = 1000
        case 2: mirror.faults.status = 403
        case 3: mirror.faults.status = 404
        case 4: mirror.faults.fields = ["Content-Range": "bytes 0-2999999/9999999"]
        default: mirror.faults.status = 503
        }
        let root = try Access.directory([
            "certs/\(registry.host)/hosts.toml":
                "server = \"http://\(registry.host)\"\n[host.\"http://\(mirror.host)\"]"
        ])
        defer { removeTree(root) }
        let tale = Tale()
        let source = try source(
            registry.host, hosts: root + "/certs", settings: tale.settings { $0.stallLimit = .milliseconds(500) })
        #expect(source.location == "http://\(registry.host)/test/access")
        #expect(try read(source, digest, 0..<500_000))
        #expect(try read(source, digest, 500_000..<1_000_000))
        #expect(tale.text.contains("next: ") && tale.text.contains(mirror.host))
        #expect(registry.sentByteCount() + (kind == 1 ? 2000 : 0) >= 1_000_000 - 2000)
        #expect(registry.repeatedByteCount(of: digest) == 0)
        if kind != 0 {
            #expect(mirror.requests.first?.path.hasSuffix("?ns=127.0.0.1%3A\(registry.port)") == true)
            #expect(registry.requests.allSatisfy { !$0.path.contains("ns=") })
            // After a failure it is asked last; that it lacks a blob is none.
            if kind != 3 { #expect(mirror.requests.count <= 2) }
        }
        // With nobody left, the error tells of both.
        registry.stop()
        mirror.stop()
        let error = #expect(throws: OCIError.self) { try read(source, digest) }
        #expect(error?.message.contains(mirror.host) == true && error?.message.contains(registry.host) == true)
    }

    @Test("a mirror that gives wrong bytes is not asked for that blob again; manifests are checked at once")
    func lies() throws {
        let digest = try push()
        let port = try Access.registry.get().port
        let (mirror, registry) = (try CountingProxy(upstream: port), try CountingProxy(upstream: port))
        defer {
            mirror.stop()
            registry.stop()
        }
        mirror.faults.corruptions = [.init(digest: digest, offset: 777)]
        let root = try Access.directory([
            "certs/\(registry.host)/hosts.toml":
                "server = \"http://\(registry.host)\"\n[host.\"http://\(mirror.host)\"]"
        ])
        defer { removeTree(root) }
        let source = try source(registry.host, hosts: root + "/certs", settings: Tale().settings())
        let descriptor = Descriptor(mediaType: "", digest: digest, size: Int64(Access.content.count))
        #expect(try source.blob(descriptor, limit: 1 << 24) == Access.content)
        #expect(mirror.requests.count == 1 && registry.requests.count == 1)
        #expect(try read(source, digest, 0..<1000))
        #expect(mirror.requests.count == 1)
        // Both lie: told, not tried for ever.
        registry.faults.corruptions = mirror.faults.corruptions
        let error = #expect(throws: OCIError.self) { try source.blob(descriptor, limit: 1 << 24) }
        #expect(error?.code == .digestMismatch)
        // A manifest of another digest: the next server has it.
        let layout = try Access.registry.get().push(layout: Fixtures.layout("estargz"), name: "test/access", tag: "m")
        mirror.faults = Faults()
        mirror.faults.scope = .manifests
        mirror.faults.body = Array("{}".utf8)
        #expect(try SHA256.hash(source.manifest(.digest(layout)) { false }.bytes) == layout)
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
        // Blobs are asked for as they are: a range counts the bytes that are sent.
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

/// A gzip file of stored blocks (RFC 1952, RFC 1951 §3.2.4).
func storedGzip(_ bytes: [UInt8]) -> [UInt8] {
    var crc: UInt32 = ~0
    for byte in bytes {
        crc ^= UInt32(byte)
        for _ in 0..<8 { crc = crc >> 1 ^ (crc & 1 == 1 ? 0xEDB8_8320 : 0) }
    }
    let little = { (value: UInt32, count: Int) in
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
    }
    var file: [UInt8] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255]
    var rest = bytes[...]
    repeat {
        let block = rest.prefix(60_000)
        rest = rest.dropFirst(block.count)
        file += [rest.isEmpty ? 1 : 0] + little(UInt32(block.count), 2) + little(~UInt32(block.count), 2) + block
    } while !rest.isEmpty
    return file + little(~crc, 4) + little(UInt32(bytes.count), 4)
}
