public import Logging

/// The names of log levels: swift-log's, and other names that operators know.
public enum LogLevel {
    /// The names for a configuration.
    public static let names = ["trace", "debug", "info", "warn", "error"]

    /// The name of a level in `names`.
    public static func name(of level: Logger.Level) -> String {
        switch level {
        case .trace: "trace"
        case .debug: "debug"
        case .info, .notice: "info"
        case .warning: "warn"
        case .error, .critical: "error"
        }
    }

    /// nil for anything else.
    public static func parse(_ text: String) -> Logger.Level? {
        switch text.lowercased() {
        case "trace": .trace
        case "debug": .debug
        case "info": .info
        case "notice": .notice
        case "warn", "warning": .warning
        case "error": .error
        case "critical", "fatal", "panic": .critical
        default: nil
        }
    }
}
