import Glibc
import LaminaSystem
package import LaminaTOML

/// How to reach registries: containerd's directories of `hosts.toml`, mirrors in lamina's own configuration, and where these say nothing of a
/// registry, podman's `registries.conf`.
public struct HostsConfiguration: Sendable, Hashable {
    /// Looked through in this order; the first that has something for a registry decides.
    public var directories = HostsConfiguration.defaultDirectories
    /// By registry; they come before those of the directories.
    public var mirrors: [String: [RegistryHost]] = [:]
    /// What podman asks; nil: nobody cares.
    public var containers: ContainersRegistries?

    public static let defaultDirectories = ["/etc/lamina/certs.d", "/etc/containerd/certs.d"]

    /// Nothing is configured.
    public static let none = HostsConfiguration(directories: [])

    public init(directories: [String] = HostsConfiguration.defaultDirectories) { self.directories = directories }

    /// The servers to ask for images of a registry, in order: mirrors, then the registry itself.
    ///
    /// - Parameters:
    ///   - repository: that is asked for; without it `registries.conf` is not looked at.
    ///   - plainHTTP: HTTP without TLS to the registry itself, if no file names it.
    /// - Throws: `badConfiguration`, naming file and line.
    public func hosts(
        for registry: String, repository: String? = nil, plainHTTP: Bool
    ) throws(OCIError) -> [RegistryHost] {
        var hosts = mirrors[registry] ?? []
        var server = RegistryHost(.init(registry: registry, plainHTTP: plainHTTP))
        let directory = directory(of: registry)
        if hosts.isEmpty, directory == nil, let containers, let repository {
            if let found = try containers.hosts(for: registry, repository) { return found }
            server.tls = Self.certificates(of: registry, in: ContainersRegistries.certificateDirectories)
            if server.tls != TLSSettings(), !plainHTTP { server.scheme = .https }
        }
        if let directory {
            let path = directory + "/hosts.toml"
            if let bytes = try read(path), !bytes.isEmpty {
                let file = try HostsFile(parsing: bytes, path: path)
                hosts += file.mirrors
                if file.server.name.isEmpty {
                    let (scheme, name) = (server.scheme, server.name)
                    server = file.server
                    // If there is a certificate for it, TLS is meant, on this machine too.
                    server.scheme = file.server.tls == TLSSettings() || plainHTTP ? scheme : .https
                    server.name = name
                    server.path = "/v2"
                } else {
                    server = file.server
                }
            } else {
                server.tls = Self.certificates(in: directory)
                if server.tls != TLSSettings() {
                    server.origin = directory
                    if !plainHTTP { server.scheme = .https }
                }
            }
        }
        hosts.append(server)
        // As in containerd: a mirror is told which registry is meant.
        for index in hosts.indices where hosts[index].name != RegistryHost.server(of: registry) {
            hosts[index].namespace = registry
        }
        return hosts
    }

    /// `name_port_` or `name:port`, else `_default`; in the first directory that has one.
    private func directory(of registry: String) -> String? {
        var names = [registry, "_default"]
        if let colon = registry.lastIndex(of: ":"), !registry.hasSuffix("]") {
            names.insert("\(registry[..<colon])_\(registry[registry.index(after: colon)...])_", at: 0)
        }
        for root in directories {
            for name in names where ImageReference.isDirectory("\(root)/\(name)") { return "\(root)/\(name)" }
        }
        return nil
    }

    private func read(_ path: String) throws(OCIError) -> [UInt8]? {
        do {
            return try readFile(path, limit: 1 << 20)
        } catch {
            if error.code == ENOENT { return nil }
            throw OCIError(.badConfiguration, "\(path) cannot be read", cause: error)
        }
    }

    /// Those of a registry, in the first of some directories that has one for it.
    static func certificates(of registry: String, in directories: [String]) -> TLSSettings {
        directories.map { "\($0)/\(registry)" }.first { ImageReference.isDirectory($0) }.map { certificates(in: $0) }
            ?? TLSSettings()
    }

    /// Docker's way: `*.crt` are trusted, `x.cert` with `x.key` is the client's own certificate.
    private static func certificates(in directory: String) -> TLSSettings {
        var tls = TLSSettings()
        var names: [String] = []
        guard let listing = opendir(directory) else { return tls }
        while let entry = readdir(listing) {
            names.append(
                withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
        }
        closedir(listing)
        for name in names.sorted() {
            if name.hasSuffix(".crt") { tls.authorities.append("\(directory)/\(name)") }
            let key = name.hasSuffix(".cert") ? String(name.dropLast(5)) + ".key" : ""
            if names.contains(key) {
                tls.clients.append(.init(certificate: "\(directory)/\(name)", key: "\(directory)/\(key)"))
            }
        }
        return tls
    }

    /// Reads the mirrors of `[[resolver.host."H".mirrors]]`, in stargz-snapshotter's form; those of a registry replace what was
    /// known about it.
    ///
    /// - Parameter hosts: `resolver.host`.
    /// - Returns: keys that have no meaning here.
    package mutating func readMirrors(_ hosts: TOMLSection) throws(TOMLError) -> [String] {
        var ignored: [String] = []
        for (registry, _) in hosts.all() {
            guard let section = try hosts.section(registry), ImageReference.isHost(registry) else {
                throw hosts.wrong(registry, "is no host")
            }
            mirrors[registry] = try (section.sections("mirrors") ?? []).map { mirror throws(TOMLError) in
                try Self.mirror(mirror, &ignored)
            }
            ignored += try section.finish(ignoring: [])
        }
        return ignored
    }

    private static func mirror(_ section: TOMLSection, _ ignored: inout [String]) throws(TOMLError) -> RegistryHost {
        guard let name = try section.string("host"), ImageReference.isHost(name) else {
            throw section.wrong("host", "must be a host, with a port or without")
        }
        let insecure = try section.bool("insecure") ?? false
        var host = RegistryHost(.init(registry: name, plainHTTP: insecure))
        host.headers = try HostsFile.headers(section)
        host.origin = section.path
        ignored += try section.finish(ignoring: ["request_timeout_sec"])
        return host
    }
}
