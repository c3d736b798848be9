import LaminaOCI
import LaminaTOML

/// Applies settings over each other, one place after the other, and collects what is wrong with them.
struct ConfigurationReader {
    private(set) var loaded = LoadedConfiguration()
    /// What is wrong so far, in sentences.
    var problems: [String] = []

    /// If there are more mistakes than this, the rest is not searched: it is another kind of file.
    private static let problemLimit = 20

    /// The variable that names the same file as `--config`.
    static let fileVariable = "LAMINA_CONFIG"
    /// The variable for `store.root` from before all keys had one.
    private static let rootVariable = "LAMINA_ROOT"
    /// Variables of lamina that are not settings.
    private static let otherVariables: Set<String> = [fileVariable, rootVariable]

    // MARK: Places

    /// Reads a file.
    mutating func read(_ bytes: [UInt8], path: String) {
        guard bytes.count <= LoadedConfiguration.sizeLimit else {
            problems.append("the configuration \(path) is larger than \(LoadedConfiguration.sizeLimit) bytes")
            return
        }
        loaded.files.append(path)
        do throws(TOMLError) {
            var found: [Found] = []
            collect(try TOMLTable.parse(bytes), in: "", path, &found)
            // A key that sets another key indirectly comes after the direct one.
            for item in found { if case .translated = item.key.effect { apply(item) } }
            for item in found { if case .translated = item.key.effect {} else { apply(item) } }
        } catch {
            problems.append(error.text(in: path))
        }
    }

    /// Reads the variables that begin with `LAMINA_`; an empty one does not count.
    mutating func read(environment: [String: String]) {
        let variables = Dictionary(
            uniqueKeysWithValues: ConfigurationKeys.own.map { ($0.variable, $0.name) })
        for (name, text) in environment.sorted(by: { $0.key < $1.key }) where name.hasPrefix("LAMINA_") && !text.isEmpty
        {
            if let key = variables[name] {
                set(key, text: text, .environment(name))
            } else if !Self.otherVariables.contains(name),
                let near = TOMLSuggestion.nearest(to: name, among: variables.keys), near.distance <= 2
            {
                // Other programs may have variables with this prefix, so a mistyped one gets only a warning.
                loaded.notices.append("\(name) in the environment means nothing to lamina; did you mean \(near.key)?")
            }
        }
        if let root = environment[Self.rootVariable], !root.isEmpty {
            set("store.root", text: root, .environment(Self.rootVariable))
        }
    }

    /// Reads `KEY=VALUE` of the command line.
    mutating func read(setting: String) {
        guard let sign = setting.firstIndex(of: "=") else {
            problems.append("--set takes KEY=VALUE, not '\(setting.prefix(100))'")
            return
        }
        let name = String(setting[..<sign])
        if case .nothing(let reason) = ConfigurationKeys.byName[name]?.effect {
            problems.append("--set: \(name) has no effect: \(reason)")
            return
        }
        guard ConfigurationKeys.byName[name]?.setting != nil else {
            let near = TOMLSuggestion.text(for: name, among: ConfigurationKeys.own.map(\.name))
            problems.append("--set: \(name.prefix(100)) is no key that lamina can set\(near)")
            return
        }
        set(name, text: String(setting[setting.index(after: sign)...]), .option("--set"))
    }

    /// Sets a key to the value in a text.
    mutating func set(_ name: String, text: String, _ origin: LoadedConfiguration.Origin) {
        guard let key = ConfigurationKeys.byName[name] else { return }
        do throws(TOMLError) {
            apply(Found(key: key, value: try key.kind.read(text: text), origin: origin))
        } catch {
            problems.append("\(origin): \(name) \(error.message)")
        }
    }

    /// The result of all settings.
    ///
    /// - Throws: `configuration`, with everything that is wrong.
    consuming func finish() throws(DaemonError) -> LoadedConfiguration {
        guard problems.isEmpty else { throw DaemonError(.configuration, problems.joined(separator: "\n")) }
        // The kernel itself reads the backing file: there is no cache that bytes could go through.
        if loaded.configuration.fuse.passthrough, !loaded.configuration.directoryCache.direct {
            loaded.configuration.directoryCache.direct = true
            let origin = loaded.origin(of: "directory_cache.direct")
            loaded.notices.append(
                "\(origin): directory_cache.direct = false has no effect with fuse.passthrough = true; it is taken as true"
            )
        }
        return loaded
    }

    // MARK: A file

    /// A key that is set somewhere.
    private struct Found {
        var key: ConfigurationKey
        var value: ConfigurationValue
        var origin: LoadedConfiguration.Origin
    }

    private mutating func collect(_ table: TOMLTable, in prefix: String, _ path: String, _ found: inout [Found]) {
        for (name, entry) in table.entries.sorted(by: { ($0.value.line, $0.key) < ($1.value.line, $1.key) }) {
            guard problems.count < Self.problemLimit else { return }
            let full = prefix.isEmpty ? name : "\(prefix).\(name)"
            do throws(TOMLError) {
                if let key = ConfigurationKeys.byName[full] {
                    let origin = LoadedConfiguration.Origin.file(path: path, line: entry.line)
                    found.append(Found(key: key, value: try key.kind.read(entry.value), origin: origin))
                } else if ConfigurationKeys.tables.contains(full) {
                    guard case .table(let inner) = entry.value else {
                        throw TOMLError(line: nil, message: "must be a table, is \(entry.value.kind)")
                    }
                    if full == ConfigurationKeys.mirrors {
                        readMirrors(inner, path)
                    } else {
                        collect(inner, in: full, path, &found)
                    }
                } else {
                    throw TOMLError(line: nil, message: Self.unknown(full, entry.value))
                }
            } catch {
                problems.append(TOMLError(line: entry.line, message: "\(full) \(error.message)").text(in: path))
            }
        }
    }

    /// What to say about an unknown key: the same name in another table, else the most similar key.
    private static func unknown(_ full: String, _ value: TOMLValue) -> String {
        let what = "is no key that lamina knows"
        let leaf = full.split(separator: ".").last
        if let same = ConfigurationKeys.byName.keys.filter({ $0.split(separator: ".").last == leaf }).min() {
            return "\(what); did you mean \(same)?"
        }
        switch value {
        case .table, .tables: return what + TOMLSuggestion.text(for: full, among: ConfigurationKeys.tables)
        default: return what + TOMLSuggestion.text(for: full, among: ConfigurationKeys.byName.keys)
        }
    }

    private mutating func readMirrors(_ table: TOMLTable, _ path: String) {
        let section = TOMLSection(table: table, name: ConfigurationKeys.mirrors, path: path)
        do throws(TOMLError) {
            for key in try loaded.configuration.resolver.hosts.readMirrors(section) {
                loaded.unused.append(
                    .init(key: key, reason: StargzKeys.mirrorTimeout, origin: .file(path: path, line: nil)))
            }
            loaded.origins[ConfigurationKeys.mirrors] = .file(path: path, line: nil)
        } catch {
            problems.append(error.text(in: path))
        }
    }

    private mutating func apply(_ found: Found) {
        switch found.key.effect {
        case .nothing(let reason):
            loaded.unused.append(.init(key: found.key.name, reason: reason, origin: found.origin))
        case .translated(let target, let translate):
            guard let value = translate(found.value), let setting = ConfigurationKeys.byName[target]?.setting else {
                return
            }
            setting.set(&loaded.configuration, value)
            var origin = found.origin
            if case .file(let path, let line, _) = origin {
                origin = .file(path: path, line: line, key: found.key.name)
            }
            loaded.origins[target] = origin
        case .setting(let setting):
            setting.set(&loaded.configuration, found.value)
            loaded.origins[found.key.name] = found.origin
            if let reason = setting.remark(found.value) {
                let key = "\(found.key.name) = \(found.value.text)"
                loaded.unused.append(.init(key: key, reason: reason, origin: found.origin))
            }
        }
    }
}
