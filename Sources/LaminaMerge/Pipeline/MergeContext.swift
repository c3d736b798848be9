import LaminaDigest
import LaminaStore
import LaminaSystem
import Synchronization

/// What the services of one merge share: each has its own lock, and none calls another while it holds it.
struct MergeContext: Sendable {
    let store: Store
    let options: MergeEngine.Options
    let board: PlanBoard
    let sources: SourceCache
    let paces: ConnectionPaces
    let pool: BufferPool
    /// Keeps the store below its limit, if it has one.
    let space: SpaceKeeper?
    let counters: MergeCounters
    let reporter: ErrorReporter
    let stop: StopFlag
    let holders: ContentHolders
    let tocMemory: TOCMemory

    /// A layer's digest, for messages.
    func name(of layer: LayerID) -> String {
        (try? sources.sources(of: layer).blob.digest.description) ?? layer.description
    }

    /// Begins pulls.
    func begin(_ pulls: [LayerPull]) { board.begin(pulls) { sources.origin(of: $0) } }

    /// Says that parts cannot be had just now: to those who wait for them, or else as an error that nobody waits for.
    func fail(_ members: [Member], _ error: MergeError) {
        guard members.contains(where: { !$0.parts.isEmpty }) else { return }
        if board.failed(members, error), error.code != .interrupted { reporter.report(error) }
    }

    /// Bytes of a member differ from the table of contents: they are fetched once more from the beginning, then it is an error.
    func mistrust(_ member: Member, _ wrong: [(part: Part, error: MergeError)], _ layer: LayerID) {
        counters.count(.wrongBytes)
        let final = board.with(notify: true) { $0.mistrusted(member, wrong.map(\.part), of: layer) }
        if final.count < wrong.count {
            reporter.report(MergeError(wrong[0].error.code, "fetching once more", cause: wrong[0].error))
        }
        for (part, error) in wrong where final.contains(where: { $0.key == part.key && $0.index == part.index }) {
            fail([Member(blobOffset: member.blobOffset, blobSize: member.blobSize, parts: [part])], error)
        }
    }
}

/// Whether the merge should end.
final class StopFlag: Sendable {
    private let flag = Atomic<Bool>(false)

    var isSet: Bool { flag.load(ordering: .relaxed) }

    func set() { flag.store(true, ordering: .sequentiallyConsistent) }
}

/// Gets errors that no caller waits for.
final class ErrorReporter: Sendable {
    private let report = Mutex<(@Sendable (any Error) -> Void)?>(nil)

    func set(_ report: @escaping @Sendable (any Error) -> Void) { self.report.withLock { $0 = report } }

    func report(_ error: any Error) { report.withLock { $0 }?(error) }
}

/// What reads contents without the merge: the file system.
final class ContentHolders: Sendable {
    private let holders = Mutex<MergeEngine.Holders?>(nil)

    func set(_ holders: MergeEngine.Holders?) { self.holders.withLock { $0 = holders } }

    /// Has it give up what is only kept for the next open of these contents.
    ///
    /// - Returns: those of them that are open.
    @discardableResult
    func release(_ contents: Set<ContentID>) -> Set<ContentID> { holders.withLock { $0 }?.release(contents) ?? [] }
}
