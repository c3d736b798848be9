/// A key that a configuration may have: its type, and its effect.
struct ConfigurationKey: Sendable {
    /// With its table: `fuse.passthrough`.
    var name: String
    var kind: ConfigurationKind
    var effect: Effect

    enum Effect: Sendable {
        case setting(Setting)
        /// Another way to set another key; nil: this value sets nothing.
        case translated(to: String, @Sendable (ConfigurationValue) -> ConfigurationValue?)
        /// It is accepted, and has no effect, for this reason.
        case nothing(reason: String)
    }

    struct Setting: Sendable {
        var get: @Sendable (Configuration) -> ConfigurationValue
        var set: @Sendable (inout Configuration, ConfigurationValue) -> Void
        /// Why this value has no effect; nil if it has one.
        var remark: @Sendable (ConfigurationValue) -> String? = { _ in nil }
    }

    var setting: Setting? { if case .setting(let setting) = effect { setting } else { nil } }

    /// The name in the environment: `LAMINA_FUSE_PASSTHROUGH`.
    var variable: String { "LAMINA_" + name.uppercased().replacing(".", with: "_") }
}

extension ConfigurationKey {
    typealias Path<Value> = any WritableKeyPath<Configuration, Value> & Sendable

    static func boolean(_ name: String, _ path: Path<Bool>) -> ConfigurationKey {
        key(name, .boolean) {
            .boolean($0[keyPath: path])
        } set: {
            if case .boolean(let value) = $1 { $0[keyPath: path] = value }
        }
    }

    /// - Parameter zero: what a 0 in the file means.
    static func integer<Value: FixedWidthInteger & Sendable>(
        _ name: String, _ path: Path<Value>, minimum: Int64, zero: Value = 0
    ) -> ConfigurationKey {
        key(name, .integer(minimum: minimum)) {
            .integer(Int64(clamping: $0[keyPath: path]))
        } set: {
            guard case .integer(let value) = $1 else { return }
            $0[keyPath: path] = value == 0 ? zero : Value(clamping: value)
        }
    }

    static func word<Value: RawRepresentable & CaseIterable & Sendable>(
        _ name: String, _ path: Path<Value>
    ) -> ConfigurationKey where Value.RawValue == String {
        key(name, .word(Value.allCases.map(\.rawValue))) {
            .string($0[keyPath: path].rawValue)
        } set: {
            if case .string(let word) = $1, let value = Value(rawValue: word) { $0[keyPath: path] = value }
        }
    }

    static func path(_ name: String, _ path: Path<String?>, standard: String = "") -> ConfigurationKey {
        key(name, .path) {
            .string($0[keyPath: path] ?? standard)
        } set: {
            if case .string(let value) = $1 { $0[keyPath: path] = value.isEmpty ? nil : value }
        }
    }

    static func strings(_ name: String, _ path: Path<[String]>) -> ConfigurationKey {
        key(name, .strings) {
            .strings($0[keyPath: path])
        } set: {
            if case .strings(let values) = $1 { $0[keyPath: path] = values }
        }
    }

    static func key(
        _ name: String, _ kind: ConfigurationKind, get: @escaping @Sendable (Configuration) -> ConfigurationValue,
        set: @escaping @Sendable (inout Configuration, ConfigurationValue) -> Void
    ) -> ConfigurationKey {
        ConfigurationKey(name: name, kind: kind, effect: .setting(Setting(get: get, set: set)))
    }

    static func unused(_ name: String, _ kind: ConfigurationKind, _ reason: String) -> ConfigurationKey {
        ConfigurationKey(name: name, kind: kind, effect: .nothing(reason: reason))
    }
}
