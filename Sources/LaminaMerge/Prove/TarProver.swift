import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem

/// Puts a layer's tar together from the files in the store and what was kept besides them, and hashes it.
final class TarProver {
    /// How many bytes of a blob may be fetched for a proof: ranges that were never fetched, because their files were in the
    /// store already, so that their headers are not known.
    private static let gapLimit: Int64 = 1 << 20
    private static let gapCount = 4096
    /// Of a compressed tar-split.
    private static let tarSplitLimit: Int64 = 64 << 20

    private let context: MergeContext
    private let layer: LayerID
    private let ledger: LayerLedger
    /// Whether what is missing is asked of the layer's registry.
    private let mayFetch: Bool
    private var hash = SHA256()
    /// Of a layer whose table of contents is in no tar.
    private var witness: TarWitness?
    private let split: TarSplitKeeper?
    private var file: (name: BackingName, file: File)?
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 4096)
    private let reads: ProofReads

    /// - Parameters:
    ///   - limit: how long the registry may take for what nothing else has fetched, in seconds.
    ///   - mayFetch: whether what is missing is asked of the layer's registry.
    init(
        _ context: MergeContext, layer: LayerID, ledger: LayerLedger, readingAtMost limit: Double = 0,
        mayFetch: Bool = true
    ) {
        self.mayFetch = mayFetch
        self.context = context
        self.layer = layer
        self.ledger = ledger
        reads = ProofReads(seconds: limit)
        split = TarSplitKeeper(
            context.store, ledger.diffID, isWanted: context.options.keepsTarSplits, space: context.space)
    }

    deinit { buffer.deallocate() }

    /// What a tar's hash says of a diff ID, and the digest that the tar has where it is another one.
    static func judge(_ hash: SHA256, _ diffID: Digest) -> (DiffIDState, Digest?) {
        let digest = hash.digest()
        if digest == diffID { return (.proven, nil) }
        // A tar ends with two blocks of zeros and is filled up to a record of 20 blocks (POSIX.1-2024, pax, "ustar Interchange Format").
        var padded = hash
        let block = [UInt8](repeating: 0, count: 512)
        for _ in 0..<22 {
            padded.update(block)
            if padded.digest() == diffID { return (.unpadded, digest) }
        }
        return (.mismatch, digest)
    }

    /// What the tar's digest says of the diff ID, once `digest` has given it.
    func verdict(_ diffID: Digest) -> (DiffIDState, Digest?) {
        let verdict = Self.judge(hash, diffID)
        if verdict.0 == .proven, let reason = split?.keep() {
            context.reporter.report(
                MergeError(
                    .unsupportedLayer, "layer \(ledger.digest): its tar cannot be put together later", cause: reason))
        }
        return verdict
    }

    /// The digest of the tar; `nil` where not everything of it is known, or where it is not the tar of this tree.
    func digest() throws -> Digest? {
        let format = LayerFormat(rawValue: Int32(clamping: ledger.format))
        witness = format == .estargz ? nil : TarWitness(context.options.formatLimits)
        guard let digest = try told() else { return nil }
        // A tar that is another one needs no witness.
        guard let witness, let diffID = ledger.diffID, Self.judge(hash, diffID).0 != .mismatch else { return digest }
        do {
            if try witness.confirms(layer, context.store.index, context.tocMemory, { context.stop.isSet }) {
                return digest
            }
        } catch let error as FormatError {
            context.reporter.report(
                MergeError(.corrupt, "layer \(ledger.digest): its tar is no layer's", cause: error))
            return nil
        }
        context.reporter.report(
            MergeError(
                .disproven,
                "layer \(ledger.digest): its tar has the diff ID, and its table of contents says other things than the tar does: that it is "
                    + "the layer of its chain is not proven"))
        return nil
    }

    private func take(_ bytes: UnsafeRawBufferPointer) throws {
        hash.update(bytes)
        split?.take(bytes)
        try witness?.take(bytes)
    }

    private func told() throws -> Digest? {
        guard let source = try context.store.index.tarSource(of: layer) else { return nil }
        do {
            if let tarSplit = source.tarSplit { return try digest(by: tarSplit) }
            guard let format = LayerFormat(rawValue: Int32(clamping: ledger.format)), let end = source.membersEnd else {
                return nil
            }
            switch format {
            case .zstdChunked, .estargzExternal: return try digest(end: end, format.compression)
            case .estargz:
                // Its table of contents is a file of the tar, behind all others; the footer is an empty member.
                // It has to be the one that the tree was made of, and not what a registry gives now.
                guard let size = try context.store.index.blob(of: layer)?.size,
                    try context.store.index.tarPart(of: layer, at: end)?.starts(with: [0x1f, 0x8b]) == true
                else { return nil }
                return try digest(end: size - Int64(EStargz.footerSize), format.compression)
            default: return nil
            }
        } catch let error as FormatError {
            context.reporter.report(
                MergeError(.corrupt, "layer \(ledger.digest): its tar cannot be told from what is there", cause: error))
            return nil
        }
    }

    /// By the layer's own tar-split, which is fetched now: nothing else needs it.
    private func digest(by range: Range<Int64>) throws -> Digest? {
        guard mayFetch, range.count <= Self.tarSplitLimit else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(range.count)
        try fetch(range) { bytes.append(contentsOf: $0) }
        var seen: Set<Int64> = []
        var isComplete = true
        try bytes.withUnsafeBytes { bytes in
            try TarSplit.read(bytes) { item in
                switch item {
                case .bytes(let bytes): try take(bytes)
                case .file(let name, let size):
                    guard size > 0, isComplete else { return }
                    let path = name.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual(".".utf8) }
                    // If two have the same name, only the last is in the store.
                    guard let found = try context.store.index.content(in: layer, at: path.map(Array.init)),
                        found.record.size == size, seen.insert(found.inode).inserted
                    else { return isComplete = false }
                    try update(found.record, 0..<size)
                }
            }
        }
        let digest = hash.digest()
        if digest == ledger.diffID { return digest }
        // A tar-split that does not name every file says nothing about the tar.
        guard isComplete, try seen.count == context.store.index.fileCount(of: layer) else { return nil }
        return digest
    }

    /// By what was kept of each member, and what was never fetched, as long as that is little.
    private func digest(end: Int64, _ compression: StreamDecompressor.Compression) throws -> Digest? {
        let places = try context.store.index.tarPartPlaces(of: layer)
        var gaps: [Range<Int64>] = []
        var position: Int64 = 0
        for place in places + [end..<end] {
            if place.lowerBound > position { gaps.append(position..<place.lowerBound) }
            position = max(position, place.upperBound)
        }
        let missing = gaps.reduce(0) { $0 + Int64($1.count) }
        guard missing <= max(Self.gapLimit, end / 16), gaps.count <= Self.gapCount, mayFetch || gaps.isEmpty else {
            return nil
        }
        var nextGap = 0
        func fillGap(before end: Int64) throws {
            guard nextGap < gaps.count, gaps[nextGap].lowerBound < end else { return }
            let stream = try StreamDecompressor(compression)
            try fetch(gaps[nextGap]) { try stream.push($0) { try take($0) } }
            nextGap += 1
        }
        // Offset of the last member that was hashed. A member that holds several files may be stored twice.
        var last: Int64 = -1
        for place in places {
            try fillGap(before: place.lowerBound)
            guard let bytes = try context.store.index.tarPart(of: layer, at: place.lowerBound) else { return nil }
            // As it stands in the blob.
            if bytes.starts(with: [0x1f, 0x8b]) {
                let stream = try StreamDecompressor(compression)
                try bytes.withUnsafeBytes { try stream.push($0) { try take($0) } }
                continue
            }
            for member in try bytes.withUnsafeBytes({ try TarRun($0) }).members {
                let offset = member.blobOffset ?? place.lowerBound
                if offset <= last { continue }
                last = offset
                guard try update(member.part, at: offset) else { return nil }
            }
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
        func takeRest(_ count: Int) throws {
            let bytes = rest.prefix(count)
            rest = rest.dropFirst(bytes.count)
            try bytes.withUnsafeBytes { try take($0) }
        }
        for cut in part.cuts {
            try takeRest(cut.offset - end)
            end = cut.offset + cut.size
            let found = try context.store.index.content(in: layer, at: blobOffset, innerOffset: Int64(cut.offset))
            guard let found, found.offset + Int64(cut.size) <= found.record.size else { return false }
            try update(found.record, found.offset..<(found.offset + Int64(cut.size)))
        }
        try takeRest(rest.count)
        return true
    }

    /// Hashes a range of a file of the store.
    private func update(_ content: ContentRecord, _ range: Range<Int64>) throws {
        if file?.name != content.name { file = (content.name, try context.store.files.open(content.name)) }
        guard let file = file?.file else { return }
        var offset = range.lowerBound
        while offset < range.upperBound {
            if context.stop.isSet { throw MergeError.stopped }
            let count = min(buffer.count, Int(range.upperBound - offset))
            let read = try file.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]), at: offset)
            guard read > 0 else {
                throw FormatError(.truncated, "\(content.name.digest) ends early", offset: offset)
            }
            try take(UnsafeRawBufferPointer(rebasing: buffer[..<read]))
            offset += Int64(read)
        }
    }

    /// Reads a range of the blob from the first source that gives it in time; if one fails, the next goes on behind the last byte.
    private func fetch(_ range: Range<Int64>, _ take: (UnsafeRawBufferPointer) throws -> Void) throws {
        let (blob, sources) = try context.sources.sources(of: layer)
        let shouldStop = { @Sendable [context, reads] in
            let now = ContinuousClock.now
            return context.stop.isSet || reads.isStalled(at: now) || reads.isOver(at: now)
        }
        var position = range.lowerBound
        var failure: any Error = MergeError(.fetch, "the index knows no place to get layer \(blob.digest) from")
        for source in sources {
            reads.begin(at: .now)
            defer { reads.end(at: .now) }
            do {
                return try source.read(
                    blob.digest, size: blob.size, range: position..<range.upperBound, shouldStop: shouldStop
                ) { bytes in
                    reads.arrived(at: .now)
                    position += Int64(bytes.count)
                    context.counters.countFetched(Int64(bytes.count))
                    try take(bytes)
                }
            } catch let error as FormatError {
                // What came was taken already.
                throw error
            } catch {
                if context.stop.isSet { throw MergeError.stopped }
                let now = ContinuousClock.now
                let isLate = reads.isStalled(at: now) || reads.isOver(at: now)
                failure =
                    isLate ? MergeError(.fetch, "\(source.location) takes too long for what the proof needs") : error
                if reads.isOver(at: now) { break }
            }
        }
        throw MergeError.fetching(failure)
    }
}
