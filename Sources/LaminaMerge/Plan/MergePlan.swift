import LaminaStore

/// What is wanted, what is on its way, and what to do next. It decides for the merge, without threads, clocks, files or SQL.
///
/// Its input is requests, pulls, prepared contents, what has landed and what has failed; its output is work for the fetchers
/// (`next`) and ends for those that wait (`PlanEnds`). It alone knows
///
/// - single flight: a chunk is on its way once, however many ask for it;
/// - urgency: what readers wait for goes before background work;
/// - fairness: no source has more than half of the fetchers, slow ones have no more than that together, and one is kept for a source
///   that has none (`FetchLanes`);
/// - retries: wrong bytes are fetched once more, from another place, before they are an error;
/// - withdrawal: what a reader that left had asked for is taken back.
///
/// The cost of each function is a lookup and a step for each part, waiter or chunk that it handles.
struct MergePlan {
    /// What a fetcher is to do.
    enum Work {
        case fetch(FetchJob, SourceKey)
        /// Find out what there is of a content: `prepared` or `notPrepared` is the answer.
        case prepare(SlotKey, ContentID, preferring: LayerID?)
        /// Read the small files behind a place and add them to a job: `extend` is the answer.
        case readAhead(LayerID, behind: ChunkPlace, window: Int)
        /// Read rows of a pull: `addRows` or `failRows` is the answer.
        case rows(PullID, LayerID, after: ChunkPlace?, time: UInt64)
        /// Deliver ends to waiters.
        case tell(PlanEnds)
        case end
    }

    enum Producer: Equatable {
        case pull(PullID)
        /// The rest of a content, behind its readers.
        case rest(SlotKey)
    }

    var contents = Slots<PlannedContent>()
    var keys: [Wanted: SlotKey] = [:]
    /// How many contents are wanted for each repository.
    private var origins: [Origin: Int] = [:]
    /// How many chunks of contents have landed that the index does not know of yet.
    var unrecorded: [ContentID: Int] = [:]
    /// Contents that were merged a moment ago: rows that were read from the index before may not know it yet. Its clock, read
    /// before the rows, tells which those are.
    var recentlyMerged = Recent<ContentID>(limit: 16384)
    var lanes: FetchLanes
    var readAheads = ReadAheadWindows()
    var pulls: [PullID: PlannedPull] = [:]
    /// Background work; the first producer is next.
    var producers: [Producer] = []
    /// Contents that are being healed: in place, and each alone.
    var healing: Set<ContentID> = []
    private var requests = FIFO<Request>()
    private(set) var isStopping = false

    init(fetchers: Int) { lanes = FetchLanes(fetchers: fetchers) }

    /// Whether nothing is on its way, and nothing is wanted.
    var isQuiet: Bool { contents.isEmpty && producers.isEmpty }

    /// Whether readers wait for bytes.
    var hasReaders: Bool { lanes.runningUrgent > 0 || lanes.urgentCount > 0 }

    /// What readers ask for and no fetcher has started.
    var queuedCount: Int { requests.count + lanes.urgentCount }

    /// Whether another fetcher would find work that readers wait for.
    var wantsMoreFetchers: Bool { lanes.urgentCount > 0 || !requests.isEmpty }

    // MARK: Asking

    /// - Returns: false if the merge is stopping.
    mutating func request(_ request: Request) -> Bool {
        if isStopping { return false }
        requests.append(request)
        return true
    }

    /// Withdraws a request; the merge goes on for the others.
    ///
    /// - Returns: whether it was there: then it is not answered.
    mutating func leave(_ ticket: MergeTicket) -> Bool {
        if requests.removeFirst(where: { $0.ticket == ticket }) { return true }
        return slots(of: ticket.content).contains { leave(ticket, $0) }
    }

    private mutating func leave(_ ticket: MergeTicket, _ key: SlotKey) -> Bool {
        if let index = contents[key]?.early.firstIndex(where: { $0.ticket == ticket }) {
            contents[key]?.early.remove(at: index)
            return true
        }
        guard let index = contents[key]?.waiters.firstIndex(where: { $0.who == .reader(ticket.number) })
        else { return false }
        contents[key]?.waiters.remove(at: index)
        return true
    }

    /// What to do next; nil: nothing now.
    ///
    /// - Parameter rangeSize: the compressed bytes of a background request to a source.
    mutating func next(rangeSize: (SourceKey) -> Int) -> Work? {
        if isStopping { return .end }
        if let (job, source) = lanes.popUrgent() { return .fetch(job, source) }
        var ends = PlanEnds()
        while let request = requests.pop() {
            if let key = slot(of: request.ticket.content, for: request.origin) {
                contents[key]?.early.append(request)
                guard contents[key]?.isPrepared == true else { continue }
                assign(key, &ends)
                if !ends.isEmpty { return .tell(ends) }
                if let (job, source) = lanes.popUrgent() { return .fetch(job, source) }
            } else {
                let key = add(request.ticket.content, for: request.origin)
                contents[key]?.early.append(request)
                lanes.beginOther()
                return .prepare(key, request.ticket.content, preferring: request.layer)
            }
        }
        if let (layer, window) = readAheads.popDue() {
            lanes.beginOther()
            return .readAhead(layer, behind: window.last, window: window.size)
        }
        return nextBackground(rangeSize: rangeSize)
    }

    /// Notes that a fetcher has finished a job.
    mutating func fetched(_ job: FetchJob, from source: SourceKey) { lanes.end(source, isUrgent: job.isUrgent) }

    /// What is known of a content that is opened. Also notes whether this open means that the next window of its neighbours
    /// should be fetched.
    mutating func opened(_ content: ContentID) -> (MergeEngine.Knowledge, isMark: Bool) {
        (knowledge(of: content), readAheads.opened(content))
    }

    /// What the plan knows of a content's bytes, which may be newer than what the index says.
    func knowledge(of content: ContentID) -> MergeEngine.Knowledge {
        var found = MergeEngine.Knowledge.none
        for key in slots(of: content) {
            if contents[key]?.isMerged == true { return .merged }
            found = .merging
        }
        return found
    }

    /// Whether a range of a content that is being merged has landed.
    func hasLanded(_ range: Range<Int64>, of content: ContentID) -> Bool {
        slots(of: content).contains { key in
            guard let known = contents[key], known.isPrepared else { return false }
            return known.indices(holding: range).allSatisfy { known.states[$0] == .landed }
        }
    }

    // MARK: Contents

    /// The slot of a content that is wanted for a repository's images, that is kept from everybody, or of which all has landed, whoever
    /// brought it: then it is in the store.
    func slot(of content: ContentID, for origin: Origin) -> SlotKey? {
        if let own = keys[Wanted(content: content, origin: origin)] { return own }
        let others = slots(of: content)
        // A request for no repository in particular takes what is on its way.
        if origin == .any { return others.first }
        return others.first { contents[$0]?.origin == .reserved || contents[$0]?.isMerged == true }
    }

    /// All slots of a content. There are as many repositories as are being fetched from just now: one, most of the time.
    func slots(of content: ContentID) -> [SlotKey] {
        if origins.isEmpty { return [] }
        return origins.keys.compactMap { keys[Wanted(content: content, origin: $0)] }
    }

    /// Adds a content that is not known; the caller prepares or reserves it.
    mutating func add(_ id: ContentID, for origin: Origin = .any) -> SlotKey {
        let key = contents.insert { PlannedContent(key: $0, id: id, origin: origin) }
        keys[Wanted(content: id, origin: origin)] = key
        origins[origin, default: 0] += 1
        return key
    }

    /// Adds a content of one chunk of which everything is known.
    mutating func add(single row: UnmergedContent, for origin: Origin = .any) -> SlotKey {
        let key = contents.insert { PlannedContent(key: $0, single: row, origin: origin) }
        keys[Wanted(content: row.content.id, origin: origin)] = key
        origins[origin, default: 0] += 1
        return key
    }

    @discardableResult
    mutating func remove(_ key: SlotKey) -> PlannedContent? {
        guard let content = contents.remove(key) else { return nil }
        keys[content.wanted] = nil
        let left = (origins[content.origin] ?? 1) - 1
        origins[content.origin] = left > 0 ? left : nil
        if content.isRestWanted { producers.removeAll { $0 == .rest(key) } }
        return content
    }

    mutating func removeIfIdle(_ key: SlotKey) {
        guard let content = contents[key], content.isIdle, unrecorded[content.id] == nil else { return }
        remove(key)
    }

    /// Takes what there is of a content, and serves the requests that came meanwhile.
    mutating func prepared(_ key: SlotKey, _ target: MergeTarget, chunks: [ChunkRecord]) -> PlanEnds {
        lanes.endOther()
        var ends = PlanEnds()
        guard let id = contents[key]?.id else { return ends }
        contents[key]?.prepare(target, chunks: chunks)
        // From here on the pull waits for it, so that it stays until its turn comes.
        if let pull = contents[key]?.preparingPull { wait(pull, for: key) }
        endPreparing(key)
        assign(key, &ends)
        if contents[key]?.isMerged == true {
            remove(key)
            recentlyMerged.insert(id)
        }
        return ends
    }

    /// Reports that a content could not be examined.
    mutating func notPrepared(_ key: SlotKey, _ error: MergeError) -> PlanEnds {
        lanes.endOther()
        var ends = PlanEnds()
        if let pull = contents[key]?.preparingPull { note(error, of: pull) }
        endPreparing(key)
        for request in contents[key]?.early ?? [] { ends.readers.append((request.ticket.number, .failure(error))) }
        remove(key)
        return ends
    }

    private mutating func endPreparing(_ key: SlotKey) {
        guard let pull = contents[key]?.preparingPull else { return }
        contents[key]?.preparingPull = nil
        pulls[pull]?.preparing -= 1
    }

    /// Reserves for the caller those contents that are not being merged; requests for them wait.
    ///
    /// - Returns: the contents that it got; `release` gives them back.
    mutating func reserve(_ ids: [ContentID]) -> [ContentID: SlotKey] {
        var reserved: [ContentID: SlotKey] = [:]
        for id in ids where !isStopping && slots(of: id).isEmpty { reserved[id] = add(id, for: .reserved) }
        return reserved
    }

    mutating func release(_ reserved: some Sequence<SlotKey>) {
        for key in reserved {
            guard let content = contents[key] else { continue }
            remove(key)
            for request in content.early { requests.append(request) }
        }
    }

    // MARK: Assigning

    /// Assigns a prepared content's requests to its chunks, and makes fetch jobs of chunks that have not been requested yet.
    mutating func assign(_ key: SlotKey, _ ends: inout PlanEnds) {
        // All have left.
        guard let early = contents[key]?.early, !early.isEmpty else { return removeIfIdle(key) }
        contents[key]?.early = []
        var wanted: [Int] = []
        for request in early { assign(request, to: key, &wanted, &ends) }
        guard let content = contents[key] else { return }
        var jobs = FetchJob.urgent(content, wanted)
        if content.chunks.count == 1, jobs.count == 1 { jobs[0].mayReadAhead = !healing.contains(content.id) }
        for job in jobs { lanes.append(job) }
        removeIfIdle(key)
    }

    private mutating func assign(_ request: Request, to key: SlotKey, _ wanted: inout [Int], _ ends: inout PlanEnds) {
        var startsRest = false
        contents.modify(key) { content in
            if request.isReaders, let target = content.target { ends.awaited.append(target) }
            let indices = request.range.map { content.indices(holding: $0) } ?? 0..<content.chunks.count
            let missing = indices.count { content.states[$0] != .landed }
            let new = indices.filter { content.states[$0] == .absent }
            for index in new { content.states[index] = .inFlight }
            wanted += new
            if request.startsBackground, !new.isEmpty, missing < content.missing,
                content.missing == content.chunks.count
            {
                content.isFirstAwaited = true
            }
            if missing == 0 {
                ends.readers.append((request.ticket.number, .success(())))
            } else {
                content.waiters.append(
                    Waiter(
                        who: .reader(request.ticket.number), chunks: indices, missing: missing,
                        served: request.isServed ? request.range : nil))
            }
            if !indices.isEmpty { content.cursor = indices.upperBound }
            if request.startsBackground, content.missing > 0, !content.isRestWanted {
                content.isRestWanted = true
                startsRest = true
            }
        }
        if startsRest { producers.append(.rest(key)) }
    }

    // MARK: Ending

    /// Takes everything that waits, to end it. What is landing still lands.
    mutating func stop() -> PlanEnds {
        isStopping = true
        var ends = PlanEnds()
        for request in requests.drain() { ends.readers.append((request.ticket.number, .failure(.stopped))) }
        for key in contents.keys {
            contents.modify(key) { content in
                for request in content.early { ends.readers.append((request.ticket.number, .failure(.stopped))) }
                for waiter in content.waiters { ends.add(waiter.who, .failure(.stopped)) }
                content.early = []
                content.waiters = []
                content.isRestWanted = false
            }
        }
        for pull in pulls.keys { ends.pulls.append((pull, .failure(.stopped))) }
        pulls = [:]
        producers = []
        lanes.stop()
        readAheads.stop()
        return ends
    }

    /// Forgets all contents, when nothing lands any more.
    mutating func forgetAll() {
        for key in contents.keys { remove(key) }
        unrecorded = [:]
    }
}

extension Slots {
    /// Changes an element in its place; does nothing if the element is gone.
    mutating func modify(_ key: SlotKey, _ change: (inout Element) -> Void) {
        guard contains(key) else { return }
        func apply(_ element: inout Element?) {
            guard var taken = element.take() else { return }
            change(&taken)
            element = taken
        }
        apply(&self[key])
    }
}
