import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem

/// Fetches evicted files of a plain layer: alone, from the checkpoint before them to the one behind them.
struct Restreamer: Sendable {
    /// Reads a range of a blob from the first source that gives it.
    typealias Reading = (
        _ blob: LayerBlob, _ sources: [any BlobSource], _ range: Range<Int64>, _ shouldStop: @Sendable () -> Bool,
        _ isClosed: () -> Bool, _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws -> Void

    private let context: MergeContext

    init(_ context: MergeContext) { self.context = context }

    /// Reads the files of a job from a plain layer. The places in its members are places in the layer's tar.
    func run(_ job: FetchJob, from source: SourceKey, _ format: LayerFormat, read: Reading) {
        var files = RestreamedFiles(job, from: source, context)
        do {
            let range = job.range
            var (blob, sources) = try context.sources.sources(of: job.layer)
            if job.isRetry, sources.count > 1 { sources.append(sources.removeFirst()) }
            let (first, end) = try context.store.index.checkpoints(around: range, in: job.layer)
            let position =
                first.map {
                    StreamPosition(blobOffset: $0.blobOffset, outputOffset: $0.output, decoder: $0.decoder)
                } ?? .start
            let blobRange = position.blobOffset..<max(position.blobOffset, end?.blobOffset ?? blob.size)
            let decompressor = try LayerDecompressor(format.compression, from: position)
            let output = context.pool.take(StreamDecompressor.pieceSize)
            defer { context.pool.give(output) }
            do {
                let shouldStop = { @Sendable [context] in context.stop.isSet }
                try read(blob, sources, blobRange, shouldStop, { false }) { bytes in
                    var input = bytes
                    var wasFull = false
                    while !input.isEmpty || wasFull {
                        var room = output
                        let start = decompressor.outputOffset
                        _ = try decompressor.step(&input, &room, stopsAtBoundary: false)
                        wasFull = room.isEmpty
                        try files.take(
                            UnsafeRawBufferPointer(rebasing: output[..<(output.count - room.count)]), at: start)
                        // A zstd frame may be very long.
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

/// The files of one job, taken as their layer's tar passes.
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

    private let context: MergeContext
    private let layer: LayerID
    private var members: ArraySlice<Member>
    private var tar = TarReader()
    /// Where the current file goes until its digest is known.
    private var target = Target.nowhere
    /// What was reserved for it: of the disk, and of what may be in flight. What has landed and is not on record holds the next file up.
    private var reserved: Int64 = 0
    private var inFlight = 0
    private let isUrgent: Bool
    private let source: SourceKey
    private var hash = SHA256()
    private var received: Int64 = 0
    /// Whether the member at the front has begun.
    private var isWithin = false

    init(_ job: FetchJob, from source: SourceKey, _ context: MergeContext) {
        self.context = context
        self.source = source
        layer = job.layer
        members = job.members[...]
        isUrgent = job.isUrgent
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
            // The rest of the piece is examined once more, for the next file.
            position = offset
        }
    }

    /// - Returns: whether the member's file is whole, or cannot become whole.
    private mutating func read(_ piece: inout UnsafeRawBufferPointer, _ member: Member) throws -> Bool {
        guard let part = member.parts.first else { return true }
        let record = part.target.record
        while true {
            switch try tar.next(&piece) {
            case .more: return false
            case .entry(let entry):
                guard entry.header.kind == .regular, entry.header.size == Int64(part.size) else {
                    throw MergeError(.index, "the tar of \(layer) has another file where the index has \(part.digest)")
                }
                try open(part, record)
                // First, because the file may be opened as soon as it is merged.
                if entry.holeSize > 0 { try context.store.recordHoles(entry.holeSize, of: record.id) }
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
        // A larger file goes to a spool on disk.
        let size = min(part.size, Self.smallSize)
        // Room comes first: a thread that waits for room must not hold memory that others wait for.
        try context.space?.reserve(SpaceKeeper.onDisk(record.size))
        reserved = SpaceKeeper.onDisk(record.size)
        try context.pool.reserve(size, urgent: isUrgent, for: source)
        inFlight = size
        guard part.size > Self.smallSize else { return target = .memory([]) }
        // The lease comes first: a spool goes under a name only with a lease.
        try part.target.withLease(context.store.files) { _ in }
        let spool = ContentFiles.restreamSpoolName(record.name)
        context.store.files.removeSpool(spool)
        let file = try context.store.files.openSpool(spool)
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

    /// A whole file has come: it is right, or it is fetched once more, or it is an error.
    private mutating func end(_ member: Member, _ part: Part, _ record: ContentRecord) throws -> Bool {
        let digest = hash.digest()
        defer { discard(member) }
        if digest == part.digest {
            try place(part, record)
            context.space?.landed(reserved)
            reserved = 0
            context.board.landed(member.parts)
        } else {
            let error = MergeError.mismatch(part, digest, layer: context.name(of: layer))
            context.mistrust(member, member.parts.map { ($0, error) }, layer)
        }
        return true
    }

    /// Puts a right file under its name.
    private func place(_ part: Part, _ record: ContentRecord) throws {
        let files = context.store.files
        try part.target.withLease(context.store.files) { lease throws(SystemError) in
            switch target {
            case .nowhere: break
            case .memory(let bytes):
                let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 4096)
                defer { buffer.deallocate() }
                buffer.copyBytes(from: bytes)
                try lease.write(
                    UnsafeRawBufferPointer(rebasing: buffer[..<bytes.count]), as: record.name, keepsCached: true)
            case .spool:
                let spool = ContentFiles.restreamSpoolName(record.name)
                // The file with its name may be open: that one gets the bytes.
                if files.exists(record.name) {
                    try lease.copy(spool: spool, to: record.name, size: record.size)
                } else {
                    try lease.link(spool: spool, as: record.name)
                }
            }
        }
    }

    private mutating func discard(_ member: Member?) {
        if case .spool = target, let record = member?.parts.first?.target.record {
            context.store.files.removeSpool(ContentFiles.restreamSpoolName(record.name))
        }
        target = .nowhere
        context.space?.giveBack(reserved)
        reserved = 0
        if inFlight > 0 { context.pool.release(inFlight, urgent: isUrgent, for: source) }
        inFlight = 0
    }

    /// Reports what has not come.
    mutating func finish(_ error: (any Error)?) {
        discard(members.first)
        let missing = Array(members)
        members = []
        guard !missing.isEmpty else { return }
        if let error = error as? FormatError {
            // Either it was damaged on its way, or the checkpoint does not fit: it is fetched once more from the beginning,
            // then it is an error.
            for member in missing {
                let failures = member.parts.map {
                    (
                        part: $0,
                        error: MergeError.corrupt(
                            $0, at: member.blobOffset, layer: context.name(of: layer), cause: error)
                    )
                }
                context.mistrust(member, failures, layer)
            }
            return
        }
        context.fail(
            missing,
            error.map(MergeError.fetching)
                ?? MergeError(.fetch, "layer \(context.name(of: layer)): a source gave fewer bytes than asked for"))
    }
}
