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
    /// Held while a layer is proven.
    let proving = Monitor(())

    init(_ context: MergeContext) { self.context = context }

    /// Notes that a layer may have become whole.
    func wake() { queue.withLock(notify: true) { $0.isWanted = true } }

    func stop() { queue.withLock(notify: true) { $0.isStopping = true } }

    // MARK: Layers

    /// Proves layers in the background, when nothing has been merged for some time.
    ///
    /// - Parameter delay: in seconds. More work may come, readers that wait for bytes go first, and a pull that has its bytes
    ///   must still make them durable.
    func loop(delay: Double) {
        Thread.yieldToOthers()
        var wasQuiet = false
        while true {
            let goesOn = queue.wait { $0.isStopping ? false : $0.isWanted ? true : nil }
            guard goesOn else { return }
            if queue.wait(seconds: delay / 2, { $0.isStopping ? true : nil }) == true { return }
            // A pull needs the cores for itself.
            defer { wasQuiet = isQuiet }
            guard wasQuiet, isQuiet else { continue }
            queue.withLock { $0.isWanted = false }
            do {
                for layer in try context.store.index.layersToProve() {
                    guard isQuiet else {
                        queue.withLock { $0.isWanted = true }
                        break
                    }
                    try prove(layer)
                }
            } catch {
                if context.stop.isSet { return }
                context.reporter.report(error)
            }
        }
    }

    private var isQuiet: Bool { context.board.isQuiet }

    /// Proves a layer whose every chunk has landed: the digests of its files, and its diff ID if what was fetched is enough for
    /// that.
    ///
    /// - Throws: `StoreError`, `SystemError`, `OCIError`; `MergeError` if the merge stops meanwhile.
    func prove(_ layer: LayerID) throws {
        // One at a time: a pull and the prover may want the same layer.
        try proving.withLock { _ in
            let ledger = try context.store.index.ledger(of: layer)
            if ledger.areChunksProven { return }
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
                let tar = TarProver(context, layer: layer, ledger: ledger)
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
