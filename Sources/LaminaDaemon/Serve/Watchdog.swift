import Glibc
import LaminaSystem
import Logging

/// Asks the mount itself, and tells the service manager as long as the mount answers. If it does not answer, nothing is told,
/// and the manager ends this process and starts the next one (sd_watchdog_enabled(3)).
///
/// What counts is progress, not how long one call takes. On a busy machine, or one with a slow disk, the request may wait
/// behind others for long, and the next process would be no quicker: as long as requests are finished, the server is alive.
final class Watchdog: Sendable {
    private let interval: Double
    private let ask: @Sendable (_ milliseconds: Int32) throws -> Int32?
    private let progress: @Sendable () -> UInt64
    private let alive: @Sendable () -> Void
    private let log: Logger
    private let hasEnded = Monitor(false)

    /// nil if the manager does not watch this process.
    ///
    /// - Parameter progress: how many requests of the mount were finished.
    static func fromEnvironment(
        directory: String, notifier: Notifier, log: Logger, progress: @escaping @Sendable () -> UInt64
    ) -> Watchdog? {
        func variable(_ name: String) -> String? {
            defer { unsetenv(name) }
            return getenv(name).map { String(cString: $0) }
        }
        let (limit, process) = (variable("WATCHDOG_USEC").flatMap { UInt64($0) }, variable("WATCHDOG_PID"))
        guard let limit, limit > 0, process.map({ Int32($0) == getpid() }) ?? true else { return nil }
        let prober = Monitor<Prober?>(nil)
        let path = probePath(in: directory)
        return Watchdog(
            limit: Double(limit) / 1e6,
            ask: { milliseconds in
                try prober.withLock { held in
                    let current = try held ?? Prober(path: path)
                    let answer = current.probe(milliseconds: milliseconds)
                    held = answer == nil ? nil : current
                    return answer
                }
            }, progress: progress, alive: { notifier.alive() }, log: log)
    }

    /// - Parameters:
    ///   - limit: the seconds after which the manager acts.
    ///   - ask: looks up a name that does not exist; returns an errno value, or nil if there was no answer in time.
    ///   - alive: tells the manager.
    init(
        limit: Double, ask: @escaping @Sendable (_ milliseconds: Int32) throws -> Int32?,
        progress: @escaping @Sendable () -> UInt64, alive: @escaping @Sendable () -> Void, log: Logger
    ) {
        interval = limit / 3
        self.ask = ask
        self.progress = progress
        self.alive = alive
        self.log = log
    }

    /// A name that is in no view. The kernel does not cache the root's names, so the request always comes.
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
        repeat { if answers() { alive() } } while hasEnded.wait(seconds: interval, { $0 ? () : nil }) == nil
    }

    /// Whether the mount answers this request, or at least others meanwhile. Takes at most a third of the limit.
    func answers() -> Bool {
        let before = progress()
        let answer: Int32?
        do {
            answer = try ask(Int32(clamping: Int(interval * 1000)))
        } catch {
            log.error("the file system cannot be watched", metadata: ["error": "\(error)"])
            return progress() != before
        }
        if answer == ENOENT { return true }
        if answer == nil, progress() != before {
            log.warning(
                "the file system answers slowly: a look-up took longer than it should, but others are answered",
                metadata: ["seconds": "\(interval)"])
            return true
        }
        log.error("the file system does not answer", metadata: ["seconds": "\(interval)"])
        return false
    }
}
