import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaOCI

@Suite("a server that gave wrong bytes")
struct DistrustTests {
    private let hosts = ["a:1", "b:1", "c:1"].map { RegistryHost(RegistryClient.Endpoint(scheme: .http, host: $0)) }
    private let blob = SHA256.hash(Array("blob".utf8))
    private let session = RegistrySession(credentials: .none)

    private func trust(_ toc: String?, of repository: String = "r") -> RegistrySession.BlobTrust {
        .init(path: "\(repository)/blobs/\(blob)", blob: blob, toc: toc.map { SHA256.hash(Array($0.utf8)) })
    }

    private func distrust(_ trust: RegistrySession.BlobTrust) -> Bool {
        session.distrust(trust, of: .init(scheme: .http, host: "c:1"), among: hosts)
    }

    @Test("is asked last, and a loop that goes on while there is another one asks each once")
    func once() {
        let trust = trust("toc")
        var asked: [String] = []
        repeat {
            guard let host = session.order(hosts, .pull, of: trust).first else { break }
            asked.append(host.name)
            session.worked(host, for: trust, isSlow: false)
        } while distrust(trust) && asked.count < 20
        #expect(asked == ["a:1", "b:1", "c:1"])
        // Whatever is wrong is no server's fault then.
        #expect(!distrust(trust))
    }

    @Test("without a read in between nobody more is distrusted")
    func withoutRead() {
        let trust = trust("toc")
        session.worked(hosts[0], for: trust, isSlow: false)
        #expect(distrust(trust))
        for _ in 0..<3 { #expect(!distrust(trust)) }
    }

    @Test("by one table of contents is none that is wrong by another one")
    func otherTOC() {
        session.worked(hosts[0], for: trust("false"), isSlow: false)
        #expect(distrust(trust("false")))
        #expect(session.order(hosts, .pull, of: trust("false")).map(\.name) == ["b:1", "c:1", "a:1"])
        #expect(session.order(hosts, .pull, of: trust("true")).map(\.name) == ["a:1", "b:1", "c:1"])
        #expect(session.order(hosts, .pull, of: trust(nil)).map(\.name) == ["a:1", "b:1", "c:1"])
    }

    @Test("for one repository is none that is wrong for another one with the same blob")
    func otherRepository() {
        // A plain layer has no table of contents; what was false may be the diff ID that one image names.
        session.worked(hosts[0], for: trust(nil, of: "false"), isSlow: false)
        #expect(distrust(trust(nil, of: "false")))
        #expect(session.order(hosts, .pull, of: trust(nil, of: "false")).map(\.name) == ["b:1", "c:1", "a:1"])
        #expect(session.order(hosts, .pull, of: trust(nil, of: "true")).map(\.name) == ["a:1", "b:1", "c:1"])
    }

    @Test("has what is kept of its blob closed for that repository alone, and who reads that may go on elsewhere")
    func spools() throws {
        let registry = try Access.registry.get()
        let proxy = try CountingProxy(upstream: registry.port)
        defer { proxy.stop() }
        proxy.faults.ignoresRange = true
        proxy.faults.bytesPerSecond = 100_000
        let names = ["test/false", "test/true"]
        let digests = try names.map { try registry.pushBlob(Access.content, name: $0) }
        let (digest, size) = (digests[0], Int64(Access.content.count))
        let client = try Registries(settings: Tale().settings()).client(for: proxy.host, plainHTTP: true)
        let isOver = Atomic<Bool>(false)
        let outcomes = Mutex<[String: OCIError.Code]>([:])
        let threads = try names.map { name in
            try Thread("reader") {
                let source = RegistrySource(client: client, repository: name)
                do {
                    // The end: so the whole is kept, and takes half a minute.
                    try source.read(
                        digest, size: size, range: size - 1000..<size,
                        shouldStop: { isOver.load(ordering: .relaxed) }
                    ) { _ in }
                } catch {
                    outcomes.withLock { $0[name] = (error as? OCIError)?.code }
                }
            }
        }
        func spool(_ name: String) -> BlobSpool? {
            client.session.spool(at: .init(registry: client.endpoint, path: "\(name)/blobs/\(digest)", blob: digest))
        }
        #expect(eventually { names.allSatisfy { spool($0) != nil } })
        let kept = spool(names[1])
        _ = RegistrySource(client: client, repository: names[0]).distrust(digest)
        #expect(spool(names[0]) == nil)
        #expect(kept != nil && spool(names[1]) === kept)
        // The end of a read that nobody has stopped.
        #expect(eventually(seconds: 10) { outcomes.withLock { $0[names[0]] } == .network })
        #expect(outcomes.withLock { $0[names[1]] } == nil)
        isOver.store(true, ordering: .relaxed)
        threads.forEach { $0.join() }
        #expect(outcomes.withLock { $0[names[1]] } == .interrupted)
    }
}
