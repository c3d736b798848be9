import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem

/// Takes a plain layer's tar as it comes: hashes blob, tar and files, writes each file's bytes to the store once, and
/// records with each checkpoint what came before it.
///
/// A file's name is its digest, which is known at its end. A small file waits in memory for that, or comes whole at once; a
/// large one is written to a spool, which then gets its name. At a checkpoint nothing is in memory alone.
final class StreamPlacer {
    /// Files above this size go to a spool, in bytes.
    private static let smallSize: Int64 = 256 << 10
    /// How much may be in the store unrecorded if it has a limit, in bytes: what is not recorded cannot be given up.
    private static let unrecordedLimit: Int64 = 8 << 20
    private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

    private let engine: MergeEngine
    private let layer: Digest
    private let stream: StreamID
    /// The repository whose files these are alone; nil where they are shared.
    private let isolation: String?
    private(set) var state: StreamState
    private var step = StreamStep()
    private var lines: [UInt8] = []
    /// What the step has landed, so that a file that comes twice is written once.
    private var landed: Set<Digest> = []
    /// The lease of the names of all files of the step.
    private var lease: WritingLease
    /// The bytes so far of a small file.
    private var small: [UInt8] = []
    /// The spool of a large one.
    private var spool: File?
    /// What was reserved for the step, on disk.
    private var reserved: Int64 = 0
    /// Spools whose files have their names, and the syncfs after which they are not needed.
    private var retired: [(spools: [String], sync: Int64)] = []
    /// Of a tar that comes from its beginning.
    private let split: TarSplitKeeper?

    /// - Parameters:
    ///   - diffID: what the tar is said to be.
    ///   - isolation: the repository whose files these are alone.
    ///   - spool: the spool of the file that the state is in the middle of.
    init(
        engine: MergeEngine, layer: Digest, diffID: Digest, stream: StreamID, isolation: String?, state: StreamState,
        spool: File?
    ) {
        split =
            state.tarOffset == 0
            ? TarSplitKeeper(
                engine.store, diffID, isWanted: engine.options.keepsTarSplits, space: engine.space) : nil
        self.engine = engine
        self.layer = layer
        self.stream = stream
        self.isolation = isolation
        self.state = state
        self.spool = spool
        lease = engine.store.files.emptyLease()
    }

    deinit { engine.space?.giveBack(reserved) }

    /// Takes bytes of the blob: hashes those that were not hashed before. If the blob is the tar itself, it is hashed as the
    /// tar.
    func takeBlob(_ bytes: UnsafeRawBufferPointer, at offset: Int64) {
        let known = Int(min(max(state.blobOffset - offset, 0), Int64(bytes.count)))
        let new = UnsafeRawBufferPointer(rebasing: bytes[known...])
        if !isTar { state.blobHash.update(new) }
        state.blobOffset += Int64(new.count)
    }

    private var isTar: Bool { state.format == .plainTar }

    /// Takes bytes of the tar: places those that were not placed before.
    func takeTar(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws {
        let known = Int(min(max(state.tarOffset - offset, 0), Int64(bytes.count)))
        var piece = UnsafeRawBufferPointer(rebasing: bytes[known...])
        state.diffHash.update(piece)
        split?.take(piece)
        state.tarOffset += Int64(piece.count)
        while true {
            switch try state.tar.next(&piece) {
            case .more: return
            case .entry(let entry): try begin(entry)
            case .payload(let payload): try take(payload)
            case .zeros(let count): try takeZeros(count)
            }
        }
    }

    /// Records everything that has come so far.
    ///
    /// - Parameter position: where a reader can begin in order to go on from here; nil at the end.
    func record(_ position: StreamPosition?) throws {
        try spill()
        step.state = try state.encoded()
        if !lines.isEmpty { step.lines = EntryLines.pack(lines) }
        step.checkpoint = position.map {
            CheckpointRecord(output: $0.outputOffset, blobOffset: $0.blobOffset, decoder: $0.decoder)
        }
        let sync = try engine.store.record(step, of: stream, under: lease)
        lease.recorded()
        engine.space?.landed(reserved)
        reserved = 0
        retired.append((step.landed.compactMap(\.spool), sync))
        for file in step.landed { try shareTwins(of: file) }
        step = StreamStep()
        lines.removeAll(keepingCapacity: true)
        landed.removeAll(keepingCapacity: true)
        try removeRetired(upTo: engine.store.durableSync())
    }

    /// Removes spools that even a power cut cannot make necessary again.
    private func removeRetired(upTo sync: Int64) throws {
        for entry in retired where entry.sync <= sync {
            for spool in entry.spools { engine.store.files.removeSpool(spool) }
        }
        retired.removeAll { $0.sync <= sync }
    }

    /// Makes durable everything that was recorded, and leaves no spool behind.
    func settle() throws {
        try engine.recorder.sync()
        try removeRetired(upTo: engine.store.durableSync())
    }

    /// Compares the digests of everything with the manifest and the configuration, and records that they are right.
    func finish(expecting diffID: Digest) throws {
        try state.tar.finish()
        let diff = state.diffHash.digest()
        let blob = isTar ? diff : state.blobHash.digest()
        guard blob == layer else {
            throw MergeError(
                .wrongDigest, "layer \(layer): the blob has another digest: expected \(layer), got \(blob)")
        }
        guard diff == diffID else {
            throw MergeError(
                .wrongDigest,
                "layer \(layer): its tar is not the configuration's: expected diff ID \(diffID), got \(diff)"
            )
        }
        if let reason = split?.keep() {
            engine.recorder.report(
                MergeError(.unsupportedLayer, "layer \(layer): its tar cannot be put together later", cause: reason))
        }
        state.isVerified = true
        try record(nil)
    }
}

extension StreamPlacer {
    private func begin(_ entry: TarEntry) throws {
        guard entry.header.kind == .regular, entry.header.size > 0 else { return try list(entry, nil) }
        // Said by its header already, before anything is given up for its first bytes.
        try engine.space?.requireWithinLimit(entry.header.size)
        state.file = StreamState.OpenFile(entry: entry)
    }

    /// Notes an entry for the layer's tree. What is too much for a tree is refused when it comes, not after all of the blob.
    private func list(_ entry: TarEntry, _ digest: Digest?) throws {
        let before = lines.count
        EntryLines.append(entry, digest: digest, to: &lines)
        let (count, bytes) = ((state.entryCount ?? 0) + 1, (state.entryBytes ?? 0) + lines.count - before)
        (state.entryCount, state.entryBytes) = (count, bytes)
        try engine.options.formatLimits.check(entries: count, bytes: bytes)
    }

    private func take(_ payload: UnsafeRawBufferPointer) throws {
        guard let file = state.file else { return }
        let size = file.entry.header.size
        if file.received == 0, Int64(payload.count) == size, size <= Self.smallSize {
            // All of it came at once: no detour.
            let digest = SHA256.hash(payload)
            try write(payload, digest)
            return try end(file.entry, digest, spool: nil)
        }
        state.file?.hash.update(payload)
        if size <= Self.smallSize, spool == nil {
            small += payload
        } else {
            try reserve(Int64(payload.count))
            try openSpool(file.entry).write(payload, at: file.received)
        }
        state.file?.received += Int64(payload.count)
        if file.received + Int64(payload.count) == size { try endFile() }
    }

    private func reserve(_ bytes: Int64) throws {
        try engine.space?.reserve(bytes, holding: reserved)
        reserved += bytes
    }

    /// Takes a part of a hole: in a spool it stays a hole.
    private func takeZeros(_ count: Int) throws {
        guard let file = state.file else { return }
        if file.entry.header.size > Self.smallSize { _ = try openSpool(file.entry) }
        var rest = count
        while rest > 0 {
            let part = min(rest, Self.zeros.count)
            Self.zeros.withUnsafeBytes { state.file?.hash.update(UnsafeRawBufferPointer(rebasing: $0[..<part])) }
            if spool == nil { small += Self.zeros[..<part] }
            rest -= part
        }
        state.file?.received += Int64(count)
        if file.received + Int64(count) == file.entry.header.size { try endFile() }
    }

    private func endFile() throws {
        guard let file = state.file else { return }
        let digest = file.hash.digest()
        if let written = spool {
            // The file may be longer: with what came after the checkpoint, in an earlier process.
            try written.truncate(to: file.entry.header.size)
            spool = nil
            lease.cover(.ofOneChunk(digest, size: file.entry.header.size, isolation: isolation))
            try end(file.entry, digest, spool: ContentFiles.spoolName(stream, of: layer, offset: file.entry.offset))
        } else {
            try small.withUnsafeBytes { try write($0, digest) }
            small.removeAll(keepingCapacity: true)
            try end(file.entry, digest, spool: nil)
        }
    }

    /// Writes a small file under its name, if the store does not have it.
    private func write(_ bytes: UnsafeRawBufferPointer, _ digest: Digest) throws {
        guard landed.insert(digest).inserted else { return }
        let size = Int64(bytes.count)
        let name = BackingName.ofOneChunk(digest, size: size, isolation: isolation)
        // The lease comes first: what the store has of it then stays, whatever other code removes.
        lease.cover(name)
        if try !engine.store.hasMerged(name, size: size) {
            try reserve(SpaceKeeper.onDisk(size))
            // In place: every writer of this name has the same bytes.
            try lease.openInPlace(name, size: size).write(bytes, at: 0)
        }
        step.landed.append(StreamStep.Landed(digest: digest, size: size, spool: nil, isolation: isolation))
    }

    private func end(_ entry: TarEntry, _ digest: Digest, spool: String?) throws {
        if let spool {
            step.landed.append(
                StreamStep.Landed(
                    digest: digest, size: entry.header.size, spool: spool, holes: entry.holeSize, isolation: isolation))
        }
        try list(entry, digest)
        state.file = nil
        // Also between two checkpoints: a reader that goes on from the last one skips what is recorded.
        if engine.space != nil, reserved > Self.unrecordedLimit { try record(nil) }
    }

    /// Writes the part of a small file that has come to a spool, so that it need not come again.
    private func spill() throws {
        guard let file = state.file, !small.isEmpty else { return }
        try reserve(Int64(small.count))
        let target = try openSpool(file.entry)
        try small.withUnsafeBytes { try target.write($0, at: 0) }
        small.removeAll(keepingCapacity: true)
    }

    private func openSpool(_ entry: TarEntry) throws -> File {
        if let spool { return spool }
        let opened = try engine.store.files.openSpool(ContentFiles.spoolName(stream, of: layer, offset: entry.offset))
        spool = opened
        return opened
    }

    /// Gives one file to all contents that claim the same digest and have their bytes already.
    private func shareTwins(of landed: StreamStep.Landed) throws {
        guard landed.isolation == nil else { return }
        let contents = try engine.store.index.merged(landed.digest, size: landed.size)
        guard contents.count > 1, let own = contents.first(where: { $0.name.claim == nil }) else { return }
        // If one fails, its layer lied, or a file is damaged; both are recorded then.
        for twin in contents where try twin.id != own.id && engine.prover.prove(twin) {
            // For example, it was given up meanwhile: only the sharing is lost.
            do { try engine.store.adopt(own, as: twin) } catch { engine.recorder.report(error) }
        }
    }
}
