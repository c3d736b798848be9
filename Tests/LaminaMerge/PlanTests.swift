import LaminaDigest
import Testing

@testable import LaminaMerge
@testable import LaminaStore

@Suite("The plan of the merge")
struct PlanTests {
    /// How many sequences there are, in parts that run side by side.
    private static let parts = 0..<100
    private static let sequencesOfPart = 1000

    @Test("keeps its promises through 100,000 random sequences", arguments: parts)
    func sequences(_ part: Int) {
        for number in 0..<Self.sequencesOfPart {
            let seed = UInt64(part * Self.sequencesOfPart + number)
            var model = PlanModel(seed: seed)
            model.run(steps: 10 + number % 40)
            guard model.problems.isEmpty else {
                Issue.record("sequence \(seed): \(model.problems.joined(separator: "; "))")
                return
            }
        }
    }

    // MARK: Sentences

    private static let digest = SHA256.hash([UInt8(1)])

    private func record(_ number: Int64, size: Int64, isClaimed: Bool = false) -> ContentRecord {
        let digest = SHA256.hash([UInt8(truncatingIfNeeded: number)])
        return ContentRecord(
            id: ContentID(number), name: BackingName(digest: digest, claim: isClaimed ? digest : nil), size: size,
            state: .absent, proof: .claimed)
    }

    /// A content of one small chunk at a place of a layer.
    private func row(_ number: Int64, _ layer: LayerID, at offset: Int64, size: Int64 = 100) -> UnmergedContent {
        UnmergedContent(
            content: record(number, size: size),
            firstChunk: ChunkPlace(layer: layer, blobOffset: offset, blobSize: size, innerOffset: 0), hasTwin: false)
    }

    private func chunks(_ layer: LayerID, from start: Int64, count: Int, size: Int64 = 100) -> [ChunkRecord] {
        (0..<Int64(count)).map { index in
            ChunkRecord(
                offset: index * size, size: size, digest: Self.digest, hasLanded: false,
                source: ChunkPlace(layer: layer, blobOffset: start + index * size, blobSize: size, innerOffset: 0))
        }
    }

    private func request(_ number: Int64, _ range: Range<Int64>? = nil, ticket: UInt64, rest: Bool = false) -> Request {
        Request(ticket: MergeTicket(content: ContentID(number), number: ticket), range: range, startsBackground: rest)
    }

    /// Asks for a content and has it prepared.
    private func ask(_ plan: inout MergePlan, _ request: Request, _ chunks: [ChunkRecord]) {
        let isAccepted = plan.request(request)
        #expect(isAccepted)
        guard case .prepare(let key, let id, _) = next(&plan) else {
            Issue.record("it is not prepared")
            return
        }
        let size = chunks.reduce(0) { $0 + $1.size }
        let target = MergeTarget(record(id.row, size: size, isClaimed: chunks.count > 1), chunkCount: chunks.count)
        _ = plan.prepared(key, target, chunks: chunks)
    }

    private func next(_ plan: inout MergePlan, rangeSize: Int = 8 << 20) -> MergePlan.Work? {
        while true {
            let work = plan.next { _ in rangeSize }
            if case .tell = work { continue }
            return work
        }
    }

    private func nextJob(_ plan: inout MergePlan) throws -> FetchJob {
        guard case .fetch(let job, _) = next(&plan) else { throw Unexpected() }
        return job
    }

    private func begin(_ plan: inout MergePlan, _ pull: PlannedPull) throws {
        guard plan.begin(pull) else { throw Unexpected() }
    }

    private func isIdle(_ plan: inout MergePlan) -> Bool { next(&plan) == nil }

    @Test("gives one server half of the fetchers, and keeps one for a server that has none")
    func fairness() {
        var plan = MergePlan(fetchers: 6)
        for layer in 1...4 { plan.lanes.setServer(layer, of: LayerID(Int64(layer))) }
        var running: [Int: Int] = [:]
        for layer in [1, 2, 3, 4] {
            appendTen(&plan, layer)
            // As if the others had not come yet.
            while plan.lanes.busy < 6, let (job, _) = plan.lanes.popUrgent() {
                running[Int(job.layer.row), default: 0] += 1
            }
        }
        // The first stalls with its half, the second takes what is left except one fetcher, and that one goes to the third.
        #expect(running == [1: 3, 2: 2, 3: 1])
        #expect(!plan.lanes.shouldMakeRoom(.server(1)), "it is not known to be slow")
    }

    /// Has readers wait for ten fetches of a layer.
    private func appendTen(_ plan: inout MergePlan, _ layer: Int) {
        for number in 0..<10 {
            let content = Int64(layer * 100 + number)
            plan.lanes.append(
                FetchJob(
                    layer: LayerID(Int64(layer)),
                    members: [
                        Member(
                            blobOffset: content * 100, blobSize: 100,
                            parts: [
                                Part(
                                    key: plan.add(ContentID(content)),
                                    target: MergeTarget(record(content, size: 100), chunkCount: 1), index: 0,
                                    offset: 0, size: 100, digest: Self.digest, innerOffset: 0)
                            ])
                    ], isUrgent: true))
        }
    }

    @Test("has any number of servers that stall make room for another one, and give them half together")
    func slowServers() throws {
        var plan = MergePlan(fetchers: 6)
        for layer in 1...5 { plan.lanes.setServer(layer, of: LayerID(Int64(layer))) }
        var running: [SourceKey: [FetchJob]] = [:]
        func fill(_ plan: inout MergePlan) {
            while plan.lanes.busy < 6, let (job, source) = plan.lanes.popUrgent() {
                running[source, default: []].append(job)
            }
        }
        for layer in 1...4 {
            appendTen(&plan, layer)
            fill(&plan)
        }
        for server in 1...3 { plan.lanes.setSlow(true, .server(server)) }
        #expect(plan.lanes.busy == 6 && plan.lanes.isWithout(.server(4)) && plan.lanes.runningSlow == 6)
        // Each that is asked ends, as long as the fourth has not what it may have.
        for server in [1, 1, 2, 3, 2, 1] {
            let source = SourceKey.server(server)
            guard plan.lanes.shouldMakeRoom(source), let job = running[source]?.popLast() else { continue }
            plan.lanes.append(job)
            plan.fetched(job, from: source)
            fill(&plan)
        }
        #expect(plan.lanes.runningSlow == 3 && plan.lanes.running(.server(4)) == 2)
        #expect(plan.lanes.busy == 5, "one is left for another server")
        #expect((1...3).allSatisfy { !plan.lanes.shouldMakeRoom(.server($0)) })
        appendTen(&plan, 5)
        fill(&plan)
        #expect(plan.lanes.running(.server(5)) == 1)
        // One that is fast again has its share.
        let slow = try #require((1...3).first { plan.lanes.running(.server($0)) > 0 })
        plan.lanes.setSlow(false, .server(slow))
        #expect(plan.lanes.runningSlow < 3 && !plan.lanes.isSlow(.server(slow)))
    }

    @Test("lets a stalled server hold nobody else's work that nobody waits for")
    func backgroundFairness() throws {
        var plan = MergePlan(fetchers: 10)
        plan.lanes.setServer(1, of: LayerID(1))
        plan.lanes.setServer(2, of: LayerID(2))
        for layer: Int64 in 1...2 { try begin(&plan, PlannedPull(id: UInt64(layer), layer: LayerID(layer))) }
        var layers: [Int64] = []
        for _ in 0..<8 {
            guard let work = next(&plan, rangeSize: 100) else { break }
            switch work {
            case .rows(let pull, let layer, let place, let time):
                let start = place.map { $0.blobOffset + 100 } ?? 0
                plan.addRows(
                    (0..<8).map { row(layer.row * 1000 + start / 100 + $0, layer, at: start + $0 * 100) }, to: pull,
                    readAt: time)
            case .fetch(let job, _): layers.append(job.layer.row)
            default: Issue.record("\(work)")
            }
        }
        #expect(layers.sorted() == [1, 1, 2, 2], "two for each")
    }

    @Test("fetches wrong bytes once more from another place, then says so")
    func retry() throws {
        var plan = MergePlan(fetchers: 2)
        ask(&plan, request(1, ticket: 1), chunks(LayerID(1), from: 0, count: 1))
        let first = try nextJob(&plan)
        #expect(!first.isRetry)
        let given = plan.mistrusted(first.members[0], first.members[0].parts, of: first.layer)
        #expect(given.isEmpty)
        plan.fetched(first, from: plan.lanes.source(of: first.layer))
        let again = try nextJob(&plan)
        #expect(again.isRetry && again.range == first.range && again.isUrgent)
        let final = plan.mistrusted(again.members[0], again.members[0].parts, of: again.layer)
        #expect(final.count == 1)
        let ends = plan.failed(again.members, MergeError(.digestMismatch, "wrong"))
        #expect(ends.readers.map(\.number) == [1] && plan.contents.isEmpty)
    }

    @Test("begins the rest of a content behind its reader, when the first chunk has been served")
    func rest() throws {
        var plan = MergePlan(fetchers: 4)
        ask(&plan, request(1, 0..<10, ticket: 1, rest: true), chunks(LayerID(1), from: 0, count: 8))
        let first = try nextJob(&plan)
        #expect(first.range == 0..<100 && first.isUrgent)
        do {
            let isIdle = isIdle(&plan)
            #expect(isIdle, "the rest would take half of the line from the reader")
        }
        let (_, wasFirst) = plan.takeServed(first.members[0].parts[0])
        #expect(wasFirst)
        let rest = try nextJob(&plan)
        #expect(rest.range == 100..<800 && !rest.isUrgent)
    }

    @Test("takes back what a reader who left had asked for, and fetches again what somebody asked for in that moment")
    func withdrawal() throws {
        var plan = MergePlan(fetchers: 4)
        let ticket = MergeTicket(content: ContentID(1), number: 1)
        ask(&plan, request(1, ticket: 1), chunks(LayerID(1), from: 0, count: 4))
        let job = try nextJob(&plan)
        let (left, leftAgain) = (plan.leave(ticket), plan.leave(ticket))
        #expect(left && !leftAgain && !plan.isWanted(job))
        let isAccepted = plan.request(request(1, 150..<160, ticket: 2))
        #expect(isAccepted)
        do {
            let isIdle = isIdle(&plan)
            #expect(isIdle, "it is on its way already")
        }
        plan.withdraw(job.members, of: job)
        plan.fetched(job, from: plan.lanes.source(of: job.layer))
        let again = try nextJob(&plan)
        #expect(again.range == 100..<200)
        var ends = PlanEnds()
        _ = plan.landed(again.members.flatMap(\.parts), &ends)
        #expect(ends.readers.map(\.number) == [2])
    }

    @Test("prepares what stands in the range of a pull's job first, so that it stays one request")
    func preparing() throws {
        var plan = MergePlan(fetchers: 4)
        let layer = LayerID(1)
        try begin(&plan, PlannedPull(id: 1, layer: layer))
        guard case .rows(_, _, nil, let time) = next(&plan) else { throw Unexpected() }
        var large = row(2, layer, at: 100, size: 100)
        large.hasTwin = true
        plan.addRows([row(1, layer, at: 0), large, row(3, layer, at: 200)], to: 1, readAt: time)
        guard case .rows = next(&plan) else { throw Unexpected() }
        do {
            let isIdle = isIdle(&plan)
            #expect(isIdle, "the rows that are read may belong to the same request")
        }
        plan.addRows([], to: 1, readAt: time)
        guard case .prepare(let key, ContentID(2), .some(layer)) = next(&plan) else { throw Unexpected() }
        do {
            let isIdle = isIdle(&plan)
            #expect(isIdle)
        }
        _ = plan.prepared(
            key, MergeTarget(record(2, size: 100), chunkCount: 1), chunks: chunks(layer, from: 100, count: 1))
        let job = try nextJob(&plan)
        #expect(job.range == 0..<300 && job.members.count == 3)
        var ends = PlanEnds()
        let landed = plan.landed(job.members.flatMap(\.parts), &ends)
        #expect(landed.merged.count == 3 && ends.pulls.isEmpty, "the pull does not know yet that there is no more")
        plan.fetched(job, from: plan.lanes.source(of: layer))
        guard case .tell(let told) = plan.next(rangeSize: { _ in 1 }) else { throw Unexpected() }
        #expect(told.pulls.map(\.id) == [1])
    }

    @Test("does not ask for a content again that was merged after its row was read")
    func stale() throws {
        var plan = MergePlan(fetchers: 4)
        let layer = LayerID(1)
        try begin(&plan, PlannedPull(id: 1, layer: layer))
        guard case .rows(_, _, nil, let time) = next(&plan) else { throw Unexpected() }
        // A reader has it merged and recorded, while the rows are on their way.
        ask(&plan, request(1, ticket: 1), chunks(layer, from: 0, count: 1))
        let read = try nextJob(&plan)
        var ends = PlanEnds()
        let landed = plan.landed(read.members.flatMap(\.parts), &ends)
        _ = plan.recorded(merged: landed.merged.map(\.record.id), chunks: [])
        plan.addRows([row(1, layer, at: 0), row(2, layer, at: 100)], to: 1, readAt: time)
        guard case .rows = next(&plan) else { throw Unexpected() }
        plan.addRows([], to: 1, readAt: time)
        let job = try nextJob(&plan)
        #expect(job.range == 100..<200)
    }

    @Test("finds nothing by a key whose element is gone")
    func slots() {
        var slots = Slots<Int>()
        let first = slots.insert { _ in 1 }
        let (removed, again) = (slots.remove(first), slots.remove(first))
        #expect(removed == 1 && slots[first] == nil && again == nil)
        let second = slots.insert { _ in 2 }
        #expect(slots[first] == nil && slots[second] == 2 && slots.count == 1)
        slots[first] = 7
        slots.modify(first) { $0 = 8 }
        slots.modify(second) { $0 += 1 }
        #expect(slots[second] == 3 && slots.keys == [second])
    }

    private struct Unexpected: Error {
        let line: Int

        init(line: Int = #line) { self.line = line }
    }
}
