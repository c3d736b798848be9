import LaminaDigest
import LaminaFormats
import LaminaOCI
public import LaminaStore
import LaminaSystem
import Synchronization

// Files of a plain layer that were evicted: fetched again alone, from the checkpoint before them to the one behind them.

extension MergeEngine {
    /// Gives up a content's bytes, unless somebody merges it just now; it is fetched again when it is asked for.
    ///
    /// - Returns: whether it did.
    public func evict(_ content: ContentRecord) throws -> Bool { try evict([content]).contents == 1 }

    /// Gives up the bytes of those contents that nobody merges just now, in one transaction.
    ///
    /// - Returns: how many there were, and what that freed on disk.
    func evict(_ contents: [ContentRecord]) throws -> (contents: Int, bytes: Int64) {
        let placeholders = state.withLock { state in
            contents.compactMap { content -> (ContentRecord, ActiveContent)? in
                guard !state.isStopping, state.active[content.id] == nil else { return nil }
                // Whoever asks meanwhile waits in `early`.
                let placeholder = ActiveContent(id: content.id)
                state.active[content.id] = placeholder
                return (content, placeholder)
            }
        }
        guard !placeholders.isEmpty else { return (0, 0) }
        defer {
            state.withLock(notify: true) { state in
                for (_, placeholder) in placeholders {
                    state.active[placeholder.id] = nil
                    for request in placeholder.early { state.requests.append(request) }
                    placeholder.early = []
                }
            }
        }
        return try store.evict(placeholders.map(\.0))
    }

    /// Reads the files of a job from a plain layer: places in its members are places in the layer's tar.
    func restream(_ job: FetchJob, _ format: LayerFormat) {
        var files = RestreamedFiles(job, engine: self)
        do {
            let range = job.range
            var (blob, sources) = try sources.sources(of: job.layer)
            if job.isRetry, sources.count > 1 { sources.append(sources.removeFirst()) }
            let (first, end) = try store.index.checkpoints(around: range, in: job.layer)
            let position =
                first.map {
                    StreamPosition(blobOffset: $0.blobOffset, outputOffset: $0.output, decoder: $0.decoder)
                } ?? .start
            let blobRange = position.blobOffset..<max(position.blobOffset, end?.blobOffset ?? blob.size)
            let decompressor = try LayerDecompressor(format.compression, from: position)
            let output = pool.take(StreamDecompressor.pieceSize)
            defer { pool.give(output) }
            do {
                let shouldStop = { @Sendable in self.isStopping.load(ordering: .relaxed) }
                try read(blob, from: sources, blobRange, shouldStop: shouldStop, isClosed: { false }) { bytes in
                    var input = bytes
                    var wasFull = false
                    while !input.isEmpty || wasFull {
                        var room = output
                        let start = decompressor.outputOffset
                        _ = try decompressor.step(&input, &room, stopsAtBoundary: false)
                        wasFull = room.isEmpty
                        try files.take(
                            UnsafeRawBufferPointer(rebasing: output[..<(output.count - room.count)]), at: start)
                        // A zstd frame may go on for long.
                        if files.isDone { throw RestreamedFiles.Enough() }
                        guard decompressor.outputOffset > start || wasFull else { break }
                    }
                }
            } catch is RestreamedFiles.Enough {}
            files.finish(nil)
        } catch {
            files.finish(error)
        }
    }
}

/// The files of one job, as the tar of their layer comes by.
private struct RestreamedFiles {
    /// Everything has come.
    struct Enough: Error {}

    private static let zeros = [UInt8](repeating: 0, count: TarReader.zerosAtOnce)
    /// Files up to this size wait in memory for their digest, in bytes.
    private static let smallSize = 256 << 10

    private enum Target {
        case nowhere
        case memory([UInt8])
        case spool(File)
    }

    private let engine: MergeEngine
    private let layer: LayerID
    private var members: ArraySlice<Member>
    private var tar = TarReader()
    /// Where the file at hand goes until its digest is known.
    private var target = Target.nowhere
    /// What was reserved for it.
    private var reserved: Int64 = 0
    private var hash = SHA256()
    private var received: Int64 = 0
    /// Whether the member at the front has begun.
    private var isWithin = false

    init(_ job: FetchJob, engine: MergeEngine) {
        self.engine = engine
        layer = job.layer
        members = job.members[...]
    }

    var isDone: Bool { members.isEmpty }

    /// Takes bytes of the tar, which begin at `offset` in it.
    mutating func take(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws {
        var position = offset
        let end = offset + Int64(bytes.count)
        while let member = members.first, end > member.blobOffset {
            if !isWithin {
                isWithin = true
                position = max(offset, member.blobOffset)
                (tar, hash, received) = (TarReader(), SHA256(), 0)
                discard(member)
            }
            var piece = UnsafeRawBufferPointer(rebasing: bytes[Int(position - offset)...])
            guard try read(&piece, member) else { return }
            members.removeFirst()
            isWithin = false
            // What is left of the piece is looked at once more for the next file.
            position = offset
        }
    }

    /// - Returns: whether the member's file is whole, or cannot be.
    private mutating func read(_ piece: inout UnsafeRawBufferPointer, _ member: Member) throws -> Bool {
        guard let part = member.parts.first, let record = part.content.record else { return true }
        while true {
            switch try tar.next(&piece) {
            case .more: return false
            case .entry(let entry):
                guard entry.header.kind == .regular, entry.header.size == Int64(part.size) else {
                    throw MergeError(.index, "the tar of \(layer) has another file where the index has \(part.digest)")
                }
                try open(part, record)
                // First: as soon as it is merged, the file may be opened.
                if entry.holeSize > 0 { try engine.store.recordHoles(entry.holeSize, of: record.id) }
            case .zeros(let count):
                // In a spool they stay a hole.
                try Self.zeros.withUnsafeBytes {
                    let zeros = UnsafeRawBufferPointer(rebasing: $0[..<count])
                    if case .memory = target { try write(zeros) }
                    hash.update(zeros)
                }
                received += Int64(count)
                if received == Int64(part.size) { return try end(member, part, record) }
            case .payload(let payload):
                try write(payload)
                hash.update(payload)
                received += Int64(payload.count)
                if received == Int64(part.size) { return try end(member, part, record) }
            }
        }
    }

    private mutating func open(_ part: Part, _ record: ContentRecord) throws {
        try engine.space?.reserve(SpaceKeeper.onDisk(record.size))
        reserved = SpaceKeeper.onDisk(record.size)
        guard part.size > Self.smallSize else { return target = .memory([]) }
        // First the lease: a spool goes with a name that nobody has.
        try engine.withLease(of: part.content, record.name) { _ in }
        let spool = ContentFiles.restreamSpoolName(record.name.digest)
        engine.store.files.removeSpool(spool)
        let file = try engine.store.files.openSpool(spool)
        target = .spool(file)
        try file.truncate(to: record.size)
    }

    private mutating func write(_ bytes: UnsafeRawBufferPointer) throws {
        switch target {
        case .nowhere: break
        case .spool(let file): try file.write(bytes, at: received)
        case .memory(var memory):
            target = .nowhere
            memory.append(contentsOf: bytes)
            target = .memory(memory)
        }
    }

    /// A file has come whole: it is right, or fetched once more, or an error.
    private mutating func end(_ member: Member, _ part: Part, _ record: ContentRecord) throws -> Bool {
        let digest = hash.digest()
        defer { discard(member) }
        if digest == part.digest {
            try place(part, record)
            engine.space?.landed(reserved)
            reserved = 0
            engine.finish(member.parts)
        } else {
            let error = MergeError.mismatch(part, digest, layer: engine.layerName(layer))
            engine.mistrust(member, member.parts.map { ($0, error) }, layer)
        }
        return true
    }

    /// Puts a file that is right under its name.
    private func place(_ part: Part, _ record: ContentRecord) throws {
        let files = engine.store.files
        try engine.withLease(of: part.content, record.name) { lease throws(SystemError) in
            switch target {
            case .nowhere: break
            case .memory(let bytes):
                let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 4096)
                defer { buffer.deallocate() }
                buffer.copyBytes(from: bytes)
                try lease.write(
                    UnsafeRawBufferPointer(rebasing: buffer[..<bytes.count]), as: record.name, keepsCached: true)
            case .spool:
                let spool = ContentFiles.restreamSpoolName(record.name.digest)
                // Somebody may have the one with its name open: that one gets the bytes.
                if files.exists(record.name) {
                    try lease.copy(spool: spool, to: record.name, size: record.size)
                } else {
                    try lease.link(spool: spool, as: record.name)
                }
            }
        }
    }

    private mutating func discard(_ member: Member?) {
        if case .spool = target, let record = member?.parts.first?.content.record {
            engine.store.files.removeSpool(ContentFiles.restreamSpoolName(record.name.digest))
        }
        target = .nowhere
        engine.space?.giveBack(reserved)
        reserved = 0
    }

    /// Says of what has not come that it has not.
    mutating func finish(_ error: (any Error)?) {
        discard(members.first)
        let missing = Array(members)
        members = []
        guard !missing.isEmpty else { return }
        if let error = error as? FormatError {
            // Damaged on its way, or the checkpoint does not fit: once more from scratch, then it is an error.
            for member in missing {
                let failures = member.parts.map {
                    (
                        part: $0,
                        error: MergeError.corrupt(
                            $0, at: member.blobOffset, layer: engine.layerName(layer), cause: error)
                    )
                }
                engine.mistrust(member, failures, layer)
            }
            return
        }
        engine.fail(
            missing,
            error.map(MergeError.fetching)
                ?? MergeError(.fetch, "layer \(engine.layerName(layer)): a source gave fewer bytes than asked for"))
    }
}
