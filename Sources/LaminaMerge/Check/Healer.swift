import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem

/// How putting a content right ended.
public enum Healing: Sendable, Equatable {
    /// There was nothing to do any more.
    case sound
    case healed
    /// It is being merged just now: it is looked at the next time.
    case busy
}

/// Puts damaged contents right: damaged chunks are taken back and come again, from another copy in the store or from where the layer
/// can be fetched.
///
/// They are written into the file that stands there, which may be open: its readers see each page either as it was, damaged, or
/// right. Nothing is said to have landed before it was verified.
final class Healer: Sendable {
    private let context: MergeContext
    private let prover: Prover
    private let recorder: Recorder

    init(_ context: MergeContext, prover: Prover, recorder: Recorder) {
        self.context = context
        self.prover = prover
        self.recorder = recorder
    }

    /// Looks at a content once more, while nobody merges it; nil while somebody does.
    ///
    /// Without that, what is merged or given up in the middle of a look may pass for damage.
    func confirm(_ found: Examination, shouldStop: () -> Bool) throws -> Examination? {
        try context.board.exclusively(found.content.id) {
            guard let record = try context.store.index.content(found.content.id), record.state != .absent else {
                return Examination(content: found.content)
            }
            return try context.store.examine(record, readsData: found.health == .wrong, shouldStop: shouldStop)
        }
    }

    /// Puts a content right: what is damaged is taken back and fetched, nothing else is.
    ///
    /// - Throws: `MergeError`, `StoreError`, `SystemError`; what could not be had stays taken back, and is fetched when somebody
    ///   asks for it.
    func heal(_ damaged: Examination, shouldStop: () -> Bool) throws -> Healing {
        let content = damaged.content
        var shared: File?
        var lease = context.store.files.lease(writing: content.name)
        // Whatever comes of it, the content keeps its name.
        defer { lease.recorded() }
        let isTaken = try context.board.exclusively(content.id) { () throws -> Bool in
            guard let record = try context.store.index.content(content.id), record.state != .absent else {
                return false
            }
            if !damaged.damaged.isEmpty { try context.store.putAsideIfSealed(content, damaged.health) }
            shared = content.name.claim == nil ? nil : try lease.openShared(content.name)
            if case .short = damaged.health {
                try (shared ?? lease.openInPlace(content.name, size: content.size)).truncate(to: content.size)
            }
            guard !damaged.damaged.isEmpty else { return true }
            context.board.with { _ = $0.healing.insert(content.id) }
            try context.store.takeBack(damaged.damaged, of: content.id)
            return true
        }
        guard let isTaken else { return .busy }
        defer { context.board.with { _ = $0.healing.remove(content.id) } }
        guard isTaken else { return .sound }
        guard !damaged.damaged.isEmpty else { return .healed }
        if content.state == .merged {
            try wait(for: content.id, nil, shouldStop)
            try recorder.flush()
            if content.proof == .proven { try restoreProof(of: content, damaged, shared) }
        } else {
            // Of a content that nobody wanted whole, only what was there.
            for range in damaged.damaged { try wait(for: content.id, range, shouldStop) }
            try recorder.flush()
        }
        try recorder.sync()
        return .healed
    }

    /// Proves a healed content anew. What had been one file with other contents' got a file of its own, as its chunks are what
    /// one layer says of them: once the whole is proven, the bytes go into the shared file, and that takes its place again.
    private func restoreProof(of content: ContentRecord, _ damaged: Examination, _ shared: File?) throws {
        guard let record = try context.store.index.content(content.id), record.state == .merged,
            try prover.prove(record)
        else {
            return
        }
        guard let shared else { return }
        let own = try context.store.files.open(content.name)
        for range in damaged.damaged {
            try shared.copyRange(from: own, at: range.lowerBound, to: range.lowerBound, count: range.count)
        }
        guard try shared.digest(of: 0..<content.size) == content.name.digest,
            let twin = try context.store.index.merged(content.name.digest, size: content.size).first(where: {
                try $0.id != content.id && $0.proof == .proven
                    && context.store.files.hasInode(shared.status().st_ino, $0.name)
            })
        else { return }
        _ = try context.board.exclusively(content.id) { try context.store.adopt(twin, as: record) }
    }

    /// Merges a content, or a range of it, for the calling thread.
    private func wait(
        for content: ContentID, _ range: Range<Int64>?, _ shouldStop: () -> Bool
    ) throws {
        let outcome = Monitor<Result<Void, MergeError>?>(nil)
        let ticket = context.board.request(content, range: range, startsBackground: false) { result in
            outcome.withLock(notify: true) { $0 = result }
        }
        while true {
            if let result = outcome.wait(seconds: 0.2, { $0 }) { return try result.get() }
            if shouldStop(), context.board.leave(ticket) { throw MergeError.stopped }
        }
    }
}

extension PlanBoard {
    /// Runs `body` while nobody merges a content, and those who ask for it wait.
    ///
    /// - Returns: nil, with `body` not run, while somebody merges it.
    func exclusively<Result>(_ content: ContentID, _ body: () throws -> Result) rethrows -> Result? {
        let reserved = with { $0.reserve([content]) }
        guard !reserved.isEmpty else { return nil }
        defer { with(notify: true) { $0.release(reserved.values) } }
        return try body()
    }
}
