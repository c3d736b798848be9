import Glibc
import LaminaSystem
import LaminaTOML

/// Which servers podman, buildah, skopeo and CRI-O ask: `registries.conf` and `registries.conf.d` (containers-registries.conf(5), version 2).
///
/// Read again for each client, because others change the files. Short names and what unqualified ones are searched in are not read: lamina
/// takes names as docker does.
public struct ContainersRegistries: Sendable, Hashable {
    /// The main file, and the directory whose files add to it and replace what it says of a prefix.
    public var file: String
    public var directory: String

    public static let standardFile = "/etc/containers/registries.conf"
    /// Of the registries' certificates, in docker's form.
    public static let certificateDirectories = ["/etc/containers/certs.d", "/etc/docker/certs.d"]
    private static let byteLimit = 1 << 20
    private static let fileLimit = 256

    public init(file: String, directory: String) { (self.file, self.directory) = (file, directory) }

    /// What podman reads for this user: `$CONTAINERS_REGISTRIES_CONF` alone, or the machine's files.
    public static func ofProcess() -> ContainersRegistries {
        if let path = getenv("CONTAINERS_REGISTRIES_CONF"), path[0] != 0 {
            return ContainersRegistries(file: String(cString: path), directory: "")
        }
        return ContainersRegistries(file: standardFile, directory: standardFile + ".d")
    }

    /// What the files say of a registry.
    struct Entry: Hashable {
        struct Place: Hashable {
            /// `host`, or `host/beginning/of/a/repository`.
            var location: String
            var isInsecure: Bool
            var capabilities: Set<RegistryHost.Capability> = [.resolve, .pull]
        }

        var prefix: String
        var isBlocked = false
        var place: Place
        var mirrors: [Place] = []
        /// Where it is written.
        var origin: String
    }

    /// The servers for a repository, in order; nil where no file says anything of it.
    ///
    /// - Throws: `badConfiguration`, naming file and line; also for one that is blocked.
    func hosts(for registry: String, _ repository: String) throws(OCIError) -> [RegistryHost]? {
        try Self.hosts(for: registry, repository, among: try entries())
    }

    /// The same by one file's bytes.
    package static func hosts(
        for registry: String, _ repository: String, parsing bytes: [UInt8], path: String
    ) throws(OCIError) -> [RegistryHost]? {
        try hosts(for: registry, repository, among: try parse(bytes, path: path))
    }

    private static func hosts(
        for registry: String, _ repository: String, among entries: [Entry]
    ) throws(OCIError) -> [RegistryHost]? {
        let name = "\(registry)/\(repository)"
        var best: Entry?
        for entry in entries where Self.matches(entry.prefix, name) {
            if best.map({ $0.prefix.utf8.count < entry.prefix.utf8.count }) ?? true { best = entry }
        }
        guard let best else { return nil }
        guard !best.isBlocked else {
            throw OCIError(.badConfiguration, "\(best.origin) blocks '\(best.prefix)', and with it \(name)")
        }
        var hosts: [RegistryHost] = []
        for place in best.mirrors + [best.place] {
            guard let found = Self.hosts(place, best, registry, repository) else {
                throw OCIError(
                    .badConfiguration, "\(best.origin): '\(place.location.prefix(200))' is no place for \(name)")
            }
            hosts += found
        }
        return hosts
    }

    // MARK: The files

    private func entries() throws(OCIError) -> [Entry] {
        var byPrefix: [String: Entry] = [:]
        var order: [String] = []
        var files = [file]
        if !directory.isEmpty {
            let names = try Self.names(in: directory).filter { $0.hasSuffix(".conf") }.sorted()
            // One that is left out may be the one that blocks a registry.
            guard names.count <= Self.fileLimit else {
                throw OCIError(
                    .badConfiguration,
                    "\(directory) has \(names.count) files, and no more than \(Self.fileLimit) are read")
            }
            files += names.map { "\(directory)/\($0)" }
        }
        for path in files {
            guard let bytes = try Self.read(path) else { continue }
            for entry in try Self.parse(bytes, path: path) {
                if byPrefix.updateValue(entry, forKey: entry.prefix) == nil { order.append(entry.prefix) }
            }
        }
        return order.compactMap { byPrefix[$0] }
    }

    private static func names(in directory: String) throws(OCIError) -> [String] {
        do {
            return try File.names(inDirectory: directory)
        } catch {
            if missing.contains(error.code) { return [] }
            throw OCIError(.badConfiguration, "\(directory) cannot be listed", cause: error)
        }
    }

    /// Of a file that is not there for this user, so that podman does without it.
    private static let missing: Set<Int32> = [ENOENT, ENOTDIR, EACCES]

    private static func read(_ path: String) throws(OCIError) -> [UInt8]? {
        do {
            return try readFile(path, limit: byteLimit)
        } catch {
            if missing.contains(error.code) { return nil }
            throw OCIError(.badConfiguration, "\(path) cannot be read", cause: error)
        }
    }

    /// The `[[registry]]`s of one file. Keys that lamina does not know are podman's to judge.
    static func parse(_ bytes: [UInt8], path: String) throws(OCIError) -> [Entry] {
        do throws(TOMLError) {
            let root = TOMLSection(table: try TOMLTable.parse(bytes), name: "", path: path)
            var entries: [Entry] = []
            for section in try root.sections("registry") ?? [] {
                let location = trimmed(try section.string("location") ?? "")
                let prefix = trimmed(try section.string("prefix") ?? "")
                guard !location.isEmpty || prefix.hasPrefix("*.") else {
                    throw section.wrong("location", "must be there")
                }
                var entry = Entry(
                    prefix: prefix.isEmpty ? location : prefix,
                    isBlocked: try section.bool("blocked") ?? false,
                    place: Entry.Place(location: location, isInsecure: try section.bool("insecure") ?? false),
                    origin: path)
                let digestsOnly = try section.bool("mirror-by-digest-only") ?? false
                for mirror in try section.sections("mirror") ?? [] {
                    let location = trimmed(try mirror.string("location") ?? "")
                    guard !location.isEmpty else { throw mirror.wrong("location", "must be there") }
                    var place = Entry.Place(location: location, isInsecure: try mirror.bool("insecure") ?? false)
                    let pulls = try mirror.string("pull-from-mirror") ?? "all"
                    switch pulls {
                    case "all", "": if digestsOnly { place.capabilities = [.pull] }
                    case "digest-only": place.capabilities = [.pull]
                    case "tag-only": place.capabilities = [.resolve]
                    default: throw mirror.wrong("pull-from-mirror", "must be all, digest-only or tag-only")
                    }
                    entry.mirrors.append(place)
                }
                entries.append(entry)
            }
            return entries
        } catch {
            throw OCIError(.badConfiguration, error.text(in: path))
        }
    }

    /// As containers/image takes a place (`parseLocation`): slashes at its end say nothing.
    private static func trimmed(_ location: String) -> String {
        var rest = Substring(location)
        while rest.last == "/" { rest.removeLast() }
        return String(rest)
    }

    // MARK: What they mean

    /// Whether a prefix is of a name: whole components, or `*.` before the end of a host.
    static func matches(_ prefix: String, _ name: String) -> Bool {
        if prefix.hasPrefix("*.") {
            let host = name.prefix { $0 != "/" && $0 != ":" }
            return host.hasSuffix(prefix.dropFirst()) && host.utf8.count > prefix.utf8.count - 1
        }
        guard name.hasPrefix(prefix) else { return false }
        guard let next = name.dropFirst(prefix.count).first else { return true }
        return next == "/" || !prefix.contains("/") && next == ":"
    }

    /// A place with what of the name is behind the prefix: one server, or two where it may speak without TLS.
    private static func hosts(
        _ place: Entry.Place, _ entry: Entry, _ registry: String, _ repository: String
    ) -> [RegistryHost]? {
        let name = "\(registry)/\(repository)"
        let isWild = entry.prefix.hasPrefix("*.")
        // Of a prefix with a star only the primary place may be empty: then it is what was asked for.
        let target =
            place.location.isEmpty
            ? name
            : isWild
                ? place.location + name.drop { $0 != "/" } : place.location + name.dropFirst(entry.prefix.utf8.count)
        guard let slash = target.firstIndex(of: "/") else { return nil }
        let host = String(target[..<slash])
        let path = String(target[target.index(after: slash)...])
        guard ImageReference.isHost(host), ImageReference.isRepository(path) else { return nil }
        var server = RegistryHost(.init(registry: host, plainHTTP: false))
        server.capabilities = place.capabilities
        server.origin = entry.origin
        if path != repository { server.repository = path }
        server.tls = HostsConfiguration.certificates(of: host, in: certificateDirectories)
        guard place.isInsecure else {
            server.scheme = .https
            return [server]
        }
        server.tls.skipsVerification = true
        var plain = server
        (server.scheme, plain.scheme) = (.https, .http)
        // As podman tries them; on this machine it is mostly the other.
        return ImageReference.isLoopback(host: host) ? [plain, server] : [server, plain]
    }
}
