import Glibc
import LaminaSystem
public import Logging

/// Writes log lines to standard error: a sentence, then fields. If journald reads them, each begins with its priority
/// (sd-daemon(3)) and has no time, because the journal has both.
public struct LogOutput: LogHandler {
    public var logLevel: Logger.Level
    public var metadata: Logger.Metadata = [:]
    private let style: Style

    enum Style: Sendable { case journal, plain }

    public init(level: Logger.Level) { self.init(level: level, style: Self.isJournal ? .journal : .plain) }

    init(level: Logger.Level, style: Style) {
        logLevel = level
        self.style = style
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        var fields = metadata
        if let own = event.metadata { fields.merge(own) { $1 } }
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        let line = Self.line(event.level, event.message.description, fields, style, now)
        var bytes = Array(line.utf8)
        bytes.append(UInt8(ascii: "\n"))
        // One write for each line, so that lines of several threads do not mix.
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }

    static func line(
        _ level: Logger.Level, _ message: String, _ fields: Logger.Metadata, _ style: Style, _ now: timespec
    ) -> String {
        var line =
            switch style {
            case .journal: "<\(priority(level))>"
            case .plain: "\(time(now)) \(name(level)) "
            }
        line += oneLine(message)
        for key in fields.keys.sorted() {
            let value = fields[key].map { "\($0)" } ?? ""
            let plain =
                !value.isEmpty
                && value.utf8.allSatisfy { $0 > 0x20 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "=") }
            line += " \(key)=" + (plain ? value : "\"\(oneLine(value).replacing("\"", with: "'"))\"")
        }
        return line
    }

    /// A line break in a message would be a line of its own, and whoever names files could write log lines.
    private static func oneLine(_ text: String) -> String { ErrorText.withoutControls(text, keeping: []) }

    /// syslog(3).
    private static func priority(_ level: Logger.Level) -> Int {
        switch level {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }

    private static func name(_ level: Logger.Level) -> String {
        level == .warning ? "warn" : level.rawValue
    }

    /// RFC 3339 in UTC, with milliseconds.
    private static func time(_ now: timespec) -> String {
        var seconds = now.tv_sec
        var parts = tm()
        gmtime_r(&seconds, &parts)
        return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))T"
            + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))."
            + String("\(1000 + now.tv_nsec / 1_000_000)".dropFirst()) + "Z"
    }

    private static func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }

    /// `JOURNAL_STREAM` names the device and inode of the journal's stream; it counts only while standard error is that stream
    /// (systemd.exec(5)).
    private static let isJournal: Bool = {
        guard let text = getenv("JOURNAL_STREAM") else { return false }
        return String(cString: text) == File.identity(of: STDERR_FILENO)
    }()
}
