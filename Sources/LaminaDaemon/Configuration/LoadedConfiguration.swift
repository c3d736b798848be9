import Glibc
import LaminaSystem

/// A configuration from files, environment and command line, with remarks about them.
public struct LoadedConfiguration: Sendable, Equatable {
    /// Where the value of a key is from.
    public enum Origin: Sendable, Equatable, CustomStringConvertible {
        case standard
        /// A line of a file; `key` if that line has another key than the one that was set.
        case file(path: String, line: Int?, key: String? = nil)
        /// A variable of the environment.
        case environment(String)
        /// An option of the command line.
        case option(String)

        public var description: String {
            switch self {
            case .standard: "default"
            case .file(let path, let line, let key):
                path + (line.map { ":\($0)" } ?? "") + (key.map { " (\($0))" } ?? "")
            case .environment(let name): "environment \(name)"
            case .option(let option): "option \(option)"
            }
        }
    }

    /// A key that is accepted and has no effect.
    public struct Unused: Sendable, Equatable, CustomStringConvertible {
        public var key: String
        /// Why, as the end of a sentence.
        public var reason: String
        public var origin: Origin

        public var description: String { "\(origin): \(key) has no effect: \(reason)" }
    }

    public var configuration = Configuration()
    /// By key, for those that something set.
    public var origins: [String: Origin] = [:]
    /// The files that were read, in their order.
    public var files: [String] = []
    /// Values that are understood differently from what is written; sentences that an operator should see once.
    public var notices: [String] = []
    /// What is accepted and has no effect, once for each key and place.
    public var unused: [Unused] = []

    /// Only the defaults.
    public init() {}

    /// Where the value of a key is from.
    public func origin(of key: String) -> Origin { origins[key] ?? .standard }

    /// A configuration has a page or two; more is a mistake, or an attack.
    public static let sizeLimit = 1 << 20
}

extension LoadedConfiguration {
    /// Where to look for settings, the weakest place first.
    public struct Places: Sendable {
        /// With `config.toml` and `conf.d/*.toml`, which may be missing.
        public var directory = Configuration.defaultDirectory
        /// `--config`; must exist.
        public var file: String?
        public var environment: [String: String] = [:]
        /// `--set KEY=VALUE`.
        public var settings: [String] = []
        /// `--root`
        public var root: String?

        public init() {}

        /// The places of a process: its environment, and its options.
        public static func ofProcess(file: String?, settings: [String], root: String?) -> Places {
            var places = Places()
            var entry = environ
            while let text = entry.pointee {
                let pair = String(cString: text).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                if pair.count == 2 { places.environment[String(pair[0])] = String(pair[1]) }
                entry += 1
            }
            places.file = file ?? places.environment[ConfigurationReader.fileVariable].flatMap { $0.isEmpty ? nil : $0 }
            places.settings = settings
            places.root = root
            return places
        }

        /// The files in the order in which they are read.
        func files() throws(DaemonError) -> [String] {
            var files: [String] = []
            let main = directory + "/config.toml"
            if exists(main) { files.append(main) }
            let parts = directory + "/conf.d"
            if exists(parts) {
                do {
                    let names = try File.names(inDirectory: parts)
                        .filter { $0.hasSuffix(".toml") && !$0.hasPrefix(".") }
                    files += names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }.map { "\(parts)/\($0)" }
                } catch {
                    throw DaemonError(.configuration, "cannot read the directory \(parts)", cause: error)
                }
            }
            // A file that was read already: naming it again changes nothing.
            if let named = file.map(absolutePath), !files.contains(named) { files.append(named) }
            return files
        }

        private func exists(_ path: String) -> Bool { access(path, F_OK) == 0 || errno != ENOENT }
    }

    /// Reads all of it; later settings override earlier ones.
    ///
    /// - Throws: `configuration`, with a line for everything that is wrong, naming file, line and key.
    public static func load(_ places: Places) throws(DaemonError) -> LoadedConfiguration {
        var reader = ConfigurationReader()
        for path in try places.files() {
            do {
                reader.read(try readFile(path, limit: sizeLimit), path: path)
            } catch {
                let reason =
                    error.code == EFBIG ? "it is larger than \(sizeLimit) bytes" : SystemError.text(of: error.code)
                reader.problems.append("cannot read the configuration \(path): \(reason)")
            }
        }
        reader.read(environment: places.environment)
        for setting in places.settings { reader.read(setting: setting) }
        if let root = places.root { reader.set("store.root", text: root, .option("--root")) }
        return try reader.finish()
    }

    /// Reads one file's bytes.
    ///
    /// - Throws: `configuration`, as `load`.
    public init(parsing bytes: [UInt8], path: String) throws(DaemonError) {
        var reader = ConfigurationReader()
        reader.read(bytes, path: path)
        self = try reader.finish()
    }
}
