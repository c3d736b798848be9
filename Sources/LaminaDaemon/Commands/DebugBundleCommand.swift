import FoundationEssentials
import Glibc
import LaminaStore
import LaminaSystem

/// `lamina debug bundle`: what a helper would ask for, in one file of JSON, without secrets.
public struct DebugBundleCommand: Sendable {
    /// Where to write; `-` is standard output; nil is a file in the working directory whose name has the time.
    public var output: String?

    public init(output: String? = nil) { self.output = output }

    struct Bundle: Encodable {
        struct System: Encodable {
            var kernel: String
            var processors: Int
            var memoryBytes: Int64
            var user: UInt32
        }

        struct Setup: Encodable {
            /// Why it cannot be read.
            var error: String?
            var files: [String]
            var keys: [ConfigShowCommand.Row]
            var notices: [String]
            var unused: [String]
            /// Only the names: their values may be private. Keys of the configuration are above with their values.
            var environment: [String]
        }

        var madeAt: String
        var versions: VersionCommand.Report
        var system: System
        var configuration: Setup
        var doctor: Doctor.Report
        var server: ServerStatus?
        /// Why there is nothing about the server, or the index.
        var problems: [String]
        var views: [String: [[String: ViewValue]]]
        /// The end of `server.log`.
        var log: [String]
    }

    /// How many rows of a view it takes.
    static let rowLimit = 200
    /// How many bytes of the log it takes.
    static let logLimit = 64 << 10

    struct Report: Encodable {
        var file: String
    }

    /// - Parameter places: where the configuration is; if it is wrong, the bundle says so, and the defaults are used.
    public func run(_ places: LoadedConfiguration.Places, _ shown: Output) throws {
        let text = try JSONText.document(Self.gather(places)) + "\n"
        if output == "-" {
            print(text, terminator: "")
            return try StandardOutput.flush()
        }
        let path = absolutePath(output ?? Self.name(at: Date()))
        // Only its owner may read it, and it does not replace another file.
        let file = try File(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        try Array(text.utf8).withUnsafeBytes { try file.write($0, at: 0) }
        try shown.show(Report(file: path)) { "\(path): written; look through it before you give it away" }
    }

    private static func name(at date: Date) -> String {
        "lamina-debug-" + date.formatted(.iso8601).replacing(":", with: "").replacing("-", with: "") + ".json"
    }

    static func gather(_ places: LoadedConfiguration.Places) throws -> Bundle {
        var loaded = LoadedConfiguration()
        var failure: String?
        do {
            loaded = try LoadedConfiguration.load(places)
        } catch {
            failure = Redaction.cleanError("\(error)")
            if let root = places.root { loaded.configuration.store.root = root }
        }
        let root = resolvedPath(loaded.configuration.root)
        var problems: [String] = []
        func attempt<Value>(_ body: () throws -> Value) -> Value? {
            do {
                return try body()
            } catch {
                problems.append(Redaction.cleanError("\(error)"))
                return nil
            }
        }
        let views = attempt { try Index(root: root).dumpViews(limit: rowLimit) } ?? [:]
        let server = attempt { try ControlClient(root: root).status() }
        return Bundle(
            madeAt: Date().formatted(.iso8601), versions: VersionCommand.report, system: system(),
            configuration: setup(loaded, failure, places.environment), doctor: clean(Doctor(root: root).examine()),
            server: server, problems: problems,
            views: views.mapValues { $0.map { $0.mapValues(clean) } }, log: log(of: root))
    }

    private static func system() -> Bundle.System {
        Bundle.System(
            kernel: KernelVersion.current?.description ?? "unknown",
            processors: Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))),
            memoryBytes: Int64(sysconf(Int32(_SC_PHYS_PAGES))) * Int64(sysconf(Int32(_SC_PAGESIZE))), user: geteuid())
    }

    private static func setup(
        _ loaded: LoadedConfiguration, _ failure: String?, _ environment: [String: String]
    ) -> Bundle.Setup {
        let keys = ConfigShowCommand.rows(of: loaded).map { row in
            var row = row
            row.value = clean(row.value)
            return row
        }
        let names = environment.keys.filter { $0.hasPrefix("LAMINA_") || $0.lowercased().hasSuffix("_proxy") }
        return Bundle.Setup(
            error: failure, files: loaded.files, keys: keys, notices: loaded.notices.map(Redaction.clean),
            unused: loaded.unused.map { Redaction.clean($0.description) }, environment: names.sorted())
    }

    private static func clean(_ value: ConfigurationValue) -> ConfigurationValue {
        switch value {
        case .string(let text): .string(Redaction.clean(text))
        case .strings(let texts): .strings(texts.map(Redaction.clean))
        default: value
        }
    }

    private static func clean(_ value: ViewValue) -> ViewValue {
        if case .text(let text) = value { .text(Redaction.clean(text)) } else { value }
    }

    private static func clean(_ report: Doctor.Report) -> Doctor.Report {
        var report = report
        for index in report.findings.indices {
            report.findings[index].found = Redaction.clean(report.findings[index].found)
            report.findings[index].advice = report.findings[index].advice.map(Redaction.clean)
        }
        return report
    }

    private static func log(of root: String) -> [String] {
        guard let file = try? File(root + "/server.log", O_RDONLY), let size = try? file.size(),
            let bytes = try? file.read(Int(min(size, Int64(logLimit))), at: max(0, size - Int64(logLimit)))
        else { return [] }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map { Redaction.clean(String($0)) }
    }
}
