import LaminaDigest
import Testing

@testable import LaminaMerge
@testable import LaminaStore

/// Numbers that are the same for the same seed.
struct PlanNumbers {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    mutating func next(below limit: Int) -> Int {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return Int(truncatingIfNeeded: state >> 16) % max(1, limit)
    }

    mutating func chance(_ percent: Int) -> Bool { next(below: 100) < percent }
}

/// What a plan may be asked for: contents of a few layers, four servers, with everything that the index would say about them.
struct PlanWorld {
    let records: [ContentRecord]
    let chunks: [[ChunkRecord]]
    static let layers = [LayerID(1), LayerID(2), LayerID(3), LayerID(4), LayerID(5)]
    /// The first two layers come from one server.
    static let servers = [0, 0, 1, 2, 3]
    private static let digests = (0..<64).map { SHA256.hash([UInt8($0)]) }

    init(_ numbers: inout PlanNumbers) {
        var records: [ContentRecord] = []
        var chunks: [[ChunkRecord]] = []
        var ends = [Int64](repeating: 0, count: Self.layers.count)
        for number in 0..<(3 + numbers.next(below: 5)) {
            let layer = numbers.next(below: Self.layers.count)
            let count = numbers.chance(50) ? 1 : 2 + numbers.next(below: 3)
            var own: [ChunkRecord] = []
            for index in 0..<count {
                let size = Int64(100 * (1 + numbers.next(below: 4)))
                let isHole = index > 0 && numbers.chance(5)
                own.append(
                    ChunkRecord(
                        offset: own.last.map { $0.offset + $0.size } ?? 0, size: size,
                        digest: Self.digests[(number * 5 + index) % 64], hasLanded: false,
                        source: ChunkPlace(
                            layer: Self.layers[layer], blobOffset: ends[layer], blobSize: isHole ? 0 : size,
                            innerOffset: 0)))
                ends[layer] += size
                // Something else is between some of them.
                if numbers.chance(20) { ends[layer] += 1000 }
            }
            let digest = Self.digests[number]
            records.append(
                ContentRecord(
                    id: ContentID(Int64(number)), name: BackingName(digest: digest, claim: count > 1 ? digest : nil),
                    size: own.reduce(0) { $0 + $1.size }, state: .absent, proof: .claimed))
            chunks.append(own)
        }
        self.records = records
        self.chunks = chunks
    }

    func layer(of content: Int) -> LayerID { chunks[content][0].source.layer }
}

/// A simple model of what a plan must do, which follows it step by step: sets of chunks, and their waiters.
struct PlanModel {
    struct Chunk: Hashable {
        var content: Int
        var index: Int
    }

    private enum Task {
        case fetch(FetchJob, SourceKey)
        case prepare(SlotKey, Int)
        case rows(PullID, [UnmergedContent], UInt64)
        case readAhead(FetchJob, ChunkPlace, [UnmergedContent], UInt64)
    }

    private(set) var plan: MergePlan
    private let fetchers: Int
    private let world: PlanWorld
    private var numbers: PlanNumbers
    private var tasks: [Task] = []
    private var landed: Set<Chunk> = []
    /// What the index knows about it.
    private var recorded: Set<Chunk> = []
    private var merged: Set<Int> = []
    private var unrecorded: [MergePlan.Landed] = []
    private var flying: [Chunk: Int] = [:]
    private var readers: [UInt64: (content: Int, range: Range<Int64>?)] = [:]
    /// With the contents that were missing when they began.
    private var pulls: [PullID: [Int]] = [:]
    private var cancelled: Set<PullID> = []
    private var reserved: [SlotKey] = []
    private var lastNumber: UInt64 = 0
    /// Whether anything failed so far: then waiters may get an error.
    private var hasFailed = false
    private var hasStopped = false
    private(set) var problems: [String] = []

    init(seed: UInt64) {
        numbers = PlanNumbers(seed: seed)
        world = PlanWorld(&numbers)
        fetchers = 1 + numbers.next(below: 6)
        plan = MergePlan(fetchers: fetchers)
        for (layer, server) in zip(PlanWorld.layers, PlanWorld.servers) { plan.lanes.setServer(server, of: layer) }
    }

    /// Runs a random sequence, then lets everything come to its end.
    mutating func run(steps: Int) {
        for _ in 0..<steps where problems.isEmpty { step() }
        finish()
    }

    private mutating func step() {
        switch numbers.next(below: 20) {
        case 0...4: ask()
        case 5: leave()
        case 6: beginPull()
        case 7 where numbers.chance(30): cancelPull()
        case 8: record()
        case 9: reserve()
        case 10: _ = plan.readAheads.opened(ContentID(Int64(numbers.next(below: world.records.count))))
        case 11...15: take()
        case 16 where numbers.chance(2): stop()
        case 17: plan.lanes.setSlow(numbers.chance(70), .server(numbers.next(below: 4)))
        default: complete(mayFail: true)
        }
    }

    // MARK: Those who ask

    private mutating func nextNumber() -> UInt64 {
        lastNumber += 1
        return lastNumber
    }

    private mutating func ask() {
        let content = numbers.next(below: world.records.count)
        let size = Int(world.records[content].size)
        var range: Range<Int64>?
        if numbers.chance(70) {
            let start = numbers.next(below: size)
            range = Int64(start)..<Int64(start + 1 + numbers.next(below: size - start))
        }
        let number = nextNumber()
        let request = Request(
            ticket: MergeTicket(content: world.records[content].id, number: number), range: range,
            startsBackground: range != nil && numbers.chance(50), isServed: numbers.chance(30))
        if plan.request(request) {
            readers[number] = (content, range)
        } else if !hasStopped {
            problems.append("a request was refused")
        }
    }

    private mutating func leave() {
        guard let number = readers.keys.min(), let reader = readers[number] else { return }
        let ticket = MergeTicket(content: world.records[reader.content].id, number: number)
        if plan.leave(ticket) {
            readers[number] = nil
        } else {
            problems.append("reader \(number) could not leave, and has not been answered")
        }
    }

    private mutating func beginPull() {
        guard pulls.count < 3 else { return }
        let layer = PlanWorld.layers[numbers.next(below: PlanWorld.layers.count)]
        let id = nextNumber()
        var pull = PlannedPull(id: id, layer: layer)
        if numbers.chance(30) {
            pull = PlannedPull(id: id, layer: layer, first: rows(of: layer), readAt: plan.recentlyMerged.clock)
        }
        if plan.begin(pull) {
            pulls[id] = rows(of: layer).map { Int($0.content.id.row) }
        } else if !hasStopped {
            problems.append("a pull was refused")
        }
    }

    private mutating func cancelPull() {
        guard let pull = pulls.keys.min() else { return }
        cancelled.insert(pull)
        let hasAskedForAll = plan.pulls[pull]?.hasEnded == true
        hear(plan.cancel(pull))
        if pulls[pull] != nil, !hasAskedForAll { problems.append("a cancelled pull does not end") }
    }

    private mutating func reserve() {
        if !reserved.isEmpty {
            plan.release(reserved)
            reserved = []
        } else if numbers.chance(30) {
            let id = ContentID(Int64(numbers.next(below: world.records.count)))
            let wasKnown = !plan.slots(of: id).isEmpty
            let got = plan.reserve([id])
            if wasKnown && !got.isEmpty { problems.append("a content was reserved while it is merged") }
            reserved = Array(got.values)
        }
    }

    // MARK: Fetchers

    /// What is not merged of a layer by the index.
    private func rows(of layer: LayerID) -> [UnmergedContent] {
        world.records.indices.filter { world.layer(of: $0) == layer && !merged.contains($0) }.map { content in
            UnmergedContent(
                content: world.records[content], firstChunk: world.chunks[content][0].source, hasTwin: content % 4 == 3)
        }
    }

    /// Takes the next work of the plan; false: there is none now.
    @discardableResult
    private mutating func take() -> Bool {
        // Each task has its fetcher.
        guard tasks.count < fetchers else { return false }
        var before = plan
        let hasUrgent = before.lanes.popUrgent() != nil
        guard let work = plan.next(rangeSize: { _ in 1500 }) else {
            if hasUrgent { problems.append("nothing to do, though a reader waits whose source has a fetcher left") }
            let isLeft = (0..<4).contains {
                plan.lanes.isWithout(.server($0)) && !plan.lanes.isSlow(.server($0))
            }
            if isLeft { problems.append("nothing to do, though a reader waits whose server has no fetcher") }
            return false
        }
        if hasUrgent {
            guard case .fetch(let job, _) = work, job.isUrgent else {
                if !hasStopped { problems.append("a reader waits, and other work comes first") }
                return false
            }
        }
        switch work {
        case .fetch(let job, let source): begin(job, source)
        case .prepare(let key, let id, _): tasks.append(.prepare(key, Int(id.row)))
        case .rows(let pull, let layer, let place, let time):
            let rest = rows(of: layer).filter { row in place.map { row.firstChunk.blobOffset > $0.blobOffset } ?? true }
            tasks.append(.rows(pull, Array(rest.prefix(2)), time))
        case .readAhead(let layer, let place, _):
            let next = rows(of: layer).filter { $0.firstChunk.blobOffset > place.blobOffset }
            tasks.append(.readAhead(FetchJob(layer: layer, isUrgent: false), place, next, plan.recentlyMerged.clock))
        case .tell(let ends): hear(ends)
        case .end: if !hasStopped { problems.append("the end came before the stop") }
        }
        if case .fetch(_, let source) = work, plan.lanes.isSlow(source), plan.lanes.runningSlow > (fetchers + 1) / 2 {
            problems.append("slow servers were given \(plan.lanes.runningSlow) of \(fetchers) fetchers")
        }
        checkRoom()
        let running = tasks.count { if case .fetch(_, .server(0)) = $0 { true } else { false } }
        if running > (fetchers + 1) / 2 { problems.append("one server has \(running) of \(fetchers) fetchers") }
        return !hasStopped
    }

    /// A server that has no fetcher gets one as soon as one is left, and those that are slow leave one for it.
    private mutating func checkRoom() {
        let sources = (0..<4).map { SourceKey.server($0) }
        for waiting in sources where plan.lanes.isWithout(waiting) && plan.lanes.busy >= fetchers {
            for other in sources where other != waiting && plan.lanes.isSlow(other) && plan.lanes.running(other) > 0 {
                if !plan.lanes.shouldMakeRoom(other) { problems.append("\(other) leaves nothing for \(waiting)") }
            }
        }
    }

    private mutating func begin(_ given: FetchJob, _ source: SourceKey) {
        var job = given
        if job.mayReadAhead, numbers.chance(50), let last = job.members.last {
            let place = ChunkPlace(
                layer: job.layer, blobOffset: last.blobOffset, blobSize: Int64(last.blobSize), innerOffset: 0)
            let next = rows(of: job.layer).filter { $0.firstChunk.blobOffset > place.blobOffset }
            plan.extend(&job, behind: place, with: next, readAt: plan.recentlyMerged.clock, next: 1000)
        }
        if job.members.isEmpty { problems.append("a job is empty") }
        for (left, right) in zip(job.members, job.members.dropFirst())
        where left.blobOffset + Int64(left.blobSize) != right.blobOffset {
            problems.append("a job has a gap")
        }
        for chunk in chunks(of: job.members) {
            if landed.contains(chunk) { problems.append("\(chunk) is fetched though it has landed") }
            if flying.updateValue(1, forKey: chunk) != nil { problems.append("\(chunk) is fetched twice at once") }
        }
        tasks.append(.fetch(job, source))
    }

    private func chunks(of members: [Member]) -> [Chunk] {
        members.flatMap(\.parts).map { Chunk(content: Int($0.target.record.id.row), index: $0.index) }
    }

    /// Ends one task, successfully or not.
    private mutating func complete(mayFail: Bool) {
        guard !tasks.isEmpty else { return }
        switch tasks.remove(at: numbers.next(below: tasks.count)) {
        case .prepare(let key, let content):
            if mayFail, numbers.chance(10) {
                hasFailed = true
                return hear(plan.notPrepared(key, MergeError(.disproven, "a test")))
            }
            var chunks = world.chunks[content]
            for index in chunks.indices {
                let chunk = Chunk(content: content, index: index)
                // Holes land as they are prepared.
                if chunks[index].source.isHole {
                    landed.insert(chunk)
                    recorded.insert(chunk)
                }
                chunks[index].hasLanded = recorded.contains(chunk)
            }
            if chunks.allSatisfy(\.hasLanded) { merged.insert(content) }
            hear(plan.prepared(key, MergeTarget(world.records[content], chunkCount: chunks.count), chunks: chunks))
        case .rows(let pull, let rows, let time):
            if mayFail, numbers.chance(3) {
                hasFailed = true
                hear(plan.failRows(of: pull, MergeError(.index, "a test")))
            } else {
                plan.addRows(rows, to: pull, readAt: time)
            }
        case .readAhead(var job, let place, let rows, let time):
            plan.extend(&job, behind: place, with: rows, readAt: time, next: 1000)
            guard let source = plan.begin(readAhead: job) else { return }
            begin(job, source)
        case .fetch(let job, let source):
            complete(job, from: source, mayFail: mayFail)
            plan.fetched(job, from: source)
        }
    }

    private mutating func complete(_ job: FetchJob, from source: SourceKey, mayFail: Bool) {
        let hasStalled = plan.lanes.shouldMakeRoom(source)
        if mayFail, job.isUrgent, hasStalled || !plan.isWanted(job), numbers.chance(50) {
            for chunk in chunks(of: job.members) { flying[chunk] = nil }
            // Some of it had come before.
            let count = numbers.next(below: job.members.count + 1)
            land(Array(job.members[..<count]))
            return plan.withdraw(Array(job.members[count...]), of: job, hasStalled: hasStalled)
        }
        for (number, member) in job.members.enumerated() {
            for chunk in chunks(of: [member]) { flying[chunk] = nil }
            if mayFail, numbers.chance(5) {
                for part in plan.mistrusted(member, member.parts, of: job.layer) {
                    hasFailed = true
                    let wrong = Member(blobOffset: member.blobOffset, blobSize: member.blobSize, parts: [part])
                    hear(plan.failed([wrong], MergeError(.corrupt, "a test")))
                }
            } else if mayFail, numbers.chance(5) {
                hasFailed = true
                for chunk in chunks(of: Array(job.members[number...])) { flying[chunk] = nil }
                return hear(plan.failed(Array(job.members[number...]), MergeError(.fetch, "a test")))
            } else {
                land([member])
            }
        }
    }

    private mutating func land(_ members: [Member]) {
        for part in members.flatMap(\.parts) {
            // The bytes are in their place from here on.
            landed.insert(Chunk(content: Int(part.target.record.id.row), index: part.index))
            for (number, range) in plan.takeServed(part).served {
                let chunk = world.chunks[Int(part.target.record.id.row)][part.index]
                if range.lowerBound < chunk.offset || range.upperBound > chunk.offset + chunk.size {
                    problems.append("reader \(number) is served from a chunk that does not have its range")
                }
                if readers.removeValue(forKey: number) == nil {
                    problems.append("\(number) is served, and was not there")
                }
            }
        }
        var ends = PlanEnds()
        unrecorded.append(plan.landed(members.flatMap(\.parts), &ends))
        hear(ends)
    }

    private mutating func record() {
        let done = unrecorded
        unrecorded = []
        for landed in done {
            for (content, offset) in landed.chunks {
                let content = Int(content.row)
                let index = world.chunks[content].firstIndex { $0.offset == offset } ?? -1
                recorded.insert(Chunk(content: content, index: index))
            }
            for target in landed.merged {
                let content = Int(target.record.id.row)
                merged.insert(content)
                for index in world.chunks[content].indices { recorded.insert(Chunk(content: content, index: index)) }
            }
        }
        let all = done.flatMap(\.merged).map(\.record.id)
        let ended = plan.recorded(merged: all, chunks: done.flatMap(\.chunks).map(\.content))
        if ended.count != all.count { problems.append("a merged content was not in the plan when it was recorded") }
    }

    // MARK: Ends

    private mutating func hear(_ ends: PlanEnds) {
        for (number, result) in ends.readers {
            guard let reader = readers.removeValue(forKey: number) else {
                problems.append("reader \(number) is answered, and was not there")
                continue
            }
            switch result {
            case .success:
                for (index, chunk) in world.chunks[reader.content].enumerated() {
                    let end = chunk.offset + chunk.size
                    let isWanted = reader.range.map { $0.lowerBound < end && $0.upperBound > chunk.offset } ?? true
                    if isWanted, !landed.contains(Chunk(content: reader.content, index: index)) {
                        problems.append("reader \(number) is told that chunk \(index) of \(reader.content) has landed")
                    }
                }
            case .failure: if !hasFailed && !hasStopped { problems.append("a reader is told of an error that was not") }
            }
        }
        for (id, result) in ends.pulls {
            guard let contents = pulls.removeValue(forKey: id) else {
                problems.append("pull \(id) ends, and was not there")
                continue
            }
            if case .failure = result {
                if !hasFailed, !hasStopped, !cancelled.contains(id) {
                    problems.append("a pull is told of an error that was not")
                }
            } else if !hasFailed, !cancelled.contains(id) {
                for content in contents {
                    let isWhole = world.chunks[content].indices.allSatisfy {
                        landed.contains(Chunk(content: content, index: $0))
                    }
                    if !isWhole { problems.append("pull \(id) ends well, and content \(content) is not whole") }
                }
            }
        }
    }

    private mutating func stop() {
        hasStopped = true
        hear(plan.stop())
        if !readers.isEmpty { problems.append("\(readers.count) readers are not told of the stop") }
        if !pulls.isEmpty { problems.append("\(pulls.count) pulls are not told of the stop") }
    }

    /// Lets everything that was requested come, without a failure: no waiter may be left.
    private mutating func finish() {
        plan.release(reserved)
        reserved = []
        for _ in 0..<10_000 where problems.isEmpty {
            if take() { continue }
            if tasks.isEmpty, unrecorded.isEmpty { break }
            complete(mayFail: false)
            record()
        }
        guard problems.isEmpty else { return }
        if !readers.isEmpty { problems.append("readers \(readers.keys.sorted()) are never answered") }
        if !pulls.isEmpty { problems.append("pulls \(pulls.keys.sorted()) never end") }
        for key in plan.contents.keys where !hasStopped {
            if let content = plan.contents[key] { problems.append("it stays in the plan: \(content)") }
        }
        if !hasStopped, !plan.isQuiet { problems.append("\(plan.contents.count) contents stay in the plan") }
        if plan.lanes.busy != 0 { problems.append("\(plan.lanes.busy) fetchers count as busy") }
    }
}
