import Glibc
import LaminaSystem
import Logging

/// Tells the service manager that the server answers, by asking the mount itself, for as long as it does. When it does not,
/// nothing is said, and the manager ends this process and starts the next (sd_watchdog_enabled(3)).
final class Watchdog: Sendable {
    private let path: String
    private let interval: Double
    private let notifier: Notifier
    private let log: Logger
    private let hasEnded = Monitor(false)

    /// nil where the manager does not watch this process.
    static func fromEnvironment(directory: String, notifier: Notifier, log: Logger) -> Watchdog? {
        func variable(_ name: String) -> String? {
            defer { unsetenv(name) }
            return getenv(name).map { String(cString: $0) }
        }
        let (limit, process) = (variable("WATCHDOG_USEC").flatMap { UInt64($0) }, variable("WATCHDOG_PID"))
        guard let limit, limit > 0, process.map({ Int32($0) == getpid() }) ?? true else { return nil }
        return Watchdog(directory: directory, limit: Double(limit) / 1e6, notifier: notifier, log: log)
    }

    /// - Parameter limit: the seconds after which the manager acts.
    init(directory: String, limit: Double, notifier: Notifier, log: Logger) {
        path = Self.probePath(in: directory)
        interval = limit / 3
        self.notifier = notifier
        self.log = log
    }

    /// A name that is in no view. The root's names are not cached, so the request always comes.
    static func probePath(in directory: String) -> String { directory + "/.lamina-health" }

    func start() {
        do throws(SystemError) {
            try startDetached("watchdog") { self.watch() }
        } catch {
            log.error("the watchdog cannot be started", metadata: ["error": "\(error)"])
        }
    }

    func stop() { hasEnded.withLock(notify: true) { $0 = true } }

    private func watch() {
        var prober: Prober?
        repeat {
            do {
                let current = try prober ?? Prober(path: path)
                prober = current
                if current.probe(milliseconds: Int32(clamping: Int(interval * 1000))) == ENOENT {
                    notifier.alive()
                } else {
                    log.error("the file system does not answer", metadata: ["seconds": "\(interval)"])
                    prober = nil
                }
            } catch {
                log.error("the file system cannot be watched", metadata: ["error": "\(error)"])
            }
        } while hasEnded.wait(seconds: interval, { $0 ? () : nil }) == nil
    }
}
