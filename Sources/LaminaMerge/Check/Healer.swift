import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem

/// The result of healing a content.
public enum Healing: Sendable, Equatable {
    /// Nothing was damaged any more.
    case sound
    case healed
    /// A merge of it is running: it is examined the next time.
    case busy
}

/// Heals damaged contents: takes damaged chunks back and has them come again, from another copy in the store or from the
/// layer's source.
///
/// They are written into the existing file, which may be open: its readers see each page either as it was, damaged, or right.
/// Nothing is said to have landed before it was verified.
final class Healer: Sendable {
    private let context: MergeContext
    private let prover: Prover
    private let recorder: Recorder

    init(_ context: MergeContext, prover: Prover, recorder: Recorder) {
        self.context = context
        self.prover = prover
        self.recorder = recorder
    }

    /// Examines a content once more, while no merge of it runs; nil if one runs.
    ///
    /// Without that, a content that is merged or given up during the examination may look damaged.
    func confirm(_ found: Examination, shouldStop: () -> Bool) throws -> Examination? {
        try context.board.exclusively(found.content.id) {
            guard let record = try context.store.index.content(found.content.id), record.state != .absent else {
                return Examination(content: found.content)
            }
            return try context.store.examine(record, readsData: found.health == .wrong, shouldStop: shouldStop)
        }
    }

    /// Heals a content: takes back and fetches what is damaged, and nothing else.
    ///
    /// - Throws: `MergeError`, `StoreError`, `SystemError`; what could not be fetched stays taken back, and is fetched when a
    ///   reader asks for it.
    func heal(_ damaged: Examination, shouldStop: () -> Bool) throws -> Healing {
        let content = damaged.content
        var shared: File?
        var lease = context.store.files.lease(writing: content.name)
        // Whatever the result, the content keeps its name.
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
            // If the content was not whole, only what was there.
            for range in damaged.damaged { try wait(for: content.id, range, shouldStop) }
            try recorder.flush()
        }
        try recorder.sync()
        return .healed
    }

    /// Proves a healed content again. A content that shared one file with others got its own file, because its chunks are what
    /// one layer says. When the whole is proven, the bytes go into the shared file, and that takes its place again.
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
    /// Runs `body` while no merge of a content runs; requests for the content wait.
    ///
    /// - Returns: nil if a merge of it is running; `body` is then not run.
    func exclusively<Result>(_ content: ContentID, _ body: () throws -> Result) rethrows -> Result? {
        let reserved = with { $0.reserve([content]) }
        guard !reserved.isEmpty else { return nil }
        defer { with(notify: true) { $0.release(reserved.values) } }
        return try body()
    }
}
