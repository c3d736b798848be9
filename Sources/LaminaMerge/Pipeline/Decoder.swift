import Glibc
import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem
import Synchronization

/// Pieces that wait for a decoder; what readers wait for comes first.
struct DecodeQueue {
    private var urgent = FIFO<Piece>()
    private var background = FIFO<Piece>()
    var isStopping = false

    mutating func append(_ piece: Piece) {
        if piece.isUrgent { urgent.append(piece) } else { background.append(piece) }
    }

    /// The next piece; nil: none now; .some(nil): no piece will ever come.
    mutating func next() -> Piece?? {
        if let piece = urgent.pop() ?? background.pop() { return .some(piece) }
        return isStopping ? .some(nil) : nil
    }
}

/// A chunk's bytes, whose digest was computed and is the one that the TOC gives. Only the verifier makes one, and only these
/// can be placed.
struct VerifiedChunk: ~Copyable {
    let part: Part
    let bytes: UnsafeRawBufferPointer

    /// Takes a part out of what its member decompressed to.
    init(_ part: Part, of decompressed: UnsafeRawBufferPointer) throws(VerificationFailure) {
        bytes = UnsafeRawBufferPointer(rebasing: decompressed[part.innerOffset..<(part.innerOffset + part.size)])
        self.part = part
        let actual = SHA256.hash(bytes)
        guard actual == part.digest else { throw VerificationFailure(actual: actual) }
    }
}

struct VerificationFailure: Error {
    var actual: Digest
}

/// Decodes, verifies and places: compressed members become verified bytes in backing files. Several threads of the merge run
/// `loop`.
final class Decoder: Sendable {
    /// Contents of this size and more are written past the page cache even while they are read: the kernel keeps what was read
    /// as pages of the mount, and a gigabyte of it should not be in memory twice.
    private static let largeSize: Int64 = 64 << 20

    /// The bytes that a member may have beside files for these to be kept. Headers, padding and the small files that are here already are
    /// far less; more would be copied several times in memory.
    private static let restLimit = 8 << 20

    private let context: MergeContext
    private let queue: Monitor<DecodeQueue>
    /// One decoder at a time takes more memory than it has reserved.
    private let gate = DecoderGate()

    init(_ context: MergeContext, queue: Monitor<DecodeQueue>) {
        self.context = context
        self.queue = queue
    }

    func loop() {
        let decoder: ChunkDecoder
        do {
            // The payload's memory is the pool's; the decoders share what libzstd may keep.
            decoder = try ChunkDecoder(
                keeping: MergeEngine.inFlightLimit / max(1, context.options.decoderCount), gate: gate)
        } catch {
            context.reporter.report(error)
            return
        }
        let tar = TarRunEncoder()
        while let piece = queue.wait({ $0.next() }) {
            let landed = decode(piece, with: decoder, tar)
            context.space?.giveBack(piece.diskBytes - landed)
            context.pool.give(piece.buffer)
            context.pool.release(piece.reserved, urgent: piece.isUrgent, for: piece.source)
        }
    }

    /// - Returns: what has landed of it, in bytes on disk.
    private func decode(_ piece: Piece, with decoder: ChunkDecoder, _ tar: TarRunEncoder) -> Int64 {
        var landed: [Part] = []
        var holes: [(part: Part, bytes: Int64)] = []
        var offset = 0
        let (compression, keepsTarParts) = context.sources.decoding(of: piece.layer)
        if compression != .identity {
            let needed = piece.members.reduce(0) { max($0, $1.neededBytes) }
            decoder.lend(context.pool.take(needed + ChunkDecoder.smallSlack))
        }
        defer { context.pool.give(decoder.takeMemory()) }
        var landing = Landing()
        // Where the members whose rest is being gathered begin and end in the blob.
        var run: Range<Int64>?
        func keep() {
            guard let range = run else { return }
            landing.tarParts.append((piece.layer, range.lowerBound, Int64(range.count), tar.finish()))
            run = nil
        }
        for member in piece.members {
            let bytes = UnsafeRawBufferPointer(rebasing: piece.buffer[offset..<(offset + member.blobSize)])
            offset += member.blobSize
            var wrong: [(part: Part, error: MergeError)] = []
            do {
                try decoder.decode(bytes, as: compression, needing: member.neededBytes, whole: keepsTarParts) {
                    decompressed in
                    for part in member.parts {
                        do throws(VerificationFailure) {
                            let chunk = try VerifiedChunk(part, of: decompressed)
                            if let hollow = place(chunk) {
                                context.board.serve(part, chunk.bytes)
                                landed.append(part)
                                if hollow > 0 { holes.append((part, hollow)) }
                            }
                        } catch {
                            let layer = context.name(of: piece.layer)
                            wrong.append((part, .mismatch(part, error.actual, layer: layer)))
                        }
                    }
                    let rest = decompressed.count - member.parts.reduce(0) { $0 + $1.size }
                    if keepsTarParts, decoder.isWhole, wrong.isEmpty, rest <= Self.restLimit {
                        if let range = run, range.upperBound != member.blobOffset { keep() }
                        tar.add(
                            decompressed, at: member.blobOffset,
                            cutting: member.parts.map { TarPart.Cut(offset: $0.innerOffset, size: $0.size) })
                        let end = member.blobOffset + Int64(member.blobSize)
                        run = (run?.lowerBound ?? member.blobOffset)..<end
                    }
                }
            } catch {
                let layer = context.name(of: piece.layer)
                wrong = member.parts.map { ($0, .corrupt($0, at: member.blobOffset, layer: layer, cause: error)) }
            }
            if !wrong.isEmpty { context.mistrust(member, wrong, piece.layer) }
        }
        keep()
        let bytes =
            landed.reduce(0) { $0 + SpaceKeeper.onDisk(Int64($1.size)) } - holes.reduce(0) { $0 + $1.bytes }
        // First, so that what is on record is not also counted as on its way.
        context.space?.landed(bytes)
        let unrecorded = record(holes)
        if !unrecorded.isEmpty {
            landed.removeAll { part in unrecorded.contains { $0.key == part.key && $0.index == part.index } }
        }
        context.board.landed(landed, landing)
        return bytes
    }

    /// Records the holes of chunks, before any waiter is told that these have landed: as soon as a content is whole its file
    /// may be opened, and is then compared with the record.
    ///
    /// - Returns: those that cannot be recorded now. Their waiters have been told.
    private func record(_ holes: [(part: Part, bytes: Int64)]) -> [Part] {
        guard !holes.isEmpty else { return [] }
        var landing = Landing()
        landing.holes = holes.map { hole in
            let target = hole.part.target
            return (target.record.id, target.chunkCount > 1 ? hole.part.offset : nil, hole.bytes)
        }
        do {
            try context.store.record(landing)
            return []
        } catch {
            let parts = holes.map(\.part)
            context.fail(
                [Member(blobOffset: 0, blobSize: 0, parts: parts)],
                MergeError(.index, "what has landed cannot be recorded", cause: error))
            return parts
        }
    }

    /// Writes a verified chunk at its own offset in its backing file, except its zeros.
    ///
    /// - Returns: how many bytes of it are holes of the file; nil if it cannot be written.
    private func place(_ chunk: borrowing VerifiedChunk) -> Int64? {
        let part = chunk.part
        let (target, record) = (part.target, part.target.record)
        let holes = ZeroRuns.find(in: chunk.bytes, at: part.offset, fileSize: record.size)
        do {
            let keepsCached = record.size < Self.largeSize && target.hasReaders.load(ordering: .relaxed)
            try target.write(
                chunk.bytes, holes: holes, at: part.offset, to: context.store.files, keepsCached: keepsCached)
            return holes.reduce(0) { $0 + Int64($1.count) }
        } catch {
            context.fail(
                [Member(blobOffset: 0, blobSize: 0, parts: [part])],
                MergeError(.write, "\(record.name.digest) cannot be written to the store", cause: error))
            return nil
        }
    }
}

extension MergeError {
    static func mismatch(_ part: Part, _ actual: Digest, layer: String) -> MergeError {
        MergeError(.digestMismatch, "\(name(part, layer)): expected \(part.digest), got \(actual)")
    }

    static func corrupt(
        _ part: Part, at blobOffset: Int64, layer: String, cause: any Error
    ) -> MergeError {
        MergeError(
            .corrupt, "\(name(part, layer)): the member at blob offset \(blobOffset) cannot be decompressed",
            cause: cause)
    }

    private static func name(_ part: Part, _ layer: String) -> String {
        "layer \(layer), file \(part.target.record.name.digest), offset \(part.offset)"
    }
}
