import LaminaStore

// Work that no reader waits for: layers that are pulled, and the rest of contents that are read.

extension MergePlan {
    /// Begins a pull.
    ///
    /// - Returns: false if the merge is stopping.
    mutating func begin(_ pull: PlannedPull) -> Bool {
        if isStopping { return false }
        pulls[pull.id] = pull
        producers.append(.pull(pull.id))
        return true
    }

    /// Stops a pull from asking for more; it ends now, unless it has asked for everything.
    mutating func cancel(_ pull: PullID) -> PlanEnds {
        var ends = PlanEnds()
        pulls[pull]?.endsEarly = true
        end(pull, &ends)
        return ends
    }

    mutating func addRows(_ rows: [UnmergedContent], to pull: PullID, readAt time: UInt64) {
        lanes.endOther()
        pulls[pull]?.add(rows, readAt: time)
    }

    /// Reports that the index cannot be read for a pull; that ends the pull.
    mutating func failRows(of pull: PullID, _ error: MergeError) -> PlanEnds {
        lanes.endOther()
        note(error, of: pull)
        return cancel(pull)
    }

    /// The next work that no reader waits for; each producer in turn.
    mutating func nextBackground(rangeSize: (SourceKey) -> Int) -> Work? {
        var index = 0
        var ends = PlanEnds()
        while index < producers.count {
            let producer = producers[index]
            let step: Step
            switch producer {
            case .pull(let pull): step = next(ofPull: pull, rangeSize: rangeSize, &ends)
            case .rest(let key): step = next(ofRest: key, rangeSize: rangeSize)
            }
            switch step {
            case .nothing: index += 1
            case .work(let work):
                // If another step cancelled it, it is no longer in the list.
                if index < producers.count, producers[index] == producer {
                    producers.remove(at: index)
                    producers.append(producer)
                }
                return work
            case .ended: producers.removeAll { $0 == producer }
            }
            if !ends.isEmpty { return .tell(ends) }
        }
        return nil
    }

    private enum Step {
        case work(Work)
        /// Nothing now.
        case nothing
        /// There is nothing more.
        case ended
    }

    // MARK: The rest of a content

    private mutating func next(ofRest key: SlotKey, rangeSize: (SourceKey) -> Int) -> Step {
        guard let content = contents[key], content.isRestWanted else { return .ended }
        if content.isFirstAwaited { return .nothing }
        guard let first = content.nextAbsent else {
            contents[key]?.isRestWanted = false
            removeIfIdle(key)
            return .ended
        }
        let layer = content.chunks[first].source.layer
        let source = lanes.source(of: layer)
        guard lanes.mayRunBackground(source) else { return .nothing }
        var job = FetchJob(layer: layer, origin: content.origin, isUrgent: false, limit: rangeSize(source))
        contents.modify(key) { content in
            var index = first
            while index < content.chunks.count, content.states[index] == .absent, job.canTake(content, index) {
                content.states[index] = .inFlight
                job.add(content, index)
                index += 1
            }
            content.cursor = index
        }
        lanes.begin(source, isUrgent: false)
        return .work(.fetch(job, source))
    }

    // MARK: A pull

    private mutating func next(
        ofPull id: PullID, rangeSize: (SourceKey) -> Int, _ ends: inout PlanEnds
    ) -> Step {
        guard var pull = pulls.removeValue(forKey: id) else { return .ended }
        let step = next(of: &pull, rangeSize: rangeSize)
        pulls[id] = pull
        if case .ended = step { end(id, &ends) }
        return step
    }

    private mutating func next(of pull: inout PlannedPull, rangeSize: (SourceKey) -> Int) -> Step {
        if pull.endsEarly { return .ended }
        let source = lanes.source(of: pull.layer)
        guard lanes.mayRunBackground(source) else { return .nothing }
        let limit = rangeSize(source)
        while true {
            if pull.isReading { return .nothing }
            if pull.needsRows(for: limit) {
                pull.beginReading()
                lanes.beginOther()
                return .work(.rows(pull.id, pull.layer, after: pull.position, time: recentlyMerged.clock))
            }
            if let (key, content) = nextToPrepare(of: &pull, within: limit) {
                lanes.beginOther()
                return .work(.prepare(key, content, preferring: pull.layer))
            }
            if pull.preparing > 0 { return .nothing }
            var job = FetchJob(layer: pull.layer, origin: pull.origin, isUrgent: false, limit: limit)
            let isFull = fill(&job, from: &pull)
            if !job.members.isEmpty {
                let source = lanes.source(of: job.layer)
                lanes.begin(source, isUrgent: false)
                return .work(.fetch(job, source))
            }
            if isFull { continue }
            if pull.isUsedUp { return .ended }
            if pull.current != nil || pull.deferred.isEmpty { continue }
            guard pull.deferred.contains(where: { isReady($0.content.content.id, for: pull.origin) }) else {
                return .nothing
            }
            pull.takeDeferred()
        }
    }

    /// Whether nobody prepares a content or has it reserved.
    private func isReady(_ content: ContentID, for origin: Origin) -> Bool {
        guard let key = slot(of: content, for: origin) else { return true }
        return contents[key]?.isPrepared != false
    }

    /// The next content in the range of the current job that has to be prepared. All of them are prepared before the job is
    /// made; otherwise the range would end before each of them, and each would cost a request.
    private mutating func nextToPrepare(of pull: inout PlannedPull, within limit: Int) -> (SlotKey, ContentID)? {
        guard let first = pull.current else { return nil }
        let end = first.content.firstChunk.blobOffset + Int64(limit)
        while pull.scanned < pull.rows.count {
            let row = pull.rows[pull.scanned]
            guard pull.scanned == pull.head || row.content.firstChunk.blobOffset < end else { return nil }
            pull.scanned += 1
            let id = row.content.content.id
            guard row.content.needsPreparation, slot(of: id, for: pull.origin) == nil,
                !recentlyMerged.contains(id, since: row.time)
            else { continue }
            let key = add(id, for: pull.origin)
            contents[key]?.preparingPull = pull.id
            pull.announce()
            return (key, id)
        }
        return nil
    }

    /// Adds contents to a job.
    ///
    /// - Returns: whether the job has as much as it can take; otherwise the rows at hand are used up.
    private mutating func fill(_ job: inout FetchJob, from pull: inout PlannedPull) -> Bool {
        while let row = pull.current {
            let id = row.content.content.id
            guard let key = slot(of: id, for: pull.origin) ?? activate(row, of: pull) else {
                // Merged meanwhile; or it was given up, and the pull, which waited or had it prepared, has been told.
                if pull.isWaitingForHead || row.isAnnounced || recentlyMerged.contains(id, since: row.time) {
                    pull.skip()
                    continue
                }
                // It was in other hands when it was looked at, and these have left: now it must be prepared for this pull.
                pull.scanned = pull.head
                return true
            }
            guard contents[key]?.isPrepared == true else {
                pull.deferHead()
                continue
            }
            if !take(&job, key, &pull) { return true }
            pull.skip()
        }
        return false
    }

    /// Adds the chunks of a content that have not been requested.
    ///
    /// - Returns: whether the job could take all of them.
    private mutating func take(_ job: inout FetchJob, _ key: SlotKey, _ pull: inout PlannedPull) -> Bool {
        var tookAll = true
        contents.modify(key) { content in
            if !pull.isWaitingForHead, !content.isMerged {
                pull.isWaitingForHead = true
                if content.wait(pull.id) { pull.waiting += 1 }
            }
            while pull.chunk < content.chunks.count {
                if content.states[pull.chunk] == .absent {
                    guard job.canTake(content, pull.chunk) else { return tookAll = false }
                    content.states[pull.chunk] = .inFlight
                    job.add(content, pull.chunk)
                }
                pull.chunk += 1
            }
        }
        return tookAll
    }

    /// Has a pull wait for a content that was prepared for it.
    mutating func wait(_ pull: PullID, for key: SlotKey) {
        guard pulls[pull]?.hasEnded == false else { return }
        var isNew = false
        contents.modify(key) { isNew = $0.wait(pull) }
        if isNew { pulls[pull]?.waiting += 1 }
    }

    private mutating func activate(_ row: PlannedPull.Row, of pull: PlannedPull) -> SlotKey? {
        guard !pull.isWaitingForHead, !row.content.needsPreparation,
            !recentlyMerged.contains(row.content.content.id, since: row.time)
        else { return nil }
        return add(single: row.content, for: pull.origin)
    }

    // MARK: The end of a pull

    /// Notes an error that a pull has met.
    mutating func note(_ error: MergeError, of pull: PullID) {
        if pulls[pull]?.failure == nil { pulls[pull]?.failure = error }
        if !error.concernsOneContent { pulls[pull]?.endsEarly = true }
    }

    /// A content that a pull waited for is merged, or cannot be merged.
    mutating func end(_ pull: PullID, _ result: Result<Void, MergeError>, _ ends: inout PlanEnds) {
        pulls[pull]?.waiting -= 1
        if case .failure(let error) = result { note(error, of: pull) }
        tellIfDone(pull, &ends)
    }

    /// Ends a pull that asks for nothing more.
    private mutating func end(_ pull: PullID, _ ends: inout PlanEnds) {
        guard pulls[pull]?.hasEnded == false else { return }
        pulls[pull]?.hasEnded = true
        producers.removeAll { $0 == .pull(pull) }
        if pulls[pull]?.endsEarly == true {
            withdraw(pull)
            if pulls[pull]?.failure == nil, pulls[pull]?.isUsedUp == false { pulls[pull]?.failure = .stopped }
        }
        tellIfDone(pull, &ends)
    }

    /// Contents of which not every chunk was requested would never be merged.
    private mutating func withdraw(_ pull: PullID) {
        for key in contents.keys {
            contents.modify(key) { content in
                content.waiters.removeAll { $0.who == .pull(pull) }
                if content.preparingPull == pull { content.preparingPull = nil }
                if content.countingPull == pull { content.countingPull = nil }
            }
            removeIfIdle(key)
        }
        pulls[pull]?.waiting = 0
    }

    private mutating func tellIfDone(_ id: PullID, _ ends: inout PlanEnds) {
        guard let pull = pulls[id], pull.hasEnded, pull.waiting == 0 else { return }
        pulls[id] = nil
        ends.pulls.append((id, pull.failure.map { .failure($0) } ?? .success(())))
    }
}
