import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

/// One registry for the whole suite; it ends with the process.
private enum Shared {
    static let registry: Result<RegistryFixture, any Error> = Result {
        let registry = try RegistryFixture()
        for name in ["plain-gzip", "estargz"] {
            try registry.push(layout: Fixtures.layout(name), name: "test/\(name)", tag: "v1")
        }
        return registry
    }
    /// 3 MB of noise, made once.
    static let content: [UInt8] = {
        var random = SeededGenerator(seed: 4)
        return (0..<3_000_000 / 8).flatMap { _ in withUnsafeBytes(of: random.next()) { Array($0) } }
    }()
}

/// A blob of 3 MB behind a proxy of its own.
private struct Setting {
    let proxy: CountingProxy
    let source: RegistrySource
    let content: [UInt8]
    let digest: Digest
    var size: Int64 { Int64(content.count) }

    init(_ change: (inout RegistryClient.Settings) -> Void = { _ in }) throws {
        let registry = try Shared.registry.get()
        content = Shared.content
        digest = try registry.pushBlob(content, name: "test/blob")
        proxy = try CountingProxy(upstream: registry.port)
        var settings = RegistryClient.Settings()
        settings.backoff = .milliseconds(10)
        change(&settings)
        source = RegistrySource(
            client: RegistryClient(endpoint: .init(registry: proxy.host), settings: settings), repository: "test/blob")
    }

    func read(_ range: Range<Int64>? = nil, shouldStop: @Sendable () -> Bool = { false }) throws -> [UInt8] {
        var bytes: [UInt8] = []
        try source.read(digest, size: size, range: range ?? 0..<size, shouldStop: shouldStop) { bytes += $0 }
        return bytes
    }

    func slice(_ range: Range<Int64>) -> [UInt8] { Array(content[Int(range.lowerBound)..<Int(range.upperBound)]) }

    func code(_ body: () throws -> Void) -> OCIError.Code? { #expect(throws: OCIError.self, performing: body)?.code }
}

@Suite("A registry, behind a proxy that misbehaves", .serialized)
struct RegistryTests {
    @Test("images resolve by tag and digest, and their layers are the layout's", arguments: ["plain-gzip", "estargz"])
    func resolving(name: String) throws {
        let registry = try Shared.registry.get()
        let reference = try ImageReference(parsing: "\(registry.host)/test/\(name):v1")
        let source = try reference.openSource()
        let image = try ImageResolver.resolve(reference, source: source)
        let layout = try ImageReference(layout: Fixtures.layout(name))
        let expected = try ImageResolver.resolve(layout, source: layout.openSource())
        #expect(image.manifestDigest == expected.manifestDigest)
        #expect(image.layers == expected.layers)
        #expect(
            try ImageResolver.resolve(reference.with(digest: image.manifestDigest), source: source).diffIDs
                == expected.diffIDs)
        for layer in image.layers { _ = try source.blob(layer, limit: 1 << 24) }
    }

    @Test("ranges are asked for once each, on one connection that is used again")
    func ranges() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        for range in [0..<setting.size, 0..<1, 1..<2, 1_000_000..<2_000_000, setting.size - 1..<setting.size]
            as [Range<Int64>]
        {
            setting.proxy.reset()
            #expect(try setting.read(range) == setting.slice(range))
            #expect(setting.proxy.requests.map(\.sent) == [range])
        }
        #expect(setting.proxy.connectionCount == 0)
        #expect(try setting.read(7..<7) == [])
        #expect(setting.proxy.requests.count == 1)
    }

    @Test("a registry that ignores ranges is listened to until the range is complete")
    func ignoredRange() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        setting.proxy.faults.ignoresRange = true
        let range: Range<Int64> = 1000..<100_000
        #expect(try setting.read(range) == setting.slice(range))
        #expect(setting.proxy.requests.count == 1)
        #expect(setting.proxy.requests.first?.status == 200)
        setting.proxy.faults.isChunked = true
        #expect(try setting.read() == setting.content)
        #expect(try setting.read(range) == setting.slice(range))
    }

    @Test("a 200 with a Content-Range is the part that it says")
    func partWith200() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        setting.proxy.faults.ignoresRange = true
        setting.proxy.faults.fields = ["Content-Range": "bytes 0-\(setting.size - 1)/\(setting.size)"]
        #expect(try setting.read(5..<500) == setting.slice(5..<500))
    }

    @Test("a broken connection goes on behind the last byte that arrived", arguments: [false, true])
    func brokenConnections(isChunked: Bool) throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        setting.proxy.faults.cutAfter = 200_000
        setting.proxy.faults.isChunked = isChunked
        #expect(try setting.read() == setting.content)
        #expect(setting.proxy.requests.count == 15)
        #expect(setting.proxy.repeatedByteCount(of: setting.digest) == 0)
        // Also if the registry does not support ranges: then bytes come again, but not to the sink.
        setting.proxy.faults.ignoresRange = true
        setting.proxy.faults.cutAfter = 2_900_000
        setting.proxy.faults.cutCount = 1
        #expect(try setting.read() == setting.content)
    }

    @Test("a connection that brings nothing is tried five times")
    func noProgress() throws {
        let retries = Mutex(0)
        let setting = try Setting { $0.onRetry = { _, _ in retries.withLock { $0 += 1 } } }
        defer { setting.proxy.stop() }
        setting.proxy.faults.cutAfter = 0
        #expect(setting.code { _ = try setting.read() } == .network)
        #expect(setting.proxy.requests.count == 5)
        #expect(retries.withLock { $0 } == 4)
    }

    @Test("a registry that is gone is a network error that names it")
    func gone() throws {
        let setting = try Setting { $0.tryLimit = 2 }
        setting.proxy.stop()
        let error = #expect(throws: OCIError.self) { try setting.read() }
        #expect(error?.code == .network)
        #expect(error?.message.contains(setting.proxy.host) == true)
    }

    @Test("503 is waited out as Retry-After says, without the backoff's doubling")
    func unavailable() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        setting.proxy.faults = .unavailable(count: 1, retryAfter: 1)
        let clock = ContinuousClock()
        let time = clock.measure { #expect(throws: Never.self) { try setting.read(0..<10) } }
        #expect(try setting.read(0..<10) == setting.slice(0..<10))
        #expect(time > .milliseconds(950) && time < .seconds(60))
        setting.proxy.faults = .unavailable(count: 1, retryAfter: 100_000)
        #expect(setting.code { _ = try setting.read() } == .unavailable)
    }

    @Test(
        "a status is an error of its kind, tried again only where that may help",
        arguments: [
            (400, .http, 1), (401, .unauthorized, 1), (403, .unauthorized, 1), (404, .notFound, 1), (416, .http, 1),
            (418, .http, 1),
            (429, .unavailable, 5), (500, .unavailable, 5), (503, .unavailable, 5), (204, .http, 1), (304, .http, 1),
        ] as [(Int, OCIError.Code, Int)])
    func statuses(status: Int, code: OCIError.Code, attempts: Int) throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        setting.proxy.faults.status = status
        let error = #expect(throws: OCIError.self) { try setting.read(0..<100) }
        #expect(error?.code == code)
        #expect(setting.proxy.requests.count == attempts)
        #expect(error?.message.contains("\(status)") == true)
        if status >= 400, status != 416 { #expect(error?.message.contains("TOLD_TO: the proxy was told") == true) }
    }

    @Test("a blob that is shorter than its descriptor says is told at once, docker-registry's endless 416 too")
    func wrongSize() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        func read(size: Int64, _ range: Range<Int64>) throws {
            try setting.source.read(setting.digest, size: size, range: range, shouldStop: { false }) { _ in }
        }
        #expect(setting.code { try read(size: setting.size + 1, 0..<setting.size + 1) } == .sizeMismatch)
        #expect(setting.code { try read(size: setting.size + 1, 0..<10) } == .sizeMismatch)
        let clock = ContinuousClock()
        let time = clock.measure { #expect(setting.code { try read(size: 1 << 40, 1 << 39..<1 << 40) } == .http) }
        // It does not wait for it as for a stall, which takes half a minute.
        #expect(time < .seconds(25))
        setting.proxy.faults.fields = ["Content-Range": "bytes 50-60/\(setting.size)"]
        #expect(setting.code { _ = try setting.read(10..<61) } == .http)
        setting.proxy.faults.fields = ["Content-Range": "nonsense"]
        #expect(setting.code { _ = try setting.read(10..<61) } == .http)
    }

    @Test("bytes that were changed on the way are told by the digest of a whole blob")
    func corruption() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        setting.proxy.faults.corruptions = [.init(digest: setting.digest, offset: 1_234_567, count: 1)]
        let descriptor = Descriptor(mediaType: "", digest: setting.digest, size: setting.size)
        #expect(setting.code { _ = try setting.source.blob(descriptor, limit: 1 << 24) } == .digestMismatch)
        #expect(try setting.source.blob(descriptor, limit: 1 << 24) == setting.content)
        #expect(setting.code { _ = try setting.source.blob(descriptor, limit: 1000) } == .sizeMismatch)
    }

    @Test("nothing for as long as the limit is a stall; it is tried again, and goes on")
    func stalls() throws {
        let setting = try Setting {
            // On a busy machine an answer may take as long once or twice.
            $0.stallLimit = .milliseconds(300)
        }
        defer { setting.proxy.stop() }
        setting.proxy.faults.stallAfter = 100_000
        setting.proxy.faults.stallCount = 1
        #expect(try setting.read() == setting.content)
        setting.proxy.faults.stallAfter = 0
        setting.proxy.faults.stallCount = .max
        #expect(setting.code { _ = try setting.read() } == .stalled)
    }

    @Test("a slow transfer and a slow receiver are no stall")
    func slowness() throws {
        let setting = try Setting { $0.stallLimit = .milliseconds(800) }
        defer { setting.proxy.stop() }
        setting.proxy.faults.bytesPerSecond = 100_000
        #expect(try setting.read(0..<80_000) == setting.slice(0..<80_000))
        setting.proxy.faults = Faults()
        var count = 0
        var isFirst = true
        try setting.source.read(setting.digest, size: setting.size, range: 0..<setting.size, shouldStop: { false }) {
            if isFirst { usleep(1_200_000) }
            isFirst = false
            count += $0.count
        }
        #expect(count == setting.content.count)
        #expect(setting.proxy.requests.count == 2)
    }

    @Test(
        "whoever asks to stop is heard within 200 ms, while bytes trickle, while none come, and between attempts",
        arguments: [0, 1, 2])
    func stopping(kind: Int) throws {
        let setting = try Setting { $0.backoff = .seconds(10) }
        defer { setting.proxy.stop() }
        switch kind {
        case 0: setting.proxy.faults.bytesPerSecond = 20_000
        case 1: setting.proxy.faults.stallAfter = 5000
        default: setting.proxy.faults.cutAfter = 0
        }
        let clock = ContinuousClock()
        // One of three: a busy machine may delay any of them.
        let isHeard = (0..<3).contains { _ in
            let deadline = clock.now + .milliseconds(400)
            let time = clock.measure {
                #expect(setting.code { _ = try setting.read(shouldStop: { clock.now >= deadline }) } == .interrupted)
            }
            return time < .milliseconds(700)
        }
        #expect(isHeard)
    }

    @Test("what the receiver throws comes back as it is, and the next transfer is not disturbed")
    func throwing() throws {
        struct Enough: Error {}
        let setting = try Setting()
        defer { setting.proxy.stop() }
        var count = 0
        #expect(throws: Enough.self) {
            try setting.source.read(setting.digest, size: setting.size, range: 0..<setting.size, shouldStop: { false })
            {
                count += $0.count
                if count > 100_000 { throw Enough() }
            }
        }
        #expect(setting.proxy.requests.count == 1)
        #expect(try setting.read(0..<1000) == setting.slice(0..<1000))
    }

    @Test("a redirect is followed and remembered, and a URL that has expired is asked for again")
    func redirects() throws {
        let setting = try Setting()
        let store = try CountingProxy(upstream: Shared.registry.get().port)
        defer {
            setting.proxy.stop()
            store.stop()
        }
        setting.proxy.faults.redirect = "http://\(store.host)"
        #expect(try setting.read(5..<50) == setting.slice(5..<50))
        store.faults.status = 403
        store.faults.statusCount = 1
        #expect(try setting.read(5..<50) == setting.slice(5..<50))
        #expect(setting.proxy.requests.map(\.status) == [307, 307])
        #expect(store.requests.map(\.status) == [206, 403, 206])
        store.faults.redirect = "http://\(store.host)"
        #expect(setting.code { _ = try setting.read() } == .http)
    }

    @Test("manifests are tried again too, bounded, and checked against the digest that names them")
    func manifests() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        let source = RegistrySource(client: setting.source.client, repository: "test/estargz")
        setting.proxy.faults.scope = .manifests
        setting.proxy.faults.cutAfter = 100
        setting.proxy.faults.cutCount = 2
        let manifest = try source.manifest(.tag("v1")) { false }
        #expect(manifest.mediaType == MediaType.ociManifest)
        #expect(setting.proxy.requests.count == 3)
        #expect(try source.manifest(.digest(manifest.digest)) { false }.bytes == manifest.bytes)
        setting.proxy.faults.fields = ["Docker-Content-Digest": SHA256.hash([]).description]
        #expect(setting.code { _ = try source.manifest(.tag("v1")) { false } } == .digestMismatch)
        #expect(setting.code { _ = try source.manifest(.tag("none")) { false } } == .notFound)
        #expect(setting.code { _ = try source.manifest(.tag("../x")) { false } } == .badReference)
        #expect(setting.code { _ = try source.manifest(.only) { false } } == .badReference)
        setting.proxy.faults.fields = ["Content-Length": "5000000"]
        #expect(setting.code { _ = try source.manifest(.tag("v1")) { false } } == .badManifest)
    }

    @Test("many threads read at once, each its own range, and no byte comes twice")
    func threads() throws {
        let setting = try Setting()
        defer { setting.proxy.stop() }
        let wrong = Mutex<[String]>([])
        let threads = try (0..<8).map { number in
            try Thread("read") {
                for round in 0..<5 {
                    let start = Int64(number * 5 + round) * 75_000
                    do {
                        if try setting.read(start..<start + 75_000) != setting.slice(start..<start + 75_000) {
                            wrong.withLock { $0.append("\(start)") }
                        }
                    } catch {
                        wrong.withLock { $0.append("\(error)") }
                    }
                }
            }
        }
        threads.forEach { $0.join() }
        #expect(wrong.withLock { $0 } == [])
        #expect(setting.proxy.repeatedByteCount(of: setting.digest) == 0)
        #expect(setting.proxy.sentByteCount() == setting.size)
        #expect(setting.proxy.connectionCount <= 8)
    }
}
