import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import Synchronization

// Before a chunk is fetched: does the store have its bytes already?

extension MergeEngine {
    /// Makes a content whole from a merged one with the same whole-file digest, once that digest is proven.
    ///
    /// A digest in a TOC is a claim: bytes that another layer brought are taken for it only after they were hashed.
    ///
    /// - Returns: whether the content is merged now.
    func adoptTwin(of content: ContentRecord) throws -> Bool {
        while let twin = try store.index.twin(of: content) {
            do {
                if try prove(twin) {
                    try store.adopt(twin, as: content)
                    return true
                }
                // It is recorded as disproven or as damaged now, so the next look finds another one or none.
            } catch {
                if isStopping.load(ordering: .relaxed) { throw MergeError.stopped }
                // It may be damaged, which `prove` has taken back, or there is an error of this moment, which says nothing of it.
                recorder.report(MergeError(.index, "\(twin.name.digest) cannot be taken from the store", cause: error))
                guard try store.index.content(twin.id)?.state != .merged else { return false }
            }
        }
        return false
    }

    /// Hashes a merged content's whole file, once, and records the outcome.
    ///
    /// - Throws: `StoreError`, `SystemError`; `MergeError` when the merge stops meanwhile.
    func prove(_ content: ContentRecord) throws -> Bool {
        if content.proof != .claimed { return content.proof == .proven }
        let found: Bool?
        do {
            found = try store.files.reading(content.name) { file in
                // From here on it is not given up; it may have been before.
                guard try store.index.content(content.id)?.state == .merged else { return nil }
                return try hasDigest(content, file)
            }
        } catch let error as SystemError where error.code == ENOENT {
            // Gone: taken back. Given up: there is nothing to take back.
            _ = try store.recheck(content)
            found = nil
        }
        // Whatever is wrong, the next open has to look at the content anew.
        defer { if found != true { _ = holders.withLock { $0 }?.release([content.id]) } }
        guard let isProven = found else { return false }
        // Bytes that were damaged here say nothing of the layer.
        if !isProven, try !store.recheck(content) { return false }
        try store.recordProof(isProven ? .proven : .disproven, of: content.id)
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
            if isStopping.load(ordering: .relaxed) { throw MergeError.stopped }
        }
        return offset == content.size && hash.digest() == content.name.digest
    }

    /// Copies chunks that some other content has, verifies the copies, and records them.
    func copyLandedChunks(of content: ContentRecord, _ chunks: inout [ChunkRecord]) throws {
        var landing = Landing()
        var lease = store.files.emptyLease()
        var target: File?
        var copied: Int64 = 0
        // It counts as on its way until it is on record.
        defer { space?.landed(copied) }
        // The same file in other chunks.
        let twin = try store.index.twin(of: content)
        for index in chunks.indices where !chunks[index].hasLanded && !chunks[index].source.isHole {
            let chunk = chunks[index]
            let landed = try store.index.landedChunk(chunk.digest, size: chunk.size, notIn: content.id)
            guard let found = landed ?? twin.map({ ($0.name, chunk.offset) }) else { continue }
            // What is not to be had from the store is fetched; whoever fetches it says that there is no room.
            guard (try? space?.reserve(SpaceKeeper.onDisk(chunk.size), holding: copied)) != nil || space == nil
            else { break }
            var hasLanded = false
            defer { if !hasLanded { space?.giveBack(SpaceKeeper.onDisk(chunk.size)) } }
            lease.cover(content.name)
            // In place where all contents with this file want these bytes.
            let file =
                try target
                ?? (content.name.claim == nil
                    ? lease.openInPlace(content.name, size: content.size)
                    : lease.create(content.name, size: content.size))
            target = file
            let holes: Int64
            do {
                let found = try store.files.reading(found.name) { source in
                    try copy(chunk, of: source, at: found.offset, to: file)
                }
                guard let found else { continue }
                holes = found
            } catch {
                // What cannot be copied is fetched.
                continue
            }
            hasLanded = true
            space?.giveBack(holes)
            copied += SpaceKeeper.onDisk(chunk.size) - holes
            chunks[index].hasLanded = true
            if holes > 0 {
                landing.holes.append((content.id, content.name.claim == nil ? nil : chunk.offset, holes))
            } else {
                landing.chunks.append((content.id, chunk.offset))
            }
        }
        try record(&landing, of: content, chunks)
        // Chunks that landed before are on record, too.
        if !landing.isEmpty || content.state != .absent { lease.recorded() }
    }

    /// - Returns: how many of the chunk's bytes are holes, now that they are in the file; nil where they are not.
    private func copy(_ chunk: ChunkRecord, of source: File, at offset: Int64, to file: File) throws -> Int64? {
        let range = chunk.offset..<(chunk.offset + chunk.size)
        // Who has the file open may be reading there: nothing goes over what it has but what is right.
        if try !file.isHole(range), try source.digest(of: offset..<(offset + chunk.size)) != chunk.digest {
            return nil
        }
        // Zeros that take no disk there take none here.
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

    /// Lands the chunks that are holes: a backing file is sparse, so its zeros are there before anything is written. That
    /// their digests are those of zeros was seen when the layer was indexed.
    func landHoles(of content: ContentRecord, _ chunks: inout [ChunkRecord]) throws {
        var lease = store.files.lease(writing: content.name)
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
        try store.record(landing)
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
