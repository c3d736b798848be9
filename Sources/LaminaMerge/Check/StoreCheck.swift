import Glibc
import LaminaDigest
public import LaminaStore
import LaminaSystem

/// Checks a store: the index against its own rules, every file against the index, and on demand the bytes against their
/// digests. It runs beside mounts and merges, because it takes no lock for longer than one file.
public final class StoreCheck {
    /// How far a check is.
    public struct Progress: Sendable {
        /// How many bytes to read, and how many were read.
        public var bytes: Int64
        public var readBytes: Int64
        public var fetchedBytes: Int64
        public var current: String?
    }

    /// How many contents are taken from the index at a time; after as many the position is recorded.
    private static let batch = 512
    /// How long, in seconds, a file without a meaning is left alone: a process may be writing it.
    private static let grace: Int64 = 600

    private let engine: MergeEngine
    private let options: CheckOptions
    private let interrupted: @Sendable () -> Bool
    private let report: (Progress) -> Void
    private let healed: ([ContentID]) -> Void
    private let deadline: Double?
    private let fetchedBefore: UInt64
    private var result: CheckReport
    /// The images that are checked, one for each platform of the reference; nil: the whole store.
    private var images: [ImageRecord]?
    private var image: String? { options.image }
    /// Contents whose damage is in the report, and was not put right.
    private var known: Set<ContentID> = []
    private var progress = Progress(bytes: 0, readBytes: 0, fetchedBytes: 0)

    /// - Parameters:
    ///   - shouldStop: asked often; true ends the check with `MergeError.interrupted`.
    ///   - healed: gets the contents that were healed, some at a time: what is cached of them is old.
    ///   - report: called for each file that is read.
    public init(
        _ engine: MergeEngine, _ options: CheckOptions, shouldStop: @escaping @Sendable () -> Bool,
        healed: @escaping ([ContentID]) -> Void = { _ in }, report: @escaping (Progress) -> Void = { _ in }
    ) {
        self.engine = engine
        self.options = options
        self.report = report
        self.healed = healed
        interrupted = shouldStop
        deadline = options.seconds.map { Self.now() + $0 }
        fetchedBefore = engine.totalFetchedBytes
        result = CheckReport(root: engine.store.root, image: options.image)
    }

    /// - Throws: `StoreError.notFound` for an image that the store does not have; `MergeError.interrupted`.
    public func run() throws -> CheckReport {
        images = try image.map { reference in
            let found = try engine.store.index.images(named: reference)
            if found.isEmpty {
                throw StoreError(.notFound, "the image \(reference) is not in the store \(engine.store.root)")
            }
            return found
        }
        do {
            try checkIndex()
            let totals = try engine.store.index.checkTotals(of: image)
            result.bytes = totals.bytes
            // Even with no time left, something is read, so that each check makes progress.
            do { try checkFiles() } catch is OutOfTime where options.readPercent != nil { result.complete = false }
            if let percent = options.readPercent { try checkData(percent: percent, of: totals.bytes) }
            if image == nil { try checkUnknown() }
        } catch is OutOfTime {
            result.complete = false
        } catch let error as SystemError where error.code == EINTR {
            if interrupted() { throw MergeError.stopped }
            result.complete = false
        }
        result.fetchedBytes = Int64(engine.totalFetchedBytes - fetchedBefore)
        return result
    }

    // MARK: Steps

    private func checkIndex() throws {
        let path = engine.store.index.path
        if access(path, F_OK) != 0 {
            result.damage.append(
                CheckFinding(
                    .index, path: "index.db",
                    reason:
                        "the file was deleted while a server has it open; 'lamina shutdown', then 'lamina check --repair'"
                ))
        }
        for problem in try images?.flatMap({ try engine.store.index.problems(of: $0) }) ?? engine.store.index.problems()
        {
            result.damage.append(
                CheckFinding(
                    .index, path: "index.db",
                    reason: "\(problem); end the server ('lamina shutdown'), then 'lamina check --repair'"))
        }
        if image == nil, result.damage.isEmpty { try checkTotals() }
        let layers = images.map { Set($0.flatMap(\.layers)) }
        for found in try engine.store.index.quarantine() where layers?.contains(found.layer) != false {
            result.damage.append(
                CheckFinding(
                    .quarantine, digest: found.digest.description, path: "layer \(found.digest)",
                    reason: "\(found.reason); nothing of it is served"))
        }
    }

    /// The totals that the index keeps: how much of layers, images and the store is here.
    private func checkTotals() throws {
        let wrong = try engine.store.index.wrongTotals()
        guard wrong > 0 else { return }
        var finding = CheckFinding(
            .index, path: "index.db", reason: "\(wrong) totals are wrong; 'lamina check --repair' counts them anew")
        if options.repairs {
            try engine.store.recountTotals()
            finding.repaired = try engine.store.index.wrongTotals() == 0
        }
        result.damage.append(finding)
    }

    /// Every file, without reading it: its size and its holes.
    private func checkFiles() throws {
        var position: ContentID?
        while true {
            let contents = try engine.store.index.landedContents(of: image, after: position, limit: Self.batch)
            guard let last = contents.last else { return }
            position = last.id
            var changed: [ContentID] = []
            defer { tellHealed(changed) }
            for content in contents {
                try checkTime()
                result.contents += 1
                guard let found = try examine(content, readsData: false, shouldStop) else { continue }
                if try handle(found) { changed.append(content.id) }
            }
        }
    }

    /// The bytes: begins where the last check stopped, and goes around once at most.
    private func checkData(percent: Double, of total: Int64) throws {
        let scope = image ?? ""
        var budget = percent >= 100 ? Int64.max : max(1, Int64(Double(total) * percent / 100))
        let start = try engine.store.index.checkPosition(scope: scope).content
        progress.bytes = min(total, budget)
        var (position, hasWrapped) = (start, false)
        while true {
            var contents = try engine.store.index.landedContents(of: image, after: position, limit: Self.batch)
            if hasWrapped, let start { contents = contents.filter { $0.id <= start } }
            var changed: [ContentID] = []
            // However it ends, the next check goes on behind what was read.
            defer {
                tellHealed(changed)
                try? engine.store.setCheckPosition(position, scope: scope)
            }
            for content in contents {
                if budget <= 0 { return }
                // A check reads one file even if its time is over: otherwise it would never get past a large one.
                if result.readBytes > 0 { try checkTime() }
                progress.current = content.name.digest.description
                let found = try examine(content, readsData: true, result.readBytes > 0 ? shouldStop : interrupted)
                result.readBytes += found?.bytesRead ?? content.size
                budget -= found?.bytesRead ?? content.size
                if let found, try handle(found) { changed.append(content.id) }
                position = content.id
                progress.readBytes = result.readBytes
                progress.fetchedBytes = Int64(engine.totalFetchedBytes - fetchedBefore)
                report(progress)
            }
            if contents.count == Self.batch { continue }
            // The end of the index. A round is finished when all before the start has been read too, now or earlier.
            if !hasWrapped {
                position = nil
                try engine.store.setCheckPosition(nil, scope: scope)
                result.roundFinished = true
                guard start != nil else { return }
                hasWrapped = true
            } else {
                return
            }
        }
    }

    /// Files that the index does not know: taken in if they have the digest of their name, else removed.
    private func checkUnknown() throws {
        let now = Int64(time(nil))
        try engine.store.forEachUnknownFile { file in
            try checkTime()
            result.unknown.files += 1
            result.unknown.bytes += file.size
            guard options.repairs else { return }
            var adopted: Int64 = 0
            if let content = file.content {
                adopted =
                    try engine.exclusively(content.id) {
                        try engine.store.salvage(content, shouldStop: shouldStop)
                    } ?? 0
            } else if try engine.store.adopt(file, shouldStop: shouldStop) {
                adopted = file.size
            }
            if adopted > 0 {
                result.unknown.adopted += 1
                result.unknown.adoptedBytes += adopted
            } else if now - file.changedAt > Self.grace {
                try engine.store.remove(file)
                result.unknown.removed += 1
            }
        }
        if result.unknown.adopted > 0 { try engine.store.makeDurable() }
    }

    // MARK: Findings

    /// - Returns: nil if the file cannot be read; that is noted.
    private func examine(
        _ content: ContentRecord, readsData: Bool, _ shouldStop: () -> Bool
    ) throws -> Examination? {
        do {
            return try engine.store.examine(content, readsData: readsData, shouldStop: shouldStop)
        } catch let error as SystemError where error.code != EINTR {
            guard known.insert(content.id).inserted else { return nil }
            result.damage.append(
                CheckFinding(
                    .unreadable, digest: content.name.digest.description, path: "content/\(content.name.path)",
                    reason: "\(error); if that stays so, remove the file: it is fetched again when it is opened"))
            return nil
        }
    }

    /// Notes what is wrong with a content, and heals it if that is wanted.
    ///
    /// - Returns: whether its file has other bytes now.
    private func handle(_ found: Examination) throws -> Bool {
        guard found.health != .sound, !known.contains(found.content.id) else { return false }
        // If it was being merged or given up at that moment, it is not damaged. It is done to its end, even if the time is
        // over.
        guard let found = try engine.confirm(found, shouldStop: interrupted) else {
            result.skipped += 1
            return false
        }
        guard let kind = CheckFinding.Kind(found.health) else { return false }
        var finding = CheckFinding(
            kind, digest: found.content.name.digest.description, path: "content/\(found.content.name.path)",
            chunks: found.damaged.map { CheckFinding.Part(offset: $0.lowerBound, size: Int64($0.count)) })
        defer {
            result.damage.append(finding)
            if !finding.repaired { known.insert(found.content.id) }
        }
        guard options.repairs else { return false }
        do {
            switch try engine.heal(found, shouldStop: { [interrupted] in interrupted() }) {
            case .sound, .healed: finding.repaired = true
            case .busy: finding.reason = "it is being merged"
            }
        } catch {
            if interrupted() { throw MergeError.stopped }
            finding.reason = "\(error)"
        }
        return true
    }

    private func tellHealed(_ contents: [ContentID]) {
        if !contents.isEmpty { healed(contents) }
    }

    // MARK: Time

    private struct OutOfTime: Error {}

    private var isOutOfTime: Bool { deadline.map { Self.now() >= $0 } ?? false }

    private func shouldStop() -> Bool { interrupted() || isOutOfTime }

    private func checkTime() throws {
        if interrupted() { throw MergeError.stopped }
        if isOutOfTime { throw OutOfTime() }
    }

    private static func now() -> Double {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
    }
}
