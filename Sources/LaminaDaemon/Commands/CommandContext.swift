import Glibc
import LaminaStore
import LaminaSystem
public import Logging

/// What every command knows: the store, the configuration, and how to print.
public struct CommandContext: Sendable {
    /// The directory of the store, absolute and without symbolic links: as in the kernel's mount table.
    public var root: String
    public var configuration: Configuration
    /// The options that choose the configuration, for a server that is started with the same.
    public var configurationOptions: [String]
    public var log: Logger
    public var output: Output

    public init(
        root: String, configuration: Configuration, configurationOptions: [String] = [], log: Logger, output: Output
    ) {
        self.root = root
        self.configuration = configuration
        self.configurationOptions = configurationOptions
        self.log = log
        self.output = output
    }

    /// From the options that all commands take.
    ///
    /// - Parameters:
    ///   - settings: `KEY=VALUE`.
    ///   - serving: a server logs as its configuration says, also what is strange about that; a command only what went wrong,
    ///     unless `verbose`.
    /// - Throws: `configuration`; `StoreError.foreign` where a link on the way to the store is another user's.
    public static func make(
        root: String?, configuration path: String?, settings: [String] = [], verbose: Bool, json: Bool,
        serving: Bool = false
    ) throws -> CommandContext {
        let loaded = try LoadedConfiguration.load(.ofProcess(file: path, settings: settings, root: root))
        let quietest: Logger.Level = serving ? loaded.configuration.log.level : .error
        var log = Logger(label: "lamina") { _ in LogOutput(level: verbose ? .debug : quietest) }
        log.logLevel = verbose ? .debug : quietest
        for notice in loaded.notices { log.warning("\(notice)") }
        for unused in loaded.unused { log.notice("\(unused)") }
        var options = path.map { ["--config", absolutePath($0)] } ?? []
        for setting in settings { options += ["--set", setting] }
        try StoreDirectory.refuseForeignLinks(loaded.configuration.root)
        return CommandContext(
            root: resolvedPath(loaded.configuration.root), configuration: loaded.configuration,
            configurationOptions: options,
            log: log,
            output: Output(json: json))
    }

    /// Has the command log this much, whatever its configuration says.
    public mutating func setLogLevel(_ level: Logger.Level) { log.logLevel = level }

    /// Refuses early, in words, what the kernel would refuse later with a number.
    ///
    /// - Parameter action: such as "mounting", for "mounting needs root".
    func requireRoot(for action: String) throws(DaemonError) {
        guard geteuid() == 0 else {
            throw DaemonError(.permission, "\(action) needs root (CAP_SYS_ADMIN): try the same command with sudo")
        }
    }

    /// A client whose calls end at Ctrl-C.
    var client: ControlClient { ControlClient(root: root) { Interrupts.requested } }
}

/// Where a command writes: facts to standard output, progress to standard error.
public struct Output: Sendable {
    /// Whether facts are JSON.
    public var json: Bool
    /// Whether standard error is a terminal that can rewrite a line.
    public var showsProgressLine: Bool
    /// Whether standard output is one.
    public var isTerminal: Bool
    /// Whether colours and weights are wanted (https://no-color.org).
    public var usesColor: Bool

    public init(json: Bool) {
        self.json = json
        let dumb = getenv("TERM").map { String(cString: $0) == "dumb" } ?? true
        showsProgressLine = isatty(STDERR_FILENO) == 1 && !dumb
        isTerminal = isatty(STDOUT_FILENO) == 1 && !dumb
        usesColor = isTerminal && (getenv("NO_COLOR").map { $0.pointee == 0 } ?? true)
    }

    /// Without any terminal.
    init(plainWithJSON json: Bool) {
        self.json = json
        (showsProgressLine, isTerminal, usesColor) = (false, false, false)
    }

    /// Prints a fact: as JSON, or as the text that `body` makes.
    public func show(_ value: some Encodable, _ body: () -> String) throws {
        let text = json ? try JSONText.document(value) : body()
        guard !text.isEmpty else { return }
        print(text)
        // At once: if lines are written as they come, a failure is known only at the next call that fails.
        try StandardOutput.flush()
    }
}

extension Output {
    /// Writes to standard error, unchanged.
    func writeError(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
    }

    /// Writes bytes to standard output, unchanged.
    func write(_ bytes: [UInt8]) throws {
        try StandardOutput.flush()
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw SystemError.last("write error at", "standard output") }
            rest = rest.dropFirst(count)
        }
    }

    /// A sentence about something that does not stop the work.
    func warn(_ sentence: String) { writeError("lamina: \(sentence)\n") }
}
