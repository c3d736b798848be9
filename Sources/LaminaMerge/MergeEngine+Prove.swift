import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import Synchronization

// Prove: when the last chunk of a layer has landed, see that its files and its tar are what the image says.

/// What the prover is asked for.
struct ProofQueue {
    var isWanted = false
    var isStopping = false
}

extension MergeEngine {
    /// Proves layers behind everybody's back, when nothing has been merged for some time.
    ///
    /// - Parameter delay: in seconds; more may come, whoever waits for bytes goes first, and a pull that has its bytes still has to
    ///   make them durable.
    func proveLoop(delay: Double) {
        Thread.yieldToOthers()
        var wasQuiet = false
        while true {
            let goesOn = proofs.wait { $0.isStopping ? false : $0.isWanted ? true : nil }
            guard goesOn else { return }
            if proofs.wait(seconds: delay / 2, { $0.isStopping ? true : nil }) == true { return }
            // A pull wants the cores for itself.
            defer { wasQuiet = isQuiet }
            guard wasQuiet, isQuiet else { continue }
            proofs.withLock { $0.isWanted = false }
            do {
                for layer in try store.index.layersToProve() {
                    guard isQuiet else {
                        proofs.withLock { $0.isWanted = true }
                        break
                    }
                    try prove(layer)
                }
            } catch {
                if isStopping.load(ordering: .relaxed) { return }
                recorder.report(error)
            }
        }
    }

    private var isQuiet: Bool { state.withLock { $0.active.isEmpty && $0.producers.isEmpty } }

    /// Proves a layer whose every chunk has landed: the digests of its files, and its diff ID where what was fetched tells it.
    ///
    /// - Throws: `StoreError`, `SystemError`, `OCIError`; `MergeError` when the merge stops meanwhile.
    func prove(_ layer: LayerID) throws {
        // One at a time: a pull and the prover may want the same.
        try proving.withLock { _ in
            let ledger = try store.index.ledger(of: layer)
            if ledger.areChunksProven { return }
            var areFilesProven = true
            for content in try store.index.claimedContents(of: layer) {
                if try prove(content) { continue }
                areFilesProven = false
                // Damaged here: whoever has the file open sees that until the bytes come again.
                // What was given up meanwhile is not absent by damage, and stays given up.
                if try store.index.content(content.id)?.state == .partial { mend(content.id) }
            }
            var (state, computed) = (ledger.diffIDState, Optional<Digest>.none)
            if state == .unknown, let diffID = ledger.diffID {
                computed = try TarProver(engine: self, layer: layer, ledger: ledger).digest()
                state = computed == nil ? .notProvable : computed == diffID ? .proven : .mismatch
                if state != .mismatch { computed = nil }
                if let computed {
                    recorder.report(
                        MergeError(
                            .disproven,
                            "layer \(ledger.digest): its tar has the digest \(computed), and the image says \(diffID); "
                                + "its files are right by its table of contents"))
                }
            }
            try store.recordProofs(of: layer, areFilesProven: areFilesProven, diffID: state, computed: computed)
        }
    }

    /// Proves those of an image's layers that are whole and whose diff ID can be told from what was fetched.
    func proveDiffIDs(_ image: ImageRecord) throws {
        let whole = Set(try store.index.layersToProve())
        for layer in image.layers where whole.contains(layer) {
            let ledger = try store.index.ledger(of: layer)
            let format = LayerFormat(rawValue: Int32(clamping: ledger.format))
            if format == .zstdChunked, ledger.diffIDState == .unknown { try prove(layer) }
        }
    }
}

/// Puts a layer's tar together from the files in the store and what was kept besides, and hashes it.
private final class TarProver {
    /// Bytes of a blob that may be fetched for a proof: ranges that nobody has fetched yet, because their files were in the
    /// store already, and whose headers are therefore not known.
    private static let gapLimit: Int64 = 1 << 20
    private static let gapCount = 4096
    /// Of a compressed tar-split.
    private static let tarSplitLimit: Int64 = 512 << 20

    private let engine: MergeEngine
    private let layer: LayerID
    private let ledger: LayerLedger
    private var hash = SHA256()
    private var file: (name: BackingName, file: File)?
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 4096)

    init(engine: MergeEngine, layer: LayerID, ledger: LayerLedger) {
        self.engine = engine
        self.layer = layer
        self.ledger = ledger
    }

    deinit { buffer.deallocate() }

    /// The digest of the tar; `nil` where not everything of it is known.
    func digest() throws -> Digest? {
        guard let source = try engine.store.index.tarSource(of: layer) else { return nil }
        do {
            if let tarSplit = source.tarSplit { return try digest(by: tarSplit) }
            guard LayerFormat(rawValue: Int32(clamping: ledger.format)) == .zstdChunked,
                let end = source.membersEnd
            else { return nil }
            return try digest(membersEnd: end)
        } catch let error as FormatError {
            engine.recorder.report(
                MergeError(.corrupt, "layer \(ledger.digest): its tar cannot be told from what is there", cause: error))
            return nil
        }
    }

    /// By the layer's own tar-split, which is fetched now: nothing else needs it.
    private func digest(by range: Range<Int64>) throws -> Digest? {
        guard range.count <= Self.tarSplitLimit else { return nil }
        let bytes = try fetch(range)
        var seen: Set<Int64> = []
        var isComplete = true
        try bytes.withUnsafeBytes { bytes in
            try TarSplit.read(bytes) { item in
                switch item {
                case .bytes(let bytes): hash.update(bytes)
                case .file(let name, let size):
                    guard size > 0, isComplete else { return }
                    let path = name.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual(".".utf8) }
                    // Of two of one name only the last is in the store.
                    guard let found = try engine.store.index.content(in: layer, at: path.map(Array.init)),
                        found.record.size == size, seen.insert(found.inode).inserted
                    else { return isComplete = false }
                    try update(found.record, 0..<size)
                }
            }
        }
        let digest = hash.digest()
        if digest == ledger.diffID { return digest }
        // One that does not name every file says nothing of the tar.
        guard isComplete, try seen.count == engine.store.index.fileCount(of: layer) else { return nil }
        return digest
    }

    /// By what was kept of each member, and what was never fetched, as long as that is little.
    private func digest(membersEnd: Int64) throws -> Digest? {
        let places = try engine.store.index.tarPartPlaces(of: layer)
        var gaps: [Range<Int64>] = []
        var position: Int64 = 0
        for place in places + [membersEnd..<membersEnd] {
            if place.lowerBound > position { gaps.append(position..<place.lowerBound) }
            position = max(position, place.upperBound)
        }
        let missing = gaps.reduce(0) { $0 + Int64($1.count) }
        guard missing <= max(Self.gapLimit, membersEnd / 16), gaps.count <= Self.gapCount else { return nil }
        var nextGap = 0
        func fillGap(before end: Int64) throws {
            guard nextGap < gaps.count, gaps[nextGap].lowerBound < end else { return }
            let stream = try StreamDecompressor(.zstd)
            try fetch(gaps[nextGap]).withUnsafeBytes { try stream.push($0) { hash.update($0) } }
            nextGap += 1
        }
        for place in places {
            try fillGap(before: place.lowerBound)
            guard let bytes = try engine.store.index.tarPart(of: layer, at: place.lowerBound) else { return nil }
            guard try update(try bytes.withUnsafeBytes { try TarPart($0) }, at: place.lowerBound) else { return nil }
        }
        try fillGap(before: .max)
        return hash.digest()
    }

    /// Hashes the payload of one member.
    ///
    /// - Returns: whether all of it is there.
    private func update(_ part: TarPart, at blobOffset: Int64) throws -> Bool {
        var rest = part.rest[...]
        var end = 0
        func take(_ count: Int) {
            let bytes = rest.prefix(count)
            rest = rest.dropFirst(bytes.count)
            bytes.withUnsafeBytes { hash.update($0) }
        }
        for cut in part.cuts {
            take(cut.offset - end)
            end = cut.offset + cut.size
            let found = try engine.store.index.content(in: layer, at: blobOffset, innerOffset: Int64(cut.offset))
            guard let found, found.offset + Int64(cut.size) <= found.record.size else { return false }
            try update(found.record, found.offset..<(found.offset + Int64(cut.size)))
        }
        take(rest.count)
        return true
    }

    /// Hashes a range of a file of the store.
    private func update(_ content: ContentRecord, _ range: Range<Int64>) throws {
        if file?.name != content.name { file = (content.name, try engine.store.files.open(content.name)) }
        guard let file = file?.file else { return }
        var offset = range.lowerBound
        while offset < range.upperBound {
            if engine.isStopping.load(ordering: .relaxed) { throw MergeError.stopped }
            let count = min(buffer.count, Int(range.upperBound - offset))
            let read = try file.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]), at: offset)
            guard read > 0 else {
                throw FormatError(.truncated, "\(content.name.digest) ends early", offset: offset)
            }
            hash.update(UnsafeRawBufferPointer(rebasing: buffer[..<read]))
            offset += Int64(read)
        }
    }

    private func fetch(_ range: Range<Int64>) throws -> [UInt8] {
        let (engine, (blob, sources)) = (engine, try engine.sources.sources(of: layer))
        var failure: any Error = MergeError(.fetch, "the index knows no place to get layer \(blob.digest) from")
        for source in sources {
            do {
                var bytes: [UInt8] = []
                bytes.reserveCapacity(range.count)
                try source.read(
                    blob.digest, size: blob.size, range: range,
                    shouldStop: { engine.isStopping.load(ordering: .relaxed) }
                ) { bytes.append(contentsOf: $0) }
                engine.countFetched(Int64(bytes.count))
                return bytes
            } catch {
                failure = error
            }
        }
        throw MergeError.fetching(failure)
    }
}
