import Glibc
import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem
import Synchronization

// Decode, verify, place: compressed members become verified bytes in backing files.

/// Pieces that wait for a decoder; what readers wait for comes first.
struct DecodeQueue {
    private var urgent = FIFO<Piece>()
    private var background = FIFO<Piece>()
    var isStopping = false

    mutating func append(_ piece: Piece) {
        if piece.isUrgent { urgent.append(piece) } else { background.append(piece) }
    }

    /// The next piece; nil: none now; .some(nil): none ever.
    mutating func next() -> Piece?? {
        if let piece = urgent.pop() ?? background.pop() { return .some(piece) }
        return isStopping ? .some(nil) : nil
    }
}

/// A chunk's bytes, whose digest was computed and is the one that the TOC gives. Only the verifier makes one, and only
/// one of these can be placed.
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

extension MergeEngine {
    func decodeLoop() {
        let decoder: ChunkDecoder
        do {
            // The payload's memory is the pool's; what libzstd keeps is shared out.
            decoder = try ChunkDecoder(
                keeping: Self.inFlightLimit / max(1, options.decoderCount), gate: decoderGate)
        } catch {
            recorder.report(error)
            return
        }
        while let piece = decodeQueue.wait({ $0.next() }) {
            let landed = decode(piece, with: decoder)
            space?.giveBack(piece.diskBytes - landed)
            pool.give(piece.buffer)
            pool.release(piece.reserved, urgent: piece.isUrgent)
        }
    }

    /// - Returns: what has landed of it, in bytes on disk.
    private func decode(_ piece: Piece, with decoder: ChunkDecoder) -> Int64 {
        var landed: [Part] = []
        var offset = 0
        let (compression, keepsTarParts) = sources.decoding(of: piece.layer)
        if compression != .identity {
            decoder.lend(pool.take(piece.members.reduce(0) { max($0, $1.neededBytes) } + ChunkDecoder.smallSlack))
        }
        defer { pool.give(decoder.takeMemory()) }
        var landing = Landing()
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
                            if place(chunk) {
                                serve(chunk)
                                landed.append(part)
                            }
                        } catch {
                            wrong.append((part, .mismatch(part, error.actual, layer: layerName(piece.layer))))
                        }
                    }
                    if keepsTarParts, decoder.isWhole, wrong.isEmpty {
                        landing.keepRest(of: member, decompressed, piece.layer)
                    }
                }
            } catch {
                let layer = layerName(piece.layer)
                wrong = member.parts.map { ($0, .corrupt($0, at: member.blobOffset, layer: layer, cause: error)) }
            }
            if !wrong.isEmpty { mistrust(member, wrong, piece.layer) }
        }
        let bytes = landed.reduce(0) { $0 + SpaceKeeper.onDisk(Int64($1.size)) }
        // First: what is on record must not be counted as on its way, too.
        space?.landed(bytes)
        finish(landed, landing)
        return bytes
    }

    /// Gives a chunk that is in its place to those who read in it: from here, as its file would have to be read for them.
    private func serve(_ chunk: borrowing VerifiedChunk) {
        let part = chunk.part
        let content = part.content
        guard content.hasReaders.load(ordering: .relaxed) else { return }
        let (servings, wasFirst) = state.withLock { _ in
            defer { content.isFirstAwaited = false }
            return (content.takeServings(ofChunk: part.index), content.isFirstAwaited)
        }
        for serving in servings {
            let start = Int(serving.range.lowerBound - part.offset)
            serving.take(UnsafeRawBufferPointer(rebasing: chunk.bytes[start..<(start + serving.range.count)]))
        }
        // The fetchers have its background merge to do now.
        if wasFirst { state.withLock(notify: true) { _ in } }
    }

    /// Writes a verified chunk at its own offset in its backing file.
    private func place(_ chunk: borrowing VerifiedChunk) -> Bool {
        let part = chunk.part
        guard let record = part.content.record else { return false }
        do {
            let keepsCached = record.size < Self.largeSize && part.content.hasReaders.load(ordering: .relaxed)
            if part.content.chunks.count == 1 {
                try withLease(of: part.content, record.name) { lease throws(SystemError) in
                    try lease.write(chunk.bytes, as: record.name, keepsCached: keepsCached)
                }
            } else {
                let file = try part.content.file.withLock { file throws(SystemError) -> BackingFile in
                    if let file { return file }
                    let opened = try withLease(of: part.content, record.name) { lease throws(SystemError) in
                        try lease.writable(record.name, size: record.size)
                    }
                    file = opened
                    return opened
                }
                try file.write(chunk.bytes, at: part.offset, keepsCached: keepsCached)
            }
            return true
        } catch {
            fail(
                [Member(blobOffset: 0, blobSize: 0, parts: [part])],
                MergeError(.write, "\(record.name.digest) cannot be written to the store", cause: error))
            return false
        }
    }

    /// Runs `body` with the lease of a content that is being merged, which it keeps until it is recorded.
    func withLease<Result>(
        of content: ActiveContent, _ name: BackingName, _ body: (borrowing WritingLease) throws(SystemError) -> Result
    ) throws(SystemError) -> Result {
        try content.lease.withLock { lease throws(SystemError) -> Result in
            var taken = lease.take() ?? store.files.emptyLease()
            taken.cover(name)
            var failure: SystemError?
            var result: Result?
            do throws(SystemError) { result = try body(taken) } catch { failure = error }
            lease = consume taken
            guard let result else { throw failure ?? SystemError(code: EIO, operation: "write", subject: name.path) }
            return result
        }
    }

    /// Says that parts have landed: to the recorder, and to those who waited for them.
    ///
    /// - Parameter landing: what else is to be recorded with them.
    func finish(_ parts: [Part], _ landing: Landing = Landing()) {
        guard !parts.isEmpty || !landing.isEmpty else { return }
        var completions: [MergeCompletion] = []
        state.withLock { state in
            var landing = landing
            var bytes = 0
            for part in parts {
                let content = part.content
                guard content.states[part.index] != .landed else { continue }
                content.states[part.index] = .landed
                content.missing -= 1
                content.suspects.remove(part.index)
                bytes += part.size
                content.pull?.landed(part.size)
                if content.chunks.count > 1 {
                    landing.chunks.append((content.id, part.offset))
                    content.unrecorded += 1
                }
                if content.missing == 0 {
                    landing.merged.append((content.id, content.chunks.count == 1 ? .proven : .claimed))
                    content.file.withLock { $0 = nil }
                    counters.durations.record(monotonicSeconds() - content.startedAt)
                }
                for index in content.waiters.indices.reversed() where content.waiters[index].chunks.contains(part.index)
                {
                    content.waiters[index].missing -= 1
                    if content.waiters[index].missing == 0 {
                        completions.append(content.waiters.remove(at: index).completion)
                    }
                }
            }
            // With the lock held, so that a content's chunks are recorded before it is recorded as merged.
            pool.landed(bytes)
            recorder.add(landing, bytes: bytes)
            counters.landedBytes.add(UInt64(bytes), ordering: .relaxed)
        }
        for completion in completions { completion(.success(())) }
    }

    /// Bytes of a member are not what the TOC says: they are fetched once more from scratch, then it is an error.
    func mistrust(_ member: Member, _ wrong: [(part: Part, error: MergeError)], _ layer: LayerID) {
        counters.count(.wrongBytes)
        var final: [(part: Part, error: MergeError)] = []
        state.withLock(notify: true) { state in
            var again = Member(blobOffset: member.blobOffset, blobSize: member.blobSize, parts: [])
            for failure in wrong {
                if !state.isStopping, failure.part.content.suspects.insert(failure.part.index).inserted {
                    again.parts.append(failure.part)
                } else {
                    final.append(failure)
                }
            }
            guard !again.parts.isEmpty else { return }
            state.jobs.append(FetchJob(layer: layer, members: [again], isUrgent: true, isRetry: true))
        }
        if final.count < wrong.count {
            recorder.report(MergeError(wrong[0].error.code, "fetching once more", cause: wrong[0].error))
        }
        for failure in final {
            fail(
                [Member(blobOffset: member.blobOffset, blobSize: member.blobSize, parts: [failure.part])], failure.error
            )
        }
    }

    /// Says that parts cannot be had just now; asking again tries again.
    func fail(_ members: [Member], _ error: MergeError) {
        let parts = members.flatMap(\.parts)
        guard !parts.isEmpty else { return }
        var completions: [MergeCompletion] = []
        state.withLock(notify: true) { state in
            for part in parts {
                let content = part.content
                if content.states[part.index] == .inFlight { content.states[part.index] = .absent }
                content.isFirstAwaited = false
                content.suspects.remove(part.index)
                // Not tried again behind anyone's back, for ever: the next reader does.
                content.background = nil
                content.waiters.removeAll { waiter in
                    guard waiter.chunks.contains(part.index) else { return false }
                    completions.append(waiter.completion)
                    return true
                }
            }
            forEachContent(of: parts) { state.forgetIfIdle($0) }
        }
        if completions.isEmpty, error.code != .interrupted { recorder.report(error) }
        for completion in completions { completion(.failure(error)) }
    }

    /// Each content once, as long as the parts of one stand together.
    private func forEachContent(of parts: [Part], _ body: (ActiveContent) -> Void) {
        var previous: ActiveContent?
        for part in parts where part.content !== previous {
            body(part.content)
            previous = part.content
        }
    }

    func layerName(_ layer: LayerID) -> String {
        (try? sources.sources(of: layer).blob.digest.description) ?? layer.description
    }
}

extension Landing {
    /// Keeps what a verified member holds beside the files that were taken out of it.
    fileprivate mutating func keepRest(of member: Member, _ payload: UnsafeRawBufferPointer, _ layer: LayerID) {
        let cuts = member.parts.map { TarPart.Cut(offset: $0.innerOffset, size: $0.size) }
        tarParts.append(
            (layer, member.blobOffset, Int64(member.blobSize), TarPart.encode(payload, cutting: cuts)))
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
        "layer \(layer), file \(part.content.record?.name.digest.description ?? "?"), offset \(part.offset)"
    }
}
