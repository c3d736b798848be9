import LaminaPodman
import LaminaStore
import LaminaSystem
import Logging
import Synchronization

/// What a server says about its image store for podman.
public struct PodmanStatus: Sendable, Codable, Equatable {
    public var directory: String
    /// How many images podman sees there.
    public var images: Int
    /// The others of the store, and why podman does not see them.
    public var absent: [String: String]
    /// Why it is not kept; nil if it is.
    public var problem: String?

    public init(directory: String, images: Int, absent: [String: String] = [:], problem: String? = nil) {
        (self.directory, self.images, self.absent, self.problem) = (directory, images, absent, problem)
    }
}

/// Keeps the image store for podman as the index is: at once after what a command does, and soon after what is proven behind it.
final class PodmanKeeper: Sendable {
    /// Seconds between two looks at the index.
    private static let interval = 2.0
    /// And at podman's records, while something stays only because of them, in looks.
    private static let patience = 15
    /// How long podman may have its locks, in seconds, where nobody waits for more than that.
    static let lockPatience = 20.0

    private struct State {
        var isStopping = false
        var problem: String?
    }

    let images: PodmanImageStore
    private let store: Store
    private let log: Logger
    private let state = Monitor(State())
    private let thread = Monitor<Thread?>(nil)

    init(_ images: PodmanImageStore, store: Store, log: Logger) {
        (self.images, self.store, self.log) = (images, store, log)
    }

    /// Makes it whole, and begins to look.
    func start() throws {
        update(force: true)
        let thread = try Thread("podman") { [self] in work() }
        self.thread.withLock { $0 = thread }
    }

    func stop() {
        state.withLock(notify: true) { $0.isStopping = true }
        thread.withLock { $0.take() }?.join()
    }

    /// Brings it to what the index has. What fails is logged, and tried again soon.
    ///
    /// - Parameters:
    ///   - force: also if nothing seems to have changed.
    ///   - patience: how long podman may have its locks, in seconds, before what is to go stays until later.
    func update(force: Bool = false, patience: Double = 0) {
        do {
            try images.update(force: force, patience: patience) { [state] in state.withLock { $0.isStopping } }
            state.withLock { $0.problem = nil }
        } catch {
            let text = "\(error)"
            if state.withLock({ $0.problem }) != text {
                log.error("what podman sees is not what the store has", metadata: ["error": "\(text)"])
            }
            state.withLock { $0.problem = text }
        }
    }

    private func work() {
        Thread.yieldToOthers()
        var version: UInt64?
        var looks = 0
        while true {
            if state.wait(seconds: Self.interval, { $0.isStopping ? true : nil }) == true { return }
            looks += 1
            let current = store.index.contentVersion
            let hasFailed = state.withLock { $0.problem != nil }
            if images.keepsMore || hasFailed, looks.isMultiple(of: Self.patience) {
                update(force: true, patience: Self.lockPatience)
            } else if version != current {
                update()
            }
            version = current
        }
    }

    func status() -> PodmanStatus {
        let references = ((try? store.index.images()) ?? []).map(\.reference)
        var absent: [String: String] = [:]
        for reference in references { absent[reference] = images.absence(of: reference)?.description }
        return PodmanStatus(
            directory: images.directory, images: images.imageCount, absent: absent,
            problem: state.withLock { $0.problem })
    }
}
