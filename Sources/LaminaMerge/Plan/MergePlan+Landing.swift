import LaminaStore

// The results of jobs: landed, failed, wrong, given up; and what the index has recorded.

extension MergePlan {
    /// What landed, for the recorder and the counters.
    struct Landed {
        var bytes = 0
        var chunks: [(content: ContentID, offset: Int64)] = []
        /// Contents that are merged now.
        var merged: [MergeTarget] = []
    }

    /// Notes that parts are in their place.
    mutating func landed(_ parts: [Part], _ ends: inout PlanEnds) -> Landed {
        var landed = Landed()
        for part in parts {
            var ended: [Waiter.Who] = []
            contents.modify(part.key) { content in
                guard content.states[part.index] != .landed else { return }
                content.states[part.index] = .landed
                content.missing -= 1
                content.suspects.remove(part.index)
                landed.bytes += part.size
                if let pull = content.countingPull { ends.landed.append((pull, part.size)) }
                if content.chunks.count > 1 {
                    landed.chunks.append((content.id, part.offset))
                    unrecorded[content.id, default: 0] += 1
                }
                if content.missing == 0 { landed.merged.append(part.target) }
                for index in content.waiters.indices.reversed() where content.waiters[index].chunks.contains(part.index)
                {
                    content.waiters[index].missing -= 1
                    if content.waiters[index].missing == 0 { ended.append(content.waiters.remove(at: index).who) }
                }
            }
            for who in ended {
                ends.add(who, .success(()))
                if case .pull(let pull) = who { end(pull, .success(()), &ends) }
            }
        }
        return landed
    }

    /// Says that parts cannot be had just now; asking again tries again. What the same repository has in another layer, too, is fetched
    /// from there first.
    mutating func failed(_ members: [Member], _ error: MergeError) -> PlanEnds {
        var ends = PlanEnds()
        var ended: [Waiter.Who] = []
        var again: [SlotKey: [Int]] = [:]
        for part in members.lazy.flatMap(\.parts) {
            if error.isOfSource, !isStopping, contents[part.key]?.states[part.index] == .inFlight {
                var hasMoved = false
                contents.modify(part.key) { hasMoved = $0.moveOn(part.index) }
                if hasMoved {
                    again[part.key, default: []].append(part.index)
                    continue
                }
            }
            contents.modify(part.key) { content in
                if content.states[part.index] == .inFlight { content.states[part.index] = .absent }
                content.isFirstAwaited = false
                content.suspects.remove(part.index)
                // It is not tried again in the background for ever: the next reader tries it.
                content.isRestWanted = false
                content.waiters.removeAll { waiter in
                    guard waiter.chunks.contains(part.index) else { return false }
                    ended.append(waiter.who)
                    return true
                }
            }
        }
        for (key, indices) in again {
            guard let content = contents[key] else { continue }
            for job in FetchJob.urgent(content, indices) { lanes.append(job) }
        }
        forEachContent(of: members) { $0.removeIfIdle($1) }
        for who in ended {
            ends.add(who, .failure(error))
            if case .pull(let pull) = who { end(pull, .failure(error), &ends) }
        }
        return ends
    }

    /// Bytes of a member differ from the table of contents: parts that have not been suspected yet are fetched once more, from
    /// another source if there is one.
    ///
    /// - Returns: the parts that were wrong twice; `failed` tells their waiters.
    mutating func mistrusted(_ member: Member, _ wrong: [Part], of layer: LayerID) -> [Part] {
        var again = Member(blobOffset: member.blobOffset, blobSize: member.blobSize, parts: [])
        var final: [Part] = []
        for part in wrong {
            if !isStopping, contents[part.key]?.suspects.insert(part.index).inserted == true {
                again.parts.append(part)
            } else {
                final.append(part)
            }
        }
        if !again.parts.isEmpty {
            let origin = again.parts.first.flatMap { contents[$0.key]?.origin } ?? .any
            lanes.append(FetchJob(layer: layer, origin: origin, members: [again], isUrgent: true, isRetry: true))
        }
        return final
    }

    /// Whether a reader or pull waits for a part of a job.
    func isWanted(_ job: FetchJob) -> Bool { job.members.contains { isWanted($0) } }

    private func isWanted(_ member: Member) -> Bool {
        member.parts.contains { contents[$0.key]?.isAwaited($0.index) == true }
    }

    /// Takes back members that no reader waited for when their read was given up: a later reader asks again. Members that a
    /// reader has asked for in this very moment are fetched at once, by another request.
    ///
    /// - Parameter hasStalled: whether it was given up for others, though readers wait for it: they go on to wait.
    mutating func withdraw(_ members: [Member], of job: FetchJob, hasStalled: Bool = false) {
        var rest = members
        if let first = members.firstIndex(where: isWanted), let last = members.lastIndex(where: isWanted) {
            var again = job
            if hasStalled { again.stalls += 1 }
            // All members in between too: a job's members are adjacent.
            again.members = Array(members[first...last])
            lanes.append(again)
            rest.removeSubrange(first...last)
        }
        for part in rest.lazy.flatMap(\.parts) {
            contents.modify(part.key) { content in
                if content.states[part.index] == .inFlight { content.states[part.index] = .absent }
                content.isFirstAwaited = false
            }
        }
        forEachContent(of: rest) { $0.removeIfIdle($1) }
    }

    /// Takes out the readers that want bytes of this chunk and of no other.
    ///
    /// - Returns: which readers they are and which range of the file they want, and whether the background merge of the content
    ///   has waited for this.
    mutating func takeServed(_ part: Part) -> (served: [(number: UInt64, range: Range<Int64>)], wasFirst: Bool) {
        var served: [(number: UInt64, range: Range<Int64>)] = []
        var wasFirst = false
        contents.modify(part.key) { content in
            wasFirst = content.isFirstAwaited
            content.isFirstAwaited = false
            content.waiters.removeAll { waiter in
                guard waiter.chunks == part.index..<(part.index + 1), let range = waiter.served,
                    case .reader(let number) = waiter.who
                else { return false }
                served.append((number, range))
                return true
            }
        }
        return (served, wasFirst)
    }

    /// Forgets contents that the index has recorded, as merged or as far as they were wanted.
    ///
    /// - Returns: those that are merged: their leases end.
    mutating func recorded(merged: [ContentID], chunks: [ContentID]) -> [MergeTarget] {
        var ended: [MergeTarget] = []
        ended.reserveCapacity(merged.count)
        for id in merged {
            for key in slots(of: id) where contents[key]?.isMerged == true {
                if let target = remove(key)?.target { ended.append(target) }
            }
            recentlyMerged.insert(id)
        }
        for id in chunks {
            guard let count = unrecorded[id] else { continue }
            unrecorded[id] = count > 1 ? count - 1 : nil
            if count == 1 { for key in slots(of: id) { removeIfIdle(key) } }
        }
        return ended
    }

    /// Calls it once for each content, if the parts of each content are adjacent.
    private mutating func forEachContent(of members: [Member], _ body: (inout Self, SlotKey) -> Void) {
        var previous: SlotKey?
        for part in members.lazy.flatMap(\.parts) where part.key != previous {
            body(&self, part.key)
            previous = part.key
        }
    }

    // MARK: Reading ahead

    /// Adds the small files that follow the job's file in the blob, unless they have been requested.
    ///
    /// - Parameters:
    ///   - neighbours: in the order of the blob, behind `place`.
    ///   - time: the time of `recentlyMerged` before they were read from the index.
    ///   - next: the compressed bytes that the next window may have.
    mutating func extend(
        _ job: inout FetchJob, behind place: ChunkPlace, with neighbours: [UnmergedContent], readAt time: UInt64,
        next: Int
    ) {
        var window = ReadAheadWindows.Window(size: next, last: place)
        var count = 0
        for neighbour in neighbours where !isStopping {
            guard !neighbour.needsPreparation, slot(of: neighbour.content.id, for: job.origin) == nil,
                !recentlyMerged.contains(neighbour.content.id, since: time)
            else { break }
            let key = add(single: neighbour, for: job.origin)
            guard let content = contents[key], job.canTake(content, 0) else {
                remove(key)
                break
            }
            job.add(content, 0)
            contents[key]?.states[0] = .inFlight
            window.last = neighbour.firstChunk
            count += 1
            if count.isMultiple(of: ReadAheadWindows.markDistance) { window.marks.append(neighbour.content.id) }
        }
        readAheads.set(window, of: job.layer)
    }

    /// Begins to fetch a window that no reader waits for yet; nil if nothing was added.
    mutating func begin(readAhead job: FetchJob) -> SourceKey? {
        lanes.endOther()
        guard !job.members.isEmpty else { return nil }
        let source = lanes.source(of: job.layer)
        lanes.begin(source, isUrgent: false)
        return source
    }
}

extension UnmergedContent {
    /// Whether the store is searched for it before it is fetched: all contents except those of one small chunk.
    var needsPreparation: Bool {
        content.name.claim != nil || hasTwin || firstChunk.isHole || content.size > MergePlan.smallSize
            || content.proof == .disproven
    }
}

extension MergePlan {
    /// Contents of one chunk up to this size are not searched for as parts of others.
    static let smallSize: Int64 = 64 << 10
}
