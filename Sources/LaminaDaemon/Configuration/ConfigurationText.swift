import LaminaOCI

/// A configuration written as TOML.
struct ConfigurationText {
    let loaded: LoadedConfiguration
    /// Whether each value is followed by a comment that says where it is from.
    var showsOrigins = false

    /// What is shown instead of a mirror's header: it may be a password.
    static let hidden = "hidden"

    var text: String {
        var lines: [String] = []
        var table = ""
        for key in ConfigurationKeys.own {
            guard let setting = key.setting, let dot = key.name.lastIndex(of: ".") else { continue }
            let prefix = String(key.name[..<dot])
            if prefix != table {
                if !table.isEmpty { lines.append("") }
                lines.append("[\(prefix)]")
                table = prefix
            }
            lines.append(
                "\(key.name[key.name.index(after: dot)...]) = \(setting.get(loaded.configuration).text)"
                    + comment(loaded.origin(of: key.name)))
        }
        for (registry, mirrors) in loaded.configuration.resolver.hosts.mirrors.sorted(by: { $0.key < $1.key }) {
            let name = "resolver.host.\(ConfigurationValue.quoted(registry)).mirrors"
            for mirror in mirrors { lines += ["", "[[\(name)]]"] + self.lines(of: mirror, name) }
        }
        return lines.joined(separator: "\n")
    }

    private func lines(of mirror: RegistryHost, _ name: String) -> [String] {
        var lines = ["host = \(ConfigurationValue.quoted(mirror.name))" + comment(mirrorOrigin(mirror))]
        if mirror.scheme == .http { lines.append("insecure = true") }
        if !mirror.headers.isEmpty {
            lines.append("[\(name).header]")
            for header in mirror.headers {
                lines.append("\(ConfigurationValue.quoted(header.name)) = \(ConfigurationValue.quoted(Self.hidden))")
            }
        }
        return lines
    }

    private func mirrorOrigin(_ mirror: RegistryHost) -> LoadedConfiguration.Origin {
        mirror.origin.map { .file(path: $0, line: nil) } ?? .standard
    }

    private func comment(_ origin: LoadedConfiguration.Origin) -> String { showsOrigins ? "  # \(origin)" : "" }
}
