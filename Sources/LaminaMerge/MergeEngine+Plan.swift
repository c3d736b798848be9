import LaminaStore
import LaminaSystem
import Synchronization

// Plan: from what is asked for to the ranges of blobs that hold it.

extension MergeEngine {
    /// Reads a content from the index, takes what the store has already, and serves the requests that came meanwhile.
    ///
    /// - Returns: a job for the calling fetcher to run at once.
    func prepare(_ active: ActiveContent, preferring layer: LayerID?) -> FetchJob? {
        do {
            let (record, chunks) = try plan(active.id, preferring: layer)
            state.withLock { state in
                active.prepare(record, chunks: chunks)
                guard active.isMerged else { return }
                state.active[active.id] = nil
                state.recentlyMerged.insert(active.id)
            }
            return assign(active)
        } catch {
            let failure = MergeError.wrapping(error, "\(active.id) cannot be planned")
            let requests = state.withLock { state -> [Request] in
                state.active[active.id] = nil
                defer { active.early = [] }
                return active.early
            }
            for request in requests { request.completion(.failure(failure)) }
            return nil
        }
    }

    /// A content's chunks, after everything that the store has of it was put in place.
    private func plan(
        _ content: ContentID, preferring layer: LayerID?
    ) throws -> (ContentRecord, [ChunkRecord]) {
        guard var record = try store.index.content(content) else {
            throw MergeError(.index, "\(content) is not in the index")
        }
        if record.proof == .disproven { throw MergeError.lie(record) }
        // Whoever asks for what has landed has not found it in the file. What is damaged or gone is fetched again.
        if record.state != .absent { record = try withoutDamage(record) }
        // Somebody may have the damaged file open: it keeps its name, and nothing but bytes go into it.
        let isHealing = state.withLock { $0.healing.contains(content) }
        if record.state != .merged, !isHealing, try adoptTwin(of: record) { record.state = .merged }
        var chunks = try store.index.chunks(of: record, preferring: layer)
        guard chunks.reduce(0, { $0 + $1.size }) == record.size, !chunks.isEmpty else {
            throw MergeError(.index, "the index does not list every chunk of \(record.name.digest)")
        }
        if record.state == .merged {
            for index in chunks.indices { chunks[index].hasLanded = true }
        } else if isHealing || record.name.claim != nil || record.size > Self.smallSize {
            try copyLandedChunks(of: record, &chunks)
        }
        if record.state != .merged, chunks.contains(where: { !$0.hasLanded && $0.source.isHole }) {
            try landHoles(of: record, &chunks)
        }
        return (record, chunks)
    }

    /// A content as it is after what is damaged of its file was taken back.
    private func withoutDamage(_ record: ContentRecord) throws -> ContentRecord {
        let health = try store.takeBackDamage(of: record)
        if health == .sound { return record }
        recorder.report(
            MergeError(
                .index, "the file of \(record.name.digest) is damaged (\(health)): what is missing is fetched again"))
        _ = holders.withLock { $0 }?.release([record.id])
        return try store.index.content(record.id) ?? record
    }

    /// Assigns a prepared content's requests to its chunks, and makes fetch jobs of what nobody has asked for yet.
    ///
    /// - Returns: as for `prepare`.
    func assign(_ active: ActiveContent) -> FetchJob? {
        var done: [MergeCompletion] = []
        var first: FetchJob?
        state.withLock(notify: true) { state in
            // Everybody has left.
            if active.early.isEmpty { return state.forgetIfIdle(active) }
            var wanted: [Int] = []
            for request in active.early {
                if request.range == nil || request.startsBackground {
                    active.hasReaders.store(true, ordering: .relaxed)
                }
                let indices = request.range.map { active.indices(holding: $0) } ?? 0..<active.chunks.count
                let missing = indices.count { active.states[$0] != .landed }
                let new = indices.filter { active.states[$0] == .absent }
                for index in new { active.states[index] = .inFlight }
                wanted += new
                if request.startsBackground, !new.isEmpty, missing < active.missing,
                    active.missing == active.chunks.count
                {
                    active.isFirstAwaited = true
                }
                if missing == 0 {
                    done.append(request.completion)
                } else {
                    active.waiters.append(
                        Waiter(
                            ticket: request.ticket, chunks: indices, missing: missing, serving: request.serving,
                            completion: request.completion))
                }
                if !indices.isEmpty { active.cursor = indices.upperBound }
                if request.startsBackground, active.missing > 0, active.background == nil, !state.isStopping {
                    let pull = ContentPull(active)
                    active.background = pull
                    state.producers.append(pull)
                }
            }
            active.early = []
            var jobs = Self.jobs(of: active, wanted, urgent: true)
            if !jobs.isEmpty { first = jobs.removeFirst() }
            for job in jobs { state.jobs.append(job) }
        }
        for completion in done { completion(.success(())) }
        if let job = first, active.chunks.count == 1, !state.withLock({ $0.healing.contains(active.id) }) {
            first = readingAhead(job)
        }
        return first
    }

    /// Turns chunks into jobs: adjacent members become one range.
    static func jobs(of active: ActiveContent, _ indices: [Int], urgent: Bool) -> [FetchJob] {
        let sorted = indices.sorted { left, right in
            let (a, b) = (active.chunks[left].source, active.chunks[right].source)
            return (a.layer.row, a.blobOffset, a.innerOffset) < (b.layer.row, b.blobOffset, b.innerOffset)
        }
        var jobs: [FetchJob] = []
        for index in sorted {
            if let last = jobs.indices.last, jobs[last].canTake(active, index) {
                jobs[last].add(active, index)
            } else {
                var job = FetchJob(layer: active.chunks[index].source.layer, members: [], isUrgent: urgent)
                job.add(active, index)
                jobs.append(job)
            }
        }
        return jobs
    }
}

extension UnmergedContent {
    /// Whether it is to be looked for in the store before it is fetched: all but a content of one small chunk.
    var needsPreparation: Bool {
        content.name.claim != nil || hasTwin || firstChunk.isHole || content.size > MergeEngine.smallSize
            || content.proof == .disproven
    }
}

extension ActiveContent {
    /// A content of one chunk, of which everything is known already.
    convenience init(single row: UnmergedContent) {
        self.init(id: row.content.id)
        prepare(
            row.content,
            chunks: [
                ChunkRecord(
                    offset: 0, size: row.content.size, digest: row.content.name.digest, hasLanded: false,
                    source: row.firstChunk)
            ])
    }
}

extension FetchJob {
    /// Whether a chunk continues this job's range: the same member as the last, or the one right behind it.
    func canTake(_ active: ActiveContent, _ index: Int) -> Bool {
        let source = active.chunks[index].source
        guard let last = members.last else { return true }
        guard source.layer == layer else { return false }
        if source.blobOffset == last.blobOffset { return true }
        return source.blobOffset == range.upperBound && range.count + Int(source.blobSize) <= limit
    }

    /// Adds a chunk that `canTake` said yes to. The first one says of which layer the job is: whoever prepared the content
    /// may have found its chunks in another one.
    mutating func add(_ active: ActiveContent, _ index: Int) {
        let chunk = active.chunks[index]
        if members.isEmpty { layer = chunk.source.layer }
        let part = Part(
            content: active, index: index, offset: chunk.offset, size: Int(chunk.size), digest: chunk.digest,
            innerOffset: Int(chunk.source.innerOffset))
        if let last = members.indices.last, members[last].blobOffset == chunk.source.blobOffset {
            members[last].parts.append(part)
        } else {
            members.append(
                Member(blobOffset: chunk.source.blobOffset, blobSize: Int(chunk.source.blobSize), parts: [part]))
        }
    }
}
