import Glibc
import LaminaFilesystem
import LaminaMerge
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Logging

@testable import LaminaDaemon

/// Paths of this package.
enum URLPath {
    static let repository: String = {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/")
    }()
}

/// The same numbers each time (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

/// An engine without store and kernel.
final class FakeEngine: ControlledEngine {
    struct State {
        var mounts: [MountListing] = []
        var pulls: [PullRequest] = []
        var checks: [CheckOptions] = []
        var stoppedPulls = 0
        var shutdowns = 0
        var whyNotReady: String?
        var isHeldElsewhere = false
    }

    let state = Monitor(State())
    /// How the next pulls go: steps of progress, then an error if there is one; `nil` steps go on until they are stopped.
    let steps: Int?
    let failure: (any Error)?

    init(steps: Int? = 3, failure: (any Error)? = nil) {
        self.steps = steps
        self.failure = failure
    }

    func pull(
        _ reference: String, platform: String?, plainHTTP: Bool, lazy: Bool, pin: Bool?,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> PullResult {
        state.withLock {
            $0.pulls.append(PullRequest(reference: reference, platform: platform, plainHTTP: plainHTTP, lazy: lazy))
        }
        var step = 0
        while steps.map({ step < $0 }) ?? true {
            if shouldStop() {
                state.withLock(notify: true) { $0.stoppedPulls += 1 }
                throw DaemonError(.interrupted, "stopped")
            }
            step += 1
            progress(
                PullProgress(
                    stage: .merging, reference: reference, layers: 1, indexedLayers: 1, bytes: 100,
                    landedBytes: Int64(step),
                    fetchedBytes: Int64(step), current: "file \(step)"))
            usleep(120_000)
        }
        if let failure { throw failure }
        return PullResult(
            reference: reference, manifestDigest: "sha256:00", platform: platform ?? "linux/amd64", layers: 1,
            bytes: 100,
            landedBytes: 100, fetchedBytes: 50, complete: !lazy)
    }

    func check(
        _ options: CheckOptions, progress: @escaping @Sendable (PullProgress) -> Void,
        shouldStop: @escaping @Sendable () -> Bool
    ) throws -> CheckReport {
        state.withLock { $0.checks.append(options) }
        progress(PullProgress(stage: .checking, reference: "the store", bytes: 100, landedBytes: 50))
        if let failure { throw failure }
        var report = CheckReport(root: "/", image: options.image)
        report.damage = [CheckFinding(.digest, digest: "sha256:00", path: "content/00/00", repaired: options.repairs)]
        return report
    }

    func mount(
        _ reference: String, at target: String, upper: String?, platform: String?, plainHTTP: Bool,
        sealed: Bool, rights: MountRights, progress: @escaping @Sendable (PullProgress) -> Void,
        shouldStop: @escaping @Sendable () -> Bool
    ) throws -> MountResult {
        state.withLock {
            $0.mounts.append(
                MountListing(target: target, reference: reference, writable: upper, sealed: sealed ? true : nil))
        }
        return MountResult(target: target, reference: reference, writable: upper, layers: 2)
    }

    func seal(
        _ reference: String, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> SealResult {
        SealResult(reference: reference, path: "/sealed/1.erofs", bytes: 100, inodes: 2)
    }

    func use(credentialsFile: String, for reference: String) throws {}

    var requestProgress: UInt64 { 0 }

    func unmount(_ target: String) throws {
        try state.withLock { state in
            guard let index = state.mounts.firstIndex(where: { $0.target == target }) else {
                throw SystemError(code: EACCES, operation: "unmount", subject: target)
            }
            state.mounts.remove(at: index)
        }
    }

    func removeImage(_ reference: String, collects: Bool) throws -> RemoveResult {
        RemoveResult(reference: reference, garbage: collects ? GarbageReport() : nil)
    }

    func collectGarbage(dryRun: Bool) throws -> GarbageReport { GarbageReport() }

    func pin(_ reference: String, _ isPinned: Bool) throws -> PinResult {
        PinResult(reference: reference, pinned: isPinned)
    }

    func release() throws -> Bool { state.withLock { !$0.isHeldElsewhere } }

    func mounts() throws -> [MountListing] { state.withLock { $0.mounts } }

    func status() -> ServerStatus {
        ServerStatus(
            pid: getpid(), version: "0", root: "/", passthrough: false, passthroughReason: "a test",
            opens: FilesystemCounters(),
            fetchedBytes: 1, inFlightBytes: 2, startedAt: "2026-01-01T00:00:00Z")
    }

    func metrics() throws -> String { "# HELP fake A test's.\n# TYPE fake gauge\nfake 1\n" }

    func whyNotReady() -> String? { state.withLock { $0.whyNotReady } }

    func shutdown(unmount: Bool) { state.withLock(notify: true) { $0.shutdowns += 1 } }
}

/// A server of a fake engine on its own thread.
final class TestServer: Sendable {
    let root: String
    private let directory: Scratch
    private let ended = Monitor<Result<Void, any Error>?>(nil)

    /// Returns when the server is ready.
    init(_ engine: FakeEngine, subdirectory: String = "", endsWhenIdle: Bool = false) throws {
        directory = Scratch()
        root = directory.path + subdirectory
        try createDirectories(root)
        var log = Logger(label: "test") { _ in LogOutput(level: .critical) }
        log.logLevel = .critical
        let (reading, writing) = try BackgroundProcess.makePipe()
        let signal = ReadySignal(descriptor: dup(writing.descriptor))
        let server = Server(root: root, configuration: Configuration(), endsWhenIdle: endsWhenIdle, log: log)
        try startDetached("test-server") { [ended] in
            let result = Result { try server.serve(engine, Notifier(path: nil), signal) }
            ended.withLock(notify: true) { $0 = result }
        }
        var poll = pollfd(fd: reading.descriptor, events: Int16(POLLIN), revents: 0)
        let isReady = withExtendedLifetime(reading) {
            Glibc.poll(&poll, 1, 10_000) == 1 && poll.revents & Int16(POLLIN) != 0
        }
        guard isReady else { throw DaemonError(.serverFailed, "the test's server is not ready") }
    }

    var client: ControlClient { ControlClient(root: root) }

    /// Waits for the server's end; false after ten seconds.
    func hasEnded() throws -> Bool {
        guard let result = ended.wait(seconds: 10, { $0 }) else { return false }
        try result.get()
        return true
    }

    func stop() throws -> Bool {
        try client.shutdown()
        return try hasEnded()
    }
}
