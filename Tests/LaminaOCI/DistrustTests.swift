import LaminaDigest
import Testing

@testable import LaminaOCI

@Suite("a server that gave wrong bytes")
struct DistrustTests {
    private let hosts = ["a:1", "b:1", "c:1"].map { RegistryHost(RegistryClient.Endpoint(scheme: .http, host: $0)) }
    private let blob = SHA256.hash(Array("blob".utf8))
    private let session = RegistrySession(credentials: .none)

    private func trust(_ toc: String?) -> RegistrySession.BlobTrust {
        .init(blob: blob, toc: toc.map { SHA256.hash(Array($0.utf8)) })
    }

    @Test("is asked last, and a loop that goes on while there is another one asks each once")
    func once() {
        let trust = trust("toc")
        var asked: [String] = []
        repeat {
            guard let host = session.order(hosts, .pull, of: trust).first else { break }
            asked.append(host.name)
            session.worked(host, for: trust, isSlow: false)
        } while session.distrust(trust, among: hosts) && asked.count < 20
        #expect(asked == ["a:1", "b:1", "c:1"])
        // Whatever is wrong is no server's fault then.
        #expect(!session.distrust(trust, among: hosts))
    }

    @Test("without a read in between nobody more is distrusted")
    func withoutRead() {
        let trust = trust("toc")
        session.worked(hosts[0], for: trust, isSlow: false)
        #expect(session.distrust(trust, among: hosts))
        for _ in 0..<3 { #expect(!session.distrust(trust, among: hosts)) }
    }

    @Test("by one table of contents is none that is wrong by another one")
    func otherTOC() {
        session.worked(hosts[0], for: trust("false"), isSlow: false)
        #expect(session.distrust(trust("false"), among: hosts))
        #expect(session.order(hosts, .pull, of: trust("false")).map(\.name) == ["b:1", "c:1", "a:1"])
        #expect(session.order(hosts, .pull, of: trust("true")).map(\.name) == ["a:1", "b:1", "c:1"])
        #expect(session.order(hosts, .pull, of: trust(nil)).map(\.name) == ["a:1", "b:1", "c:1"])
    }
}
