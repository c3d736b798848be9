import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem

/// Takes a plain layer's tar as it comes: hashes blob, tar and files, writes each file's bytes to the store once, and
/// records with each checkpoint what came before it.
///
/// A file's name is its digest, which is known at its end. A small file waits in memory for that, or is there whole at once;
/// a large one is written to a temporary file, which then gets its name. At a checkpoint nothing is kept in memory alone.
final class StreamPlacer {
    /// Files above this size go to a temporary file, in bytes.
    private static let smallSize: Int64 = 256 << 10
    private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

    private let engine: MergeEngine
    private let layer: Digest
    private let stream: StreamID
    private(set) var state: StreamState
    private var step = StreamStep()
    private var lines: [UInt8] = []
    /// What the step has landed, so that a file that comes twice is written once.
    private var landed: Set<Digest> = []
    /// The bytes so far of a small file.
    private var small: [UInt8] = []
    /// The temporary file of a large one.
    private var temporary: File?

    /// - Parameter temporary: that of the file that the state is in the midst of.
    init(engine: MergeEngine, layer: Digest, stream: StreamID, state: StreamState, temporary: File?) {
        self.engine = engine
        self.layer = layer
        self.stream = stream
        self.state = state
        self.temporary = temporary
    }

    /// Takes bytes of the blob: hashes those that were not hashed before. A blob that is the tar itself is hashed as that.
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

    /// Digests of files that were written under their names since the last checkpoint.
    var unrecorded: [Digest] { step.landed.filter { $0.temporary == nil }.map(\.digest) }

    /// Records everything that has come so far.
    ///
    /// - Parameter position: where a reader can begin to go on from here; nil at the end.
    func record(_ position: StreamPosition?) throws {
        try spill()
        step.state = try state.encoded()
        if !lines.isEmpty { step.lines = EntryLines.pack(lines) }
        step.checkpoint = position.map {
            CheckpointRecord(output: $0.outputOffset, blobOffset: $0.blobOffset, decoder: $0.decoder)
        }
        try engine.store.record(step, of: stream)
        engine.recorder.noteVolatile()
        for file in step.landed { try shareTwins(of: file) }
        engine.space?.makeRoom(for: step.landed.reduce(0) { $0 + $1.size - $1.holes })
        step = StreamStep()
        lines.removeAll(keepingCapacity: true)
        landed.removeAll(keepingCapacity: true)
    }

    /// Holds the digests of everything against what the manifest and the configuration say, and records that they are right.
    func finish(expecting diffID: Digest) throws {
        try state.tar.finish()
        let diff = state.diffHash.digest()
        let blob = isTar ? diff : state.blobHash.digest()
        guard blob == layer else {
            throw MergeError(.badImage, "layer \(layer): the blob has another digest: expected \(layer), got \(blob)")
        }
        guard diff == diffID else {
            throw MergeError(
                .badImage, "layer \(layer): its tar is not the configuration's: expected diff ID \(diffID), got \(diff)"
            )
        }
        state.isVerified = true
        try record(nil)
    }
}

extension StreamPlacer {
    private func begin(_ entry: TarEntry) throws {
        guard entry.header.kind == .regular, entry.header.size > 0 else {
            return EntryLines.append(entry, digest: nil, to: &lines)
        }
        state.file = StreamState.OpenFile(entry: entry)
    }

    private func take(_ payload: UnsafeRawBufferPointer) throws {
        guard let file = state.file else { return }
        let size = file.entry.header.size
        if file.received == 0, Int64(payload.count) == size, size <= Self.smallSize {
            // All of it at once: no detour.
            let digest = SHA256.hash(payload)
            try write(payload, digest)
            return end(file.entry, digest, temporary: nil)
        }
        state.file?.hash.update(payload)
        if size <= Self.smallSize, temporary == nil {
            small += payload
        } else {
            try openTemporary(file.entry).write(payload, at: file.received)
        }
        state.file?.received += Int64(payload.count)
        if file.received + Int64(payload.count) == size { try endFile() }
    }

    /// Takes a part of a hole: in a temporary file it stays one.
    private func takeZeros(_ count: Int) throws {
        guard let file = state.file else { return }
        if file.entry.header.size > Self.smallSize { _ = try openTemporary(file.entry) }
        var rest = count
        while rest > 0 {
            let part = min(rest, Self.zeros.count)
            Self.zeros.withUnsafeBytes { state.file?.hash.update(UnsafeRawBufferPointer(rebasing: $0[..<part])) }
            if temporary == nil { small += Self.zeros[..<part] }
            rest -= part
        }
        state.file?.received += Int64(count)
        if file.received + Int64(count) == file.entry.header.size { try endFile() }
    }

    private func endFile() throws {
        guard let file = state.file else { return }
        let digest = file.hash.digest()
        if let written = temporary {
            // It may be longer: what came behind the checkpoint that an earlier process went on to.
            try written.truncate(to: file.entry.header.size)
            temporary = nil
            end(file.entry, digest, temporary: BackingFiles.temporaryName(layer, offset: file.entry.offset))
        } else {
            try small.withUnsafeBytes { try write($0, digest) }
            small.removeAll(keepingCapacity: true)
            end(file.entry, digest, temporary: nil)
        }
    }

    /// Writes a small file under its name, if the store does not have it.
    private func write(_ bytes: UnsafeRawBufferPointer, _ digest: Digest) throws {
        let size = Int64(bytes.count)
        guard !landed.contains(digest), try !engine.store.hasMerged(digest, size: size) else { return }
        try engine.store.files.create(BackingName(digest: digest, claim: nil), size: size).write(bytes, at: 0)
        step.landed.append(StreamStep.Landed(digest: digest, size: size, temporary: nil))
        landed.insert(digest)
    }

    private func end(_ entry: TarEntry, _ digest: Digest, temporary: String?) {
        if let temporary {
            step.landed.append(
                StreamStep.Landed(
                    digest: digest, size: entry.header.size, temporary: temporary, holes: entry.holeSize))
        }
        EntryLines.append(entry, digest: digest, to: &lines)
        state.file = nil
    }

    /// Writes the part of a small file that has come to a temporary file, so that it need not come again.
    private func spill() throws {
        guard let file = state.file, !small.isEmpty else { return }
        let target = try openTemporary(file.entry)
        try small.withUnsafeBytes { try target.write($0, at: 0) }
        small.removeAll(keepingCapacity: true)
    }

    private func openTemporary(_ entry: TarEntry) throws -> File {
        if let temporary { return temporary }
        let opened = try engine.store.files.openTemporary(BackingFiles.temporaryName(layer, offset: entry.offset))
        temporary = opened
        return opened
    }

    /// Gives contents that claim the same digest, and have their bytes already, the one file.
    private func shareTwins(of landed: StreamStep.Landed) throws {
        let contents = try engine.store.index.merged(landed.digest, size: landed.size)
        guard contents.count > 1, let own = contents.first(where: { $0.name.claim == nil }) else { return }
        // One that fails has a layer that lied, or a file that is damaged; both are on record then.
        for twin in contents where try twin.id != own.id && engine.prove(twin) {
            try engine.store.adopt(own, as: twin)
        }
    }
}
