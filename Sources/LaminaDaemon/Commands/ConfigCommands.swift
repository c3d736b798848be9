import LaminaOCI

/// `lamina config show`: the effective configuration, with every key.
public struct ConfigShowCommand: Sendable {
    /// Whether it says where each value is from.
    public var origin: Bool

    public init(origin: Bool) { self.origin = origin }

    /// A key with its value.
    struct Row: Encodable {
        var key: String
        var value: ConfigurationValue
        var origin: String
    }

    static func rows(of loaded: LoadedConfiguration) -> [Row] {
        ConfigurationKeys.own.compactMap { key in
            key.setting.map {
                Row(
                    key: key.name, value: $0.get(loaded.configuration), origin: loaded.origin(of: key.name).description)
            }
        }
    }

    public func run(_ loaded: LoadedConfiguration, _ output: Output) throws {
        try output.show(Self.rows(of: loaded)) { ConfigurationText(loaded: loaded, showsOrigins: origin).text }
    }
}

/// `lamina config check`: what is wrong with the configuration, and which values are understood differently from what is
/// written.
public struct ConfigCheckCommand: Sendable {
    public init() {}

    struct Report: Encodable {
        struct Unused: Encodable {
            var key: String
            var reason: String
            var origin: String
        }

        /// The files that were read, in this order.
        var files: [String]
        var notices: [String]
        var unused: [Unused]
    }

    /// - Throws: nothing itself; if anything is wrong, `configuration` was thrown before.
    public func run(_ loaded: LoadedConfiguration, _ output: Output) throws {
        let report = Report(
            files: loaded.files, notices: loaded.notices,
            unused: loaded.unused.map {
                Report.Unused(key: $0.key, reason: $0.reason, origin: $0.origin.description)
            })
        try output.show(report) { Self.text(loaded) }
    }

    static func text(_ loaded: LoadedConfiguration) -> String {
        var lines = loaded.files.map { "\($0): read" }
        if lines.isEmpty { lines.append("no file was read: all keys are at their defaults, but for what follows") }
        lines += loaded.notices
        lines += loaded.unused.map(\.description)
        let set = loaded.origins.count
        lines.append("the configuration is right: \(counted(set, "key")) set")
        return lines.joined(separator: "\n")
    }
}
