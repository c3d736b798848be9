import LaminaStore

/// Names a source of layers. Layers of one source share its fetchers.
enum SourceKey: Hashable, Sendable {
    /// A server, by its number in `ConnectionPaces`.
    case server(Int)
    /// A layer whose source is not known yet.
    case layer(LayerID)
}

/// The fetches of each source, and how many of them run: a source that stalls delays only its own readers.
///
/// - One source has half of the fetchers at most.
/// - The last free fetcher goes to a source that has none.
/// - Sources that are slow get no more than half of the fetchers together. If they have more, because it was not known yet, or if a
///   source has none while all are busy, fetches of slow sources make room for it, and wait for their next turn. So a few servers that
///   stall hold up no other one, however many they are.
struct FetchLanes {
    private struct Lane {
        var urgent = FIFO<FetchJob>()
        var running = 0
        var runningBackground = 0

        var isIdle: Bool { urgent.isEmpty && running == 0 }
    }

    /// How many fetchers there are. One of them is always kept for a source that has none.
    let fetchers: Int
    /// How many of them one source may have: half.
    let perSource: Int
    /// How many of them one source may have for work that no reader waits for. Two hide each other's latency.
    let backgroundPerSource: Int
    /// Sources that bring little. The fetchers say which: the plan has no clock.
    private var slow: Set<SourceKey> = []
    private static let slowLimit = 256
    /// How many are busy, fetching or reading the index.
    private(set) var busy = 0
    private(set) var runningUrgent = 0
    private var runningBackground = 0
    private var lanes: [SourceKey: Lane] = [:]
    /// Sources with fetches that readers wait for; the first is next.
    private var turns: [SourceKey] = []
    private(set) var urgentCount = 0
    private var servers: [LayerID: Int] = [:]

    init(fetchers: Int) {
        self.fetchers = max(1, fetchers)
        perSource = max(1, (self.fetchers + 1) / 2)
        backgroundPerSource = min(2, max(1, perSource - 1))
    }

    func source(of layer: LayerID) -> SourceKey { servers[layer].map { .server($0) } ?? .layer(layer) }

    /// Records from which server a layer comes. Fetches that wait elsewhere for it stay there.
    mutating func setServer(_ server: Int, of layer: LayerID) {
        // Few layers are merged at once; the bound drops those of long ago.
        if servers.count >= 65_536 { servers = [:] }
        servers[layer] = server
    }

    func knowsServer(of layer: LayerID) -> Bool { servers[layer] != nil }

    mutating func append(_ job: FetchJob) {
        let source = source(of: job.layer)
        if lanes[source, default: Lane()].urgent.isEmpty { turns.append(source) }
        lanes[source, default: Lane()].urgent.append(job)
        urgentCount += 1
    }

    /// Takes the next fetch that a reader waits for; each source in turn.
    mutating func popUrgent() -> (job: FetchJob, source: SourceKey)? {
        for index in turns.indices where mayRun(turns[index]) {
            let source = turns[index]
            guard let job = lanes[source]?.urgent.pop() else { continue }
            turns.remove(at: index)
            if lanes[source]?.urgent.isEmpty == false { turns.append(source) }
            urgentCount -= 1
            begin(source, isUrgent: true)
            return (job, source)
        }
        return nil
    }

    /// How many fetches of a source run.
    func running(_ source: SourceKey) -> Int { lanes[source]?.running ?? 0 }

    /// How many fetches of slow sources run.
    var runningSlow: Int { slow.reduce(0) { $0 + running($1) } }

    func isSlow(_ source: SourceKey) -> Bool { slow.contains(source) }

    /// Notes whether a source brings little.
    mutating func setSlow(_ isSlow: Bool, _ source: SourceKey) {
        guard isSlow else {
            slow.remove(source)
            return
        }
        // Of those without a fetch it is forgotten then.
        if slow.count >= Self.slowLimit { slow = slow.filter { lanes[$0] != nil } }
        slow.insert(source)
    }

    /// Whether readers wait for a source, and none of its fetches runs.
    func isWithout(_ source: SourceKey) -> Bool { turns.contains(source) && running(source) == 0 }

    /// Whether a fetch of a source should end, because it is slow and holds a fetcher that another source has to have.
    func shouldMakeRoom(_ source: SourceKey) -> Bool {
        guard slow.contains(source) else { return false }
        let areTooMany = runningSlow > perSource
        return turns.contains { other in
            guard other != source, busy >= fetchers || !mayRun(other) else { return false }
            return running(other) == 0 || areTooMany && !slow.contains(other) && running(other) < perSource
        }
    }

    /// Whether a source may have one more fetcher.
    private func mayRun(_ source: SourceKey) -> Bool {
        let running = running(source)
        // The last fetcher goes to a source that has none.
        return running < perSource && (busy < fetchers - 1 || running == 0)
            && (!slow.contains(source) || runningSlow < perSource)
    }

    /// Whether a source may have one more fetcher for work that no reader waits for.
    func mayRunBackground(_ source: SourceKey) -> Bool {
        mayRun(source) && runningBackground < max(perSource, backgroundPerSource)
            && (lanes[source]?.runningBackground ?? 0) < backgroundPerSource
    }

    mutating func begin(_ source: SourceKey, isUrgent: Bool) {
        busy += 1
        lanes[source, default: Lane()].running += 1
        if isUrgent {
            runningUrgent += 1
        } else {
            lanes[source]?.runningBackground += 1
            runningBackground += 1
        }
    }

    mutating func end(_ source: SourceKey, isUrgent: Bool) {
        busy -= 1
        lanes[source]?.running -= 1
        if isUrgent {
            runningUrgent -= 1
        } else {
            lanes[source]?.runningBackground -= 1
            runningBackground -= 1
        }
        if lanes[source]?.isIdle == true { lanes[source] = nil }
    }

    /// A fetcher is busy with the index.
    mutating func beginOther() { busy += 1 }
    mutating func endOther() { busy -= 1 }

    /// Drops all waiting fetches.
    mutating func stop() {
        for source in turns { lanes[source]?.urgent = FIFO() }
        turns = []
        urgentCount = 0
    }
}
