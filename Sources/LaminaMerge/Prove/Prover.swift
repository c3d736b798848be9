import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import Synchronization

/// Proves that files, and the tar of a layer, are what the image says: when the last chunk of a layer has landed, or before the
/// bytes of one content are used for another.
final class Prover: Sendable {
    struct Queue {
        var isWanted = true
        var isStopping = false
    }

    private let context: MergeContext
    let queue = Monitor(Queue())
    /// The layers that are being proven.
    let proving = Monitor<Set<LayerID>>([])

    init(_ context: MergeContext) { self.context = context }

    /// Notes that a layer may have become whole.
    func wake() { queue.withLock(notify: true) { $0.isWanted = true } }

    func stop() { queue.withLock(notify: true) { $0.isStopping = true } }

    // MARK: Layers

    /// Proves layers in the background, when nothing has been merged for some time.
    ///
    /// - Parameters:
    ///   - delay: in seconds. More work may come, readers that wait for bytes go first, and a pull that has its bytes must still
    ///     make them durable.
    ///   - patience: how many seconds it waits for that at most.
    func loop(delay: Double, patience: Double) {
        Thread.yieldToOthers()
        var wasQuiet = false
        var wantedSince: ContinuousClock.Instant?
        var trials = ProofTrials()
        while waitForWork(until: trials.next) {
            let since = wantedSince ?? .now
            wantedSince = since
            if queue.wait(seconds: delay / 2, { $0.isStopping ? true : nil }) == true { return }
            // A pull needs the cores for itself. But one whose registry gives a byte now and then never ends.
            defer { wasQuiet = isQuiet }
            let isLate = ContinuousClock.now - since > .seconds(patience)
            guard (wasQuiet && isQuiet) || isLate else { continue }
            wantedSince = nil
            queue.withLock { $0.isWanted = false }
            do {
                for layer in trials.due(of: try context.store.index.layersToProve(), at: .now) {
                    guard isQuiet || isLate else {
                        queue.withLock { $0.isWanted = true }
                        break
                    }
                    try proveNow(layer, &trials)
                }
            } catch {
                if context.stop.isSet { return }
                context.reporter.report(error)
            }
        }
    }

    /// Waits until a layer may have become whole, or one is to be asked again.
    ///
    /// - Returns: false at the end.
    private func waitForWork(until due: ContinuousClock.Instant?) -> Bool {
        guard let due else { return queue.wait { $0.isStopping ? false : $0.isWanted ? true : nil } }
        let pause = max(0, (due - .now) / .seconds(1))
        return queue.wait(seconds: pause) { $0.isStopping ? false : $0.isWanted ? true : nil } ?? true
    }

    /// Proves one of the layers that are due. If it cannot be proven now, that is no reason not to prove the others.
    ///
    /// - Throws: only when the merge stops.
    private func proveNow(_ layer: LayerID, _ trials: inout ProofTrials) throws {
        do {
            let isDone = try prove(layer, readingAtMost: trials.readLimit(of: layer), waits: false)
            // Somebody else is at it: it is looked at once more, because that may fail.
            if isDone { trials.succeeded(layer) } else { trials.postpone(layer, at: .now) }
        } catch {
            if context.stop.isSet { throw error }
            let pause = trials.failed(layer, at: .now)
            context.reporter.report(
                MergeError(
                    (error as? MergeError)?.code ?? .index,
                    "layer \(context.name(of: layer)) cannot be proven now, and is looked at again in \(Int(pause)) s",
                    cause: error))
        }
    }

    private var isQuiet: Bool { context.board.isQuiet }

    /// Proves a layer whose every chunk has landed: the digests of its files, and its diff ID if what was fetched is enough for
    /// that.
    ///
    /// - Parameters:
    ///   - limit: how long the registry may take for what nothing else has fetched, in seconds.
    ///   - waits: whether it waits while another thread proves the same layer.
    /// - Returns: false if another thread is proving the layer, and `waits` is false.
    /// - Throws: `StoreError`, `SystemError`, `OCIError`; `MergeError` if the merge stops meanwhile, or the registry takes too long.
    @discardableResult
    func prove(
        _ layer: LayerID, readingAtMost limit: Double = ProofTrials.longestRead, waits: Bool = true
    ) throws -> Bool {
        // A pull and the prover may want the same layer. Other layers do not wait: the registry of one may be slow.
        guard try begin(layer, waits: waits) else { return false }
        defer { proving.withLock(notify: true) { _ = $0.remove(layer) } }
        let ledger = try context.store.index.ledger(of: layer)
        if ledger.areChunksProven { return true }
        var areFilesProven = true
        for content in try context.store.index.claimedContents(of: layer) {
            if try prove(content) { continue }
            areFilesProven = false
            // It is damaged here: a process that has the file open sees that until the bytes come again. A content that was
            // given up meanwhile is not absent because of damage, and stays given up.
            if try context.store.index.content(content.id)?.state == .partial { mend(content.id) }
        }
        var (state, computed) = (ledger.diffIDState, Optional<Digest>.none)
        if state == .unknown, let diffID = ledger.diffID {
            let tar = TarProver(context, layer: layer, ledger: ledger, readingAtMost: limit)
            (state, computed) = try tar.digest() == nil ? (.notProvable, nil) : tar.verdict(diffID)
            if let computed {
                let end =
                    state == .unpadded
                    ? "only the zeros at its end are missing, and it is served" : "nothing of it is served any more"
                context.reporter.report(
                    MergeError(
                        .disproven,
                        "layer \(ledger.digest): its tar has the digest \(computed), and the image says \(diffID); \(end)"
                    ))
            }
        }
        try context.store.recordProofs(of: layer, areFilesProven: areFilesProven, diffID: state, computed: computed)
        return true
    }

    private func begin(_ layer: LayerID, waits: Bool) throws(MergeError) -> Bool {
        while true {
            let isOurs = proving.wait(seconds: waits ? 0.2 : 0) { $0.insert(layer).inserted ? true : nil }
            if isOurs == true { return true }
            if !waits { return false }
            if context.stop.isSet { throw .stopped }
        }
    }

    /// Proves those of an image's layers that are whole and whose diff ID can be computed from what was fetched.
    func proveDiffIDs(_ image: ImageRecord) throws {
        let whole = Set(try context.store.index.layersToProve())
        for layer in image.layers where whole.contains(layer) {
            let ledger = try context.store.index.ledger(of: layer)
            let format = LayerFormat(rawValue: Int32(clamping: ledger.format))
            // Of the others only where somebody wants what comes of it.
            guard format == .zstdChunked || context.options.keepsTarSplits else { continue }
            if ledger.diffIDState == .unknown { try prove(layer) }
        }
    }

    // MARK: Contents

    /// Hashes a merged content's whole file, once, and records the outcome.
    ///
    /// - Throws: `StoreError`, `SystemError`; `MergeError` when the merge stops meanwhile.
    func prove(_ content: ContentRecord) throws -> Bool {
        if content.proof != .claimed { return content.proof == .proven }
        let found: Bool?
        do {
            found = try context.store.files.reading(content.name) { file in
                // From here on it is not given up; it may have been given up before.
                guard try context.store.index.content(content.id)?.state == .merged else { return nil }
                return try hasDigest(content, file)
            }
        } catch let error as SystemError where error.code == ENOENT {
            // If it is gone, it is taken back. If it was given up, there is nothing to take back.
            _ = try context.store.recheck(content)
            found = nil
        }
        // Whatever is wrong, the next open must look at the content again.
        defer { if found != true { context.holders.release([content.id]) } }
        guard let isProven = found else { return false }
        // Bytes that were damaged here say nothing about the layer.
        if !isProven, try !context.store.recheck(content) { return false }
        try context.store.recordProof(isProven ? .proven : .disproven, of: content.id)
        return isProven
    }

    private func hasDigest(_ content: ContentRecord, _ file: File) throws -> Bool {
        var hash = SHA256()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        var offset: Int64 = 0
        while offset < content.size {
            let count = try file.read(into: buffer, at: offset)
            guard count > 0 else { break }
            hash.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            offset += Int64(count)
            if context.stop.isSet { throw MergeError.stopped }
        }
        return offset == content.size && hash.digest() == content.name.digest
    }

    /// Brings back what was taken back of a content, in place and in the background.
    private func mend(_ content: ContentID) {
        // Only one at a time heals it.
        guard context.board.with({ $0.healing.insert(content).inserted }) else { return }
        _ = context.board.request(content, range: nil, startsBackground: false) { [context] result in
            context.board.with { _ = $0.healing.remove(content) }
            if case .failure(let error) = result, error.code != .interrupted { context.reporter.report(error) }
        }
    }
}
