import LaminaDigest
import LaminaTestSupport
import Testing

@testable import LaminaOCI

/// The registry of these tests behind two proxies; `hosts` says that one is a mirror of the other.
private struct Mirrored {
    let mirror: CountingProxy
    let registry: CountingProxy
    private let root: String
    var hosts: String { root + "/certs" }

    init() throws {
        let port = try Access.registry.get().port
        (mirror, registry) = (try CountingProxy(upstream: port), try CountingProxy(upstream: port))
        root = try Access.directory([
            "certs/\(registry.host)/hosts.toml":
                "server = \"http://\(registry.host)\"\n[host.\"http://\(mirror.host)\"]"
        ])
    }

    func stop() {
        mirror.stop()
        registry.stop()
        removeTree(root)
    }
}

extension RegistryAccessTests {
    @Test(
        "a mirror that is down, stalls, refuses, lacks it or lies about its size is passed over, each range once",
        arguments: 0..<6)
    func mirrors(kind: Int) throws {
        let digest = try push()
        let mirrored = try Mirrored()
        defer { mirrored.stop() }
        let (mirror, registry) = (mirrored.mirror, mirrored.registry)
        switch kind {
        case 0: mirror.stop()
        case 1: mirror.faults.stallAfter = 1000
        case 2: mirror.faults.status = 403
        case 3: mirror.faults.status = 404
        case 4: mirror.faults.fields = ["Content-Range": "bytes 0-2999999/9999999"]
        default: mirror.faults.status = 503
        }
        let tale = Tale()
        let source = try source(
            registry.host, hosts: mirrored.hosts, settings: tale.settings { $0.stallLimit = .milliseconds(500) })
        #expect(source.location == "http://\(registry.host)/test/access")
        #expect(try read(source, digest, 0..<500_000))
        #expect(try read(source, digest, 500_000..<1_000_000))
        #expect(tale.text.contains("next: ") && tale.text.contains(mirror.host))
        #expect(registry.sentByteCount() + (kind == 1 ? 2000 : 0) >= 1_000_000 - 2000)
        #expect(registry.repeatedByteCount(of: digest) == 0)
        if kind != 0 {
            #expect(mirror.requests.first?.path.hasSuffix("?ns=127.0.0.1%3A\(registry.port)") == true)
            #expect(registry.requests.allSatisfy { !$0.path.contains("ns=") })
            // After a failure it is asked last; a missing blob is not a failure.
            if kind != 3 { #expect(mirror.requests.count <= 2) }
        }
        // If no server is left, the error names both.
        registry.stop()
        mirror.stop()
        let error = #expect(throws: OCIError.self) { try read(source, digest) }
        #expect(error?.message.contains(mirror.host) == true && error?.message.contains(registry.host) == true)
    }

    @Test(
        "a mirror that is slow is left for the next server, which goes on behind its last byte, and serves where nobody else can"
    )
    func slowMirror() throws {
        let digest = try push()
        let mirrored = try Mirrored()
        defer { mirrored.stop() }
        let (mirror, registry) = (mirrored.mirror, mirrored.registry)
        // The proxy sends at least a piece of 4 KiB at once.
        mirror.faults.bytesPerSecond = 12 << 10
        let tale = Tale()
        func anew() throws -> RegistrySource {
            try self.source(
                registry.host, hosts: mirrored.hosts, settings: tale.settings { $0.slowLimit = .seconds(1) })
        }
        let source = try anew()
        #expect(try read(source, digest))
        #expect(tale.text.contains("next: only ") && tale.text.contains(mirror.host))
        #expect(mirror.sentByteCount() > 4000 && mirror.sentByteCount() < 100_000)
        // What was on its way when the mirror was left may come twice: one piece.
        #expect(registry.requests.count == 1)
        #expect(registry.requests[0].sent.lowerBound >= mirror.requests[0].sent.upperBound - 4096)
        #expect(registry.requests[0].sent.lowerBound <= mirror.requests[0].sent.upperBound)
        // It is remembered for longer than a failure.
        #expect(try read(source, digest, 0..<100_000))
        #expect(mirror.requests.count == 1)
        // A mirror that is fast enough is not left.
        mirror.faults.bytesPerSecond = 300_000
        #expect(try read(anew(), digest, 0..<600_000))
        #expect(registry.requests.count == 2)
        // Slow is better than nothing: for a client that knows it already, and for one that has to find out.
        registry.stop()
        mirror.faults.bytesPerSecond = 12 << 10
        for source in [source, try anew()] {
            mirror.reset()
            #expect(try read(source, digest, 1_000_000..<1_020_000))
            #expect(mirror.repeatedByteCount(of: digest) <= 4096)
        }
        #expect(mirror.requests.count == 2)
    }

    @Test("a mirror that gives wrong bytes is not asked for that blob again; manifests are checked at once")
    func lies() throws {
        let digest = try push()
        let mirrored = try Mirrored()
        defer { mirrored.stop() }
        let (mirror, registry) = (mirrored.mirror, mirrored.registry)
        mirror.faults.corruptions = [.init(digest: digest, offset: 777)]
        let source = try source(registry.host, hosts: mirrored.hosts, settings: Tale().settings())
        let descriptor = Descriptor(mediaType: "", digest: digest, size: Int64(Access.content.count))
        #expect(try source.blob(descriptor, limit: 1 << 24) == Access.content)
        #expect(mirror.requests.count == 1 && registry.requests.count == 1)
        #expect(try read(source, digest, 0..<1000))
        #expect(mirror.requests.count == 1)
        // Both lie: that is reported, and not tried for ever.
        registry.faults.corruptions = mirror.faults.corruptions
        let error = #expect(throws: OCIError.self) { try source.blob(descriptor, limit: 1 << 24) }
        #expect(error?.code == .digestMismatch)
        // A manifest with another digest: the next server has the right one.
        let layout = try Access.registry.get().push(layout: Fixtures.layout("estargz"), name: "test/access", tag: "m")
        mirror.faults = Faults()
        mirror.faults.scope = .manifests
        mirror.faults.body = Array("{}".utf8)
        #expect(try SHA256.hash(source.manifest(.digest(layout)) { false }.bytes) == layout)
    }
}
