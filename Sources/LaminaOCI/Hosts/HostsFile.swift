import Glibc
import LaminaTOML

/// `hosts.toml`, as containerd reads it.
///
/// https://github.com/containerd/containerd/blob/main/docs/hosts.md
struct HostsFile {
    /// Mirrors in the order of the file.
    var mirrors: [RegistryHost] = []
    /// What the file says about the registry itself; without a name if it names no `server`.
    var server: RegistryHost

    // More servers than this for one registry must be a mistake.
    private static let hostLimit = 64

    /// - Parameters:
    ///   - path: of the file; relative paths in it start at its directory.
    /// - Throws: `badConfiguration`, naming file and line.
    init(parsing bytes: [UInt8], path: String) throws(OCIError) {
        do throws(TOMLError) {
            let root = TOMLSection(table: try TOMLTable.parse(bytes), name: "", path: path)
            server = RegistryHost(scheme: .https, name: "")
            if let text = try root.string("server"), !text.isEmpty {
                guard let parsed = Self.host(text, overridesPath: try root.bool("override_path") ?? false) else {
                    throw root.wrong("server", "must be a URL or a host, is '\(text.prefix(200))'")
                }
                server = parsed
            }
            try Self.read(root, into: &server, path)
            if let hosts = try root.section("host") {
                for (name, value) in hosts.all() {
                    guard case .table(let table) = value, mirrors.count < Self.hostLimit else {
                        throw hosts.wrong(name, "must be a table, one of at most \(Self.hostLimit)")
                    }
                    let section = TOMLSection(table: table, name: "host.\"\(name)\"", path: path)
                    let overrides = try section.bool("override_path") ?? false
                    guard var mirror = Self.host(name, overridesPath: overrides) else {
                        throw hosts.wrong(name, "must be a URL or a host")
                    }
                    try Self.read(section, into: &mirror, path)
                    _ = try section.finish(ignoring: Self.unused)
                    mirrors.append(mirror)
                }
            }
            _ = try root.finish(ignoring: Self.unused)
        } catch {
            throw OCIError(.badConfiguration, error.text(in: path))
        }
    }

    /// Keys of containerd that have no meaning here.
    private static let unused: Set<String> = ["dial_timeout"]

    /// `https://name:port/path`, or `name:port`.
    static func host(_ text: String, overridesPath: Bool) -> RegistryHost? {
        let hasScheme = text.hasPrefix("http://") || text.hasPrefix("https://")
        guard hasScheme || !text.contains("://") else { return nil }
        let url = hasScheme ? text : "https://" + text
        guard let origin = Origin(of: url), ImageReference.isHost(origin.authority),
            let scheme = RegistryClient.Endpoint.Scheme(rawValue: origin.scheme)
        else { return nil }
        let rest = url.dropFirst(scheme.rawValue.count + 3)
        var path = rest.firstIndex(of: "/").map { String(rest[$0...]) } ?? ""
        guard path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }), !path.contains("?"), !path.contains("#") else {
            return nil
        }
        while path.last == "/" { path.removeLast() }
        if !overridesPath, !path.hasSuffix("/v2") { path += "/v2" }
        var host = RegistryHost(scheme: scheme, name: origin.authority)
        host.path = path
        return host
    }

    private static func read(_ section: TOMLSection, into host: inout RegistryHost, _ path: String) throws(TOMLError) {
        host.origin = path
        _ = try section.bool("override_path")
        if let names = try section.strings("capabilities"), !names.isEmpty {
            host.capabilities = []
            for name in names {
                switch name.lowercased() {
                case "pull": host.capabilities.insert(.pull)
                case "resolve": host.capabilities.insert(.resolve)
                case "push": break
                default:
                    throw section.wrong("capabilities", "has '\(name.prefix(40))'; there are pull, resolve and push")
                }
            }
        }
        host.tls.skipsVerification = try section.bool("skip_verify") ?? false
        let directory = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        func absolute(_ name: String) -> String { name.hasPrefix("/") ? name : "\(directory)/\(name)" }
        if let value = section.any("ca") {
            guard let names = texts(value) else { throw section.wrong("ca", "must be a path or an array of paths") }
            host.tls.authorities = names.map(absolute)
        }
        if let value = section.any("client") {
            guard let pairs = pairs(value) else {
                throw section.wrong("client", "must be a path, an array of paths, or of pairs of paths")
            }
            host.tls.clients = pairs.map {
                TLSSettings.Pair(certificate: absolute($0.certificate), key: $0.key.map(absolute))
            }
        }
        host.headers = try headers(section)
    }

    private static func pairs(_ value: TOMLValue) -> [TLSSettings.Pair]? {
        if let single = texts(value) { return single.map { TLSSettings.Pair(certificate: $0, key: nil) } }
        guard case .array(let elements) = value else { return nil }
        var pairs: [TLSSettings.Pair] = []
        for element in elements {
            guard let texts = texts(element), (1...2).contains(texts.count) else { return nil }
            pairs.append(
                TLSSettings.Pair(certificate: texts[0], key: texts.count == 2 && !texts[1].isEmpty ? texts[1] : nil))
        }
        return pairs
    }

    /// `header`: names with one value or several.
    static func headers(_ section: TOMLSection) throws(TOMLError) -> [RegistryHost.Header] {
        guard let table = try section.section("header") else { return [] }
        var headers: [RegistryHost.Header] = []
        for (name, value) in table.all() {
            let isName =
                !name.isEmpty && name.utf8.allSatisfy { isAlphanumeric($0) || "!#$%&'*+-.^_`|~".utf8.contains($0) }
            guard isName, let values = texts(value),
                values.allSatisfy({ $0.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F } })
            else { throw table.wrong(name, "must be a header's name with a text or an array of texts of one line") }
            headers += values.map { RegistryHost.Header(name: name, value: Secret($0)) }
        }
        return headers
    }

    private static func texts(_ value: TOMLValue) -> [String]? {
        switch value {
        case .string(let text): return [text]
        case .array(let elements):
            var texts: [String] = []
            for element in elements {
                guard case .string(let text) = element else { return nil }
                texts.append(text)
            }
            return texts
        default: return nil
        }
    }
}
