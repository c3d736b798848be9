import LaminaFormats
import LaminaOCI

/// `lamina doctor IMAGE`: goes the way from the reference to the layers, step by step. Nothing is kept in the store.
struct ImageExamination {
    let reference: ImageReference
    let platform: Platform?
    let plainHTTP: Bool
    let registries: Registries
    let shouldStop: @Sendable () -> Bool

    func examine() -> [Finding] {
        var findings = [Finding("image", .ok, "\(reference)")]
        do throws(OCIError) {
            guard let probe = try RegistryProbe(reference, plainHTTP: plainHTTP, registries: registries) else {
                return findings + contents()
            }
            let visits = probe.visits(shouldStop: shouldStop)
            findings += visits.flatMap { Self.findings(of: $0, others: visits.contains { $0.failure == nil }) }
            guard visits.contains(where: { $0.failure == nil }) else { return findings }
        } catch {
            return findings + [Finding("hosts", .fail, error.description)]
        }
        return findings + contents()
    }

    /// - Parameter others: whether another server gave the manifest.
    static func findings(of visit: RegistryProbe.Visit, others: Bool) -> [Finding] {
        let bad: Finding.State = others ? .warn : .fail
        let name = visit.isMirror ? "mirror" : "registry"
        var findings = [
            Finding(name, .ok, visit.url + (visit.origin.map { ", configured in \($0)" } ?? ", nothing configured"))
        ]
        guard let version = visit.httpVersion else {
            findings.append(
                Finding(
                    "connection", bad, visit.failure?.message ?? "no answer",
                    advice:
                        "see whether the address is right, who listens there, and what proxies the environment names"))
            return findings
        }
        let tls =
            !visit.url.hasPrefix("https:")
            ? "without TLS" : visit.skipsVerification ? "TLS, not verified (skip_verify)" : "TLS, verified"
        findings.append(
            Finding("connection", visit.skipsVerification ? .warn : .ok, "HTTP/\(version), \(tls)"))
        findings.append(
            Finding(
                "credentials", visit.failure?.code == .unauthorized ? bad : .ok, visit.authorization ?? "not asked for",
                advice: visit.failure?.code == .unauthorized
                    ? "log in with 'docker login', or give a file with --creds-file" : nil))
        for redirect in visit.redirects { findings.append(Finding("redirect", .ok, redirect)) }
        findings.append(
            visit.failure.map { Finding("manifest", bad, $0.message) } ?? Finding("manifest", .ok, "there"))
        return findings
    }

    /// The image itself: what it has for this platform, and each layer's format.
    private func contents() -> [Finding] {
        do {
            let source = try reference.openSource(plainHTTP: plainHTTP, registries: registries)
            let image = try ImageResolver.resolve(reference, platform: platform, source: source, shouldStop: shouldStop)
            let blobs = ForeignLayersSource.around(source, for: image.layers, registries: registries)
            let found = "\(image.platform), \(counted(image.layers.count, "layer")), \(image.manifestDigest)"
            return [Finding("platform", .ok, found)]
                + image.layers.enumerated().map { layer($1, number: $0 + 1, of: image.layers.count, from: blobs) }
        } catch {
            return [Finding("platform", .fail, "\(error)")]
        }
    }

    private func layer(_ descriptor: Descriptor, number: Int, of count: Int, from source: any BlobSource) -> Finding {
        let name = "layer \(number) of \(count)"
        let about = "\(Units.bytes(descriptor.size)), "
        do {
            var tail: [UInt8] = []
            let start = max(0, descriptor.size - Int64(LayerFooter.largest))
            try source.read(
                descriptor.digest, size: descriptor.size, range: start..<descriptor.size, shouldStop: shouldStop
            ) { tail += $0 }
            let footer = try tail.withUnsafeBytes { try LayerFooter.find(in: $0, blobSize: descriptor.size) }
            return switch footer {
            case .estargz: Finding(name, .ok, about + "eStargz: lazy, files come when they are opened")
            case .zstdChunked: Finding(name, .ok, about + "zstd:chunked: lazy, files come when they are opened")
            case .estargzExternal:
                Finding(
                    name, .ok, about + "eStargz whose table of contents is in another image: lazy where that is there")
            case .stargz:
                Finding(
                    name, .warn, about + "not lazy: its table of contents is from before chunks had digests",
                    advice: Self.advice)
            case nil:
                Finding(
                    name, .warn, about + "not lazy: it has no table of contents (\(descriptor.mediaType))",
                    advice: Self.advice)
            }
        } catch {
            return Finding(name, .fail, about + "its end cannot be read: \(error)")
        }
    }

    private static let advice = "'lamina convert' makes an eStargz image of it"
}
