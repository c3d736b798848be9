import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import Synchronization

/// Finds out what there is of a content before it is fetched: what the index says, whether that is true, and what other
/// contents in the store have of its bytes.
final class Preparer: Sendable {
    private let context: MergeContext
    private let prover: Prover

    init(_ context: MergeContext, prover: Prover) {
        self.context = context
        self.prover = prover
    }

    /// Reads a content from the index, takes what the store already has, and answers the plan.
    func prepare(_ key: SlotKey, _ content: ContentID, preferring layer: LayerID?) {
        do {
            let (record, chunks) = try read(content, preferring: layer)
            var known: LayerID?
            for chunk in chunks where !chunk.hasLanded && chunk.source.layer != known {
                context.learnServer(of: chunk.source.layer)
                known = chunk.source.layer
            }
            let target = MergeTarget(record, chunkCount: chunks.count)
            context.board.change { $0.prepared(key, target, chunks: chunks) }
        } catch {
            let failure = MergeError.wrapping(error, "\(content) cannot be planned")
            context.board.change { $0.notPrepared(key, failure) }
        }
    }

    /// A content's chunks, after everything that the store has of it was put in place.
    private func read(
        _ content: ContentID, preferring layer: LayerID?
    ) throws -> (ContentRecord, [ChunkRecord]) {
        let index = context.store.index
        guard var record = try index.content(content) else {
            throw MergeError(.index, "\(content) is not in the index")
        }
        if record.proof == .disproven { throw MergeError.lie(record) }
        // If a reader asks for what has landed, it was not in the file. What is damaged or gone is fetched again.
        if record.state != .absent { record = try withoutDamage(record) }
        // The damaged file may be open: it keeps its name, and only bytes are written into it.
        let isHealing = context.board.isHealing(content)
        if record.state != .merged, !isHealing, try adoptTwin(of: record) { record.state = .merged }
        var chunks = try index.chunks(of: record, preferring: layer)
        guard chunks.reduce(0, { $0 + $1.size }) == record.size, !chunks.isEmpty else {
            throw MergeError(.index, "the index does not list every chunk of \(record.name.digest)")
        }
        if record.state == .merged {
            for index in chunks.indices { chunks[index].hasLanded = true }
        } else if isHealing || record.name.claim != nil || record.size > MergePlan.smallSize {
            try copyLandedChunks(of: record, &chunks)
        }
        if record.state != .merged, chunks.contains(where: { !$0.hasLanded && $0.source.isHole }) {
            try landHoles(of: record, &chunks)
        }
        return (record, chunks)
    }

    /// A content after what is damaged of its file was taken back.
    private func withoutDamage(_ record: ContentRecord) throws -> ContentRecord {
        let health = try context.store.takeBackDamage(of: record)
        if health == .sound { return record }
        context.reporter.report(
            MergeError(
                .index, "the file of \(record.name.digest) is damaged (\(health)): what is missing is fetched again"))
        context.holders.release([record.id])
        return try context.store.index.content(record.id) ?? record
    }

    // MARK: What other contents have

    /// Makes a content whole from a merged one with the same whole-file digest, once that digest is proven.
    ///
    /// A digest in a TOC is a claim: bytes of another layer are used for it only after they were hashed.
    ///
    /// - Returns: whether the content is merged now.
    private func adoptTwin(of content: ContentRecord) throws -> Bool {
        while let twin = try context.store.index.twin(of: content) {
            do {
                if try prover.prove(twin) {
                    try context.store.adopt(twin, as: content)
                    return true
                }
                // It is recorded as disproven or as damaged now, so the next look finds another one or none.
            } catch {
                if context.stop.isSet { throw MergeError.stopped }
                // It may be damaged, and the prover has taken that back; or the error is temporary and says nothing about it.
                context.reporter.report(
                    MergeError(.index, "\(twin.name.digest) cannot be taken from the store", cause: error))
                guard try context.store.index.content(twin.id)?.state != .merged else { return false }
            }
        }
        return false
    }

    /// Copies chunks that some other content has, verifies the copies, and records them.
    private func copyLandedChunks(of content: ContentRecord, _ chunks: inout [ChunkRecord]) throws {
        var landing = Landing()
        var lease = context.store.files.emptyLease()
        var target: File?
        var copied: Int64 = 0
        // It counts as on its way until it is recorded.
        defer { context.space?.landed(copied) }
        // The same file in other chunks.
        let twin = try context.store.index.twin(of: content)
        for index in chunks.indices where !chunks[index].hasLanded && !chunks[index].source.isHole {
            let chunk = chunks[index]
            let landed = try context.store.index.landedChunk(chunk.digest, size: chunk.size, notIn: content.id)
            guard let found = landed ?? twin.map({ ($0.name, chunk.offset) }) else { continue }
            // What the store cannot give is fetched; the fetch then reports that there is no room.
            guard
                (try? context.space?.reserve(SpaceKeeper.onDisk(chunk.size), holding: copied)) != nil
                    || context.space == nil
            else { break }
            var hasLanded = false
            defer { if !hasLanded { context.space?.giveBack(SpaceKeeper.onDisk(chunk.size)) } }
            lease.cover(content.name)
            // In place, if all contents with this file want these bytes.
            let file =
                try target
                ?? (content.name.claim == nil
                    ? lease.openInPlace(content.name, size: content.size)
                    : lease.create(content.name, size: content.size))
            target = file
            let holes: Int64
            do {
                let found = try context.store.files.reading(found.name) { source in
                    try copy(chunk, of: source, at: found.offset, to: file)
                }
                guard let found else { continue }
                holes = found
            } catch {
                // What cannot be copied is fetched.
                continue
            }
            hasLanded = true
            context.space?.giveBack(holes)
            copied += SpaceKeeper.onDisk(chunk.size) - holes
            chunks[index].hasLanded = true
            if holes > 0 {
                landing.holes.append((content.id, content.name.claim == nil ? nil : chunk.offset, holes))
            } else {
                landing.chunks.append((content.id, chunk.offset))
            }
        }
        try record(&landing, of: content, chunks)
        // Chunks that landed before are recorded too.
        if !landing.isEmpty || content.state != .absent { lease.recorded() }
    }

    /// - Returns: how many of the chunk's bytes are holes, now that they are in the file; nil if they are not in the file.
    private func copy(_ chunk: ChunkRecord, of source: File, at offset: Int64, to file: File) throws -> Int64? {
        let range = chunk.offset..<(chunk.offset + chunk.size)
        // A process that has the file open may be reading there: only right bytes are written over what the file has.
        if try !file.isHole(range), try source.digest(of: offset..<(offset + chunk.size)) != chunk.digest {
            return nil
        }
        // Zeros that take no space there take none here.
        let (end, shift) = (offset + chunk.size, chunk.offset - offset)
        let holes = try source.holes(in: offset..<end)
        var position = offset
        for hole in holes + [end..<end] {
            if position < hole.lowerBound {
                let count = Int(hole.lowerBound - position)
                try file.copyRange(from: source, at: position, to: position + shift, count: count)
            }
            if !hole.isEmpty { try file.clear((hole.lowerBound + shift)..<(hole.upperBound + shift)) }
            position = hole.upperBound
        }
        let bytes = try file.read(Int(chunk.size), at: chunk.offset)
        guard SHA256.hash(bytes) == chunk.digest, Int64(bytes.count) == chunk.size else { return nil }
        return holes.reduce(0) { $0 + Int64($1.count) }
    }

    /// Lands the chunks that are holes: a backing file is sparse, so its zeros are there before anything is written. Their
    /// digests were compared with those of zeros when the layer was indexed.
    private func landHoles(of content: ContentRecord, _ chunks: inout [ChunkRecord]) throws {
        var lease = context.store.files.lease(writing: content.name)
        let file = try lease.create(content.name, size: content.size)
        var landing = Landing()
        for index in chunks.indices where !chunks[index].hasLanded && chunks[index].source.isHole {
            let chunk = chunks[index]
            // What an earlier try left there was not verified.
            try file.clear(chunk.offset..<(chunk.offset + chunk.size))
            chunks[index].hasLanded = true
            landing.holes.append((content.id, content.name.claim == nil ? nil : chunk.offset, chunk.size))
        }
        try record(&landing, of: content, chunks)
        lease.recorded()
    }

    /// Records chunks that were put in place without being fetched.
    private func record(_ landing: inout Landing, of content: ContentRecord, _ chunks: [ChunkRecord]) throws {
        if chunks.allSatisfy(\.hasLanded) {
            landing.merged.append((content.id, content.name.claim == nil ? .proven : .claimed))
        }
        guard !landing.isEmpty else { return }
        try context.store.record(landing)
    }
}

extension MergeError {
    static func lie(_ content: ContentRecord) -> MergeError {
        MergeError(
            .disproven,
            "a layer lists \(content.name.digest) for bytes that have another digest; the image is wrong, its files are not served"
        )
    }

    static func wrapping(_ error: any Error, _ what: String) -> MergeError {
        (error as? MergeError) ?? MergeError(.index, what, cause: error)
    }
}
