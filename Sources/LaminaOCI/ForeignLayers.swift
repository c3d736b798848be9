public import LaminaDigest
import LaminaSystem

// Layers that a registry may not hand out: the manifest's `urls` say where else they are.
// https://github.com/opencontainers/image-spec/blob/main/descriptor.md, `urls`: "SHOULD contain valid URIs … an implementation
// that supports it downloads from there"; bytes from there are verified like all others.

/// One blob at a URL. Without credentials: those of the registry are not meant for it.
struct URLSource: BlobSource {
    /// The beginning of ``location``.
    static let prefix = "url:"

    let url: String
    private let client: RegistryClient
    /// Path and query, without the leading slash.
    private let path: String

    /// - Returns: nil if it is not a URL of HTTP or HTTPS with a host, or has a user in it.
    init?(_ text: String, settings: RegistryClient.Settings) {
        let url = text.prefix { $0 != "#" }
        // Only printable ASCII goes into a request, a log and the index.
        guard url.utf8.count <= Self.lengthLimit, url.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }),
            let end = url.firstRange(of: "://"),
            let scheme = RegistryClient.Endpoint.Scheme(rawValue: url[..<end.lowerBound].lowercased())
        else { return nil }
        let rest = url[end.upperBound...]
        let host = rest.prefix { $0 != "/" && $0 != "?" }
        guard ImageReference.isHost(host) else { return nil }
        let path = rest.dropFirst(host.count)
        self.url = String(url)
        self.path = String(path.hasPrefix("/") ? path.dropFirst() : path)
        let endpoint = RegistryClient.Endpoint(scheme: scheme, host: String(host))
        var server = RegistryHost(scheme: scheme, name: String(host))
        server.path = ""
        client = RegistryClient(
            endpoint: endpoint, hosts: [server], settings: settings, session: RegistrySession(credentials: .none))
    }

    private static let lengthLimit = 4096

    var location: String { Self.prefix + url }

    func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        try client.readBlob(
            digest, path: path, subject: "layer \(digest) at \(url)", size: size, range: range, shouldStop: shouldStop,
            into: sink)
    }

    func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
        throw OCIError(.notFound, "\(url) is a layer and has no manifests")
    }
}

/// A source, and the URLs of those layers of an image that it may not have.
public final class ForeignLayersSource: BlobSource {
    private let base: any BlobSource
    private let urls: [Digest: [String]]
    private let settings: RegistryClient.Settings
    /// Which URL gave a layer.
    private let givers: Monitor<[Digest: String]>

    /// - Returns: the source itself if no layer has URLs.
    public static func around(
        _ base: any BlobSource, for layers: [Descriptor], registries: Registries
    ) -> any BlobSource {
        let urls = Dictionary(
            layers.filter { !$0.urls.isEmpty }.map { ($0.digest, $0.urls) }, uniquingKeysWith: { first, _ in first })
        return urls.isEmpty ? base : ForeignLayersSource(base, urls, registries.settings)
    }

    private init(
        _ base: any BlobSource, _ urls: [Digest: [String]], _ settings: RegistryClient.Settings,
        givers: Monitor<[Digest: String]> = Monitor([:])
    ) {
        (self.base, self.urls, self.settings, self.givers) = (base, urls, settings, givers)
    }

    public var location: String { base.location }

    /// Where a layer was found, if that was not the image's own source: a ``BlobSource/location``.
    public func location(of layer: Digest) -> String? { givers.withLock { $0[layer] } }

    public func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var next = range.lowerBound
        func pass(_ bytes: UnsafeRawBufferPointer) throws {
            next += Int64(bytes.count)
            try sink(bytes)
        }
        func read(_ source: any BlobSource) throws {
            try source.read(digest, size: size, range: next..<range.upperBound, shouldStop: shouldStop, into: pass)
        }
        let isForeign = givers.withLock { $0[digest] != nil }
        var failures: [OCIError] = []
        // The image's own source first: mirrors keep such layers, and the builder of the image should not learn from these URLs
        // who pulls it.
        if !isForeign {
            do { return try read(base) } catch let error as OCIError
                where urls[digest] != nil && error.code != .interrupted
            {
                failures.append(error)
            }
        }
        for text in urls[digest] ?? [] {
            guard let source = URLSource(text, settings: settings) else {
                failures.append(OCIError(.unsupported, "'\(text.prefix(200))' is no URL of HTTP or HTTPS"))
                continue
            }
            do {
                try read(source)
                givers.withLock { $0[digest] = source.location }
                return
            } catch let error as OCIError where error.code != .interrupted {
                failures.append(error)
            }
        }
        guard let first = failures.first, failures.count > 1 else { return try read(base) }
        // A transient failure of one place is one of the whole: the same call may succeed later.
        let code = failures.first { $0.isTransient }?.code ?? first.code
        throw OCIError(
            code,
            "\(first.message); the manifest says that layer \(digest) is elsewhere: "
                + failures.dropFirst().map(\.message).joined(separator: "; "), cause: first.cause)
    }

    public func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
        try base.manifest(target, shouldStop: shouldStop)
    }

    public func distrust(_ digest: Digest) -> Bool { base.distrust(digest) }

    public func trusting(_ toc: Digest?) -> any BlobSource {
        ForeignLayersSource(base.trusting(toc), urls, settings, givers: givers)
    }
}
