import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import Synchronization

/// Does what the plan says: reads few, long, disjoint ranges of blobs, cuts them into members on the way, and has contents
/// prepared. Several threads of the merge run `loop`.
final class Fetcher: Sendable {
    private let context: MergeContext
    private let preparer: Preparer
    private let restreamer: Restreamer
    private let decodeQueue: Monitor<DecodeQueue>
    private let jobCount = Atomic<Int>(0)
    private let jobPeak = Atomic<Int>(0)

    init(_ context: MergeContext, preparer: Preparer, decodeQueue: Monitor<DecodeQueue>) {
        self.context = context
        self.preparer = preparer
        self.decodeQueue = decodeQueue
        restreamer = Restreamer(context)
    }

    /// How many jobs run, and the maximum since the start.
    var load: (jobs: Int, peak: Int) {
        (jobCount.load(ordering: .relaxed), jobPeak.load(ordering: .relaxed))
    }

    func loop() {
        while true {
            switch context.board.next() {
            case .end: return
            case .fetch(let job, let source): run(job.mayReadAhead ? withNeighbours(job) : job, from: source)
            case .prepare(let key, let content, let layer): preparer.prepare(key, content, preferring: layer)
            case .readAhead(let layer, let place, let window): readAhead(layer, behind: place, window: window)
            case .rows(let pull, let layer, let place, let time): readRows(of: pull, layer, after: place, at: time)
            case .tell: break
            }
        }
    }

    // MARK: Fetching

    private func run(_ job: FetchJob, from source: SourceKey) {
        jobPeak.max(jobCount.add(1, ordering: .relaxed).newValue, ordering: .relaxed)
        var isSlow: Bool?
        defer {
            jobCount.subtract(1, ordering: .relaxed)
            context.board.fetched(job, from: source, isSlow: isSlow)
        }
        if let format = context.sources.format(of: job.layer), !format.hasTOC {
            return restreamer.run(job, from: source, format, read: read)
        }
        let cutter = PieceCutter(job, from: source, pool: context.pool, space: context.space) { [decodeQueue] piece in
            decodeQueue.withLockWakingOne { $0.append(piece) }
        }
        let watch = ReadWatch(patience: ReadWatch.patience(context.paces[source], stalls: job.stalls))
        do {
            var (blob, sources) = try context.sources.sources(of: job.layer)
            if job.isRetry {
                // Another server of the same source, if there is one, and another source, if there is one.
                _ = sources.first?.distrust(blob.digest)
                if sources.count > 1 { sources.append(sources.removeFirst()) }
            } else {
                // Each time that it was given up another one is the first.
                for _ in 0..<(job.stalls % max(1, sources.count)) { sources.append(sources.removeFirst()) }
            }
            guard job.range.upperBound <= blob.size else {
                throw MergeError(.badImage, "layer \(blob.digest) ends before the bytes that its TOC lists")
            }
            let shouldStop = { @Sendable [context] in
                if context.stop.isSet { return true }
                if let isSlow = watch.newPace() { context.board.setSlow(isSlow, source) }
                guard job.isUrgent else { return false }
                return watch.shouldGiveUp { !context.board.isWanted(job) }
                    || watch.shouldMakeRoom {
                        // A read that has brought nothing holds no memory.
                        !watch.isSilent && context.pool.isPressed(by: source) || context.board.shouldMakeRoom(source)
                    }
            }
            try read(
                blob, from: sources, job.range, shouldStop: shouldStop,
                isClosed: { cutter.isClosed || watch.hasEnded }
            ) {
                // Afterwards: a fetch that waits for memory does not mean that the server hangs.
                let start = ContinuousClock.now
                let count = $0.count
                defer { watch.progressed(count, since: start) }
                try cutter.feed($0)
            }
            isSlow = watch.isSlow()
            let missing = cutter.abandon()
            guard missing.isEmpty else {
                return context.fail(
                    missing, MergeError(.fetch, "layer \(blob.digest): a source gave fewer bytes than asked for"))
            }
        } catch {
            if watch.hasEnded, !context.stop.isSet {
                let members = cutter.abandon()
                let hasStalled = watch.hasMadeRoom
                if hasStalled, watch.isSilent, job.stalls >= ReadWatch.mostStalls {
                    return context.fail(
                        members,
                        MergeError(.fetch, "layer \(context.name(of: job.layer)): its source gives nothing"))
                }
                return context.board.with(notify: true) { $0.withdraw(members, of: job, hasStalled: hasStalled) }
            }
            context.fail(cutter.abandon(), MergeError.fetching(error))
        }
    }

    /// Reads a range from the first source that gives it; if one fails, the next goes on behind the last byte.
    private func read(
        _ blob: LayerBlob, from sources: [any BlobSource], _ range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        isClosed: () -> Bool, _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var position = range.lowerBound
        var failure: any Error = MergeError(.fetch, "the index knows no place to get layer \(blob.digest) from")
        for source in sources {
            do {
                return try context.paces.measure(source.location) { watch in
                    try source.read(
                        blob.digest, size: blob.size, range: position..<range.upperBound, shouldStop: shouldStop
                    ) { bytes in
                        watch.arrived(bytes.count)
                        defer { watch.goesOn() }
                        position += Int64(bytes.count)
                        context.counters.countFetched(Int64(bytes.count))
                        try sink(bytes)
                    }
                }
            } catch {
                failure = error
                // If the reader of the bytes has enough of them, that ends the read too, and is no failure of the source.
                if error is OCIError { context.counters.count(FetchFailure(error)) }
                if context.stop.isSet || isClosed() { break }
            }
        }
        throw failure
    }

    // MARK: Rows of the index

    /// Reads the next rows of a pull.
    private func readRows(of pull: PullID, _ layer: LayerID, after place: ChunkPlace?, at time: UInt64) {
        do {
            context.learnServer(of: layer)
            let rows = try context.store.index.unmerged(in: layer, after: place, limit: 1024)
            context.board.with(notify: true) { $0.addRows(rows, to: pull, readAt: time) }
        } catch {
            let failure = MergeError.wrapping(error, "the index cannot be read")
            context.board.change { $0.failRows(of: pull, failure) }
        }
    }

    /// Adds the small files that follow a small file in the blob.
    private func withNeighbours(_ job: FetchJob) -> FetchJob {
        guard let last = job.members.last, let part = last.parts.last else { return job }
        let place = ChunkPlace(
            layer: job.layer, blobOffset: last.blobOffset, blobSize: Int64(last.blobSize),
            innerOffset: Int64(part.innerOffset))
        let window = context.board.with { $0.readAheads.size(for: job) }
        guard job.range.count < window else { return job }
        return extended(job, behind: place, end: job.range.lowerBound + Int64(window), window: window)
    }

    /// Fetches the next window of a layer while the one before is being read.
    private func readAhead(_ layer: LayerID, behind place: ChunkPlace, window: Int) {
        let job = extended(
            FetchJob(layer: layer, origin: context.sources.origin(of: layer), isUrgent: false), behind: place,
            end: place.blobOffset + place.blobSize + Int64(window), window: window)
        guard let source = context.board.with(notify: true, { $0.begin(readAhead: job) }) else { return }
        run(job, from: source)
    }

    private func extended(_ job: FetchJob, behind place: ChunkPlace, end: Int64, window: Int) -> FetchJob {
        let limit = context.paces[server: context.server(of: job.layer)].readAheadSize(limit: ReadAheadWindows.lastSize)
        let time = context.board.time
        guard
            let neighbours = try? context.store.index.unmerged(
                in: job.layer, after: place, before: end, limit: ReadAheadWindows.neighbourLimit)
        else { return job }
        let next = max(ReadAheadWindows.firstSize, min(2 * window, limit))
        return context.board.with { plan in
            var job = job
            plan.extend(&job, behind: place, with: neighbours, readAt: time, next: next)
            return job
        }
    }
}

extension MergeContext {
    /// The number of the server that a layer comes from; nil: the index knows no source of it.
    func server(of layer: LayerID) -> Int? {
        guard let location = try? sources.sources(of: layer).sources.first?.location else { return nil }
        return paces.server(of: location)
    }

    /// Tells the plan where a layer comes from, when something of it is wanted for the first time.
    func learnServer(of layer: LayerID) {
        guard !board.knowsServer(of: layer), let server = server(of: layer) else { return }
        board.setServer(server, of: layer)
    }
}

extension MergeError {
    static func fetching(_ error: any Error) -> MergeError {
        if let error = error as? MergeError { return error }
        if let error = error as? OCIError, error.code == .interrupted { return .stopped }
        return MergeError(.fetch, "the bytes cannot be had", cause: error)
    }
}

/// Says when a read is given up: one that no reader waits for as soon as it has brought nothing for a while, so that a server that
/// hangs holds no chunk and no fetcher for long; and one that a reader waits for if it brings little while others wait for what
/// it holds.
final class ReadWatch: Sendable {
    private struct State {
        var lastBytes: ContinuousClock.Instant
        /// Since when less than `leastBytes` have come.
        var since: ContinuousClock.Instant
        var bytes = 0
        var isSilent = true

        init(_ now: ContinuousClock.Instant) { (lastBytes, since) = (now, now) }
    }

    /// A healthy connection brings its next bytes within this time.
    private static let limit: Duration = .seconds(1)
    /// What a connection that works brings within the patience that is had with it.
    private static let leastBytes = 64 << 10
    /// The bounds of that patience, in seconds: it is longer each time, so that a slow line has its turn.
    private static let patienceBounds = 5.0...40.0
    /// How often a read that has brought nothing at all is given up for others. Then it has failed.
    static let mostStalls = 5

    private let patience: Duration
    private let state: Mutex<State>
    private let wasSlow = Atomic<Bool>(false)
    private let givenUp = Atomic<Bool>(false)
    private let madeRoom = Atomic<Bool>(false)

    /// - Parameter patience: how long a read that a reader waits for may bring little.
    init(patience: Duration, at now: ContinuousClock.Instant = .now) {
        self.patience = patience
        state = Mutex(State(now))
    }

    /// How long a read may bring little while others wait: by the pace of its connection.
    ///
    /// - Parameter stalls: how often it was given up before.
    static func patience(_ pace: ConnectionPace, stalls: Int) -> Duration {
        let first = max(Self.patienceBounds.lowerBound, 8 * (pace.latency ?? 0))
        return .seconds(min(first * Double(1 << min(stalls, 10)), Self.patienceBounds.upperBound))
    }

    /// Whether no reader waited for it.
    var hasGivenUp: Bool { givenUp.load(ordering: .relaxed) }

    /// Whether it was given up for others.
    var hasMadeRoom: Bool { madeRoom.load(ordering: .relaxed) }

    var hasEnded: Bool { hasGivenUp || hasMadeRoom }

    /// Whether no byte has come.
    var isSilent: Bool { state.withLock { $0.isSilent } }

    /// Notes bytes that have been taken.
    ///
    /// - Parameter start: when they came. What taking them has lasted is not the server's time.
    func progressed(_ count: Int, since start: ContinuousClock.Instant, at now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            state.lastBytes = now
            state.since = state.since + (now - start)
            state.bytes += count
            state.isSilent = false
            guard state.bytes >= Self.leastBytes else { return }
            (state.since, state.bytes) = (now, 0)
        }
    }

    /// Asked again and again while nothing comes.
    ///
    /// - Parameter isUnwanted: asked when it has lasted long enough; may take a lock.
    func shouldGiveUp(at now: ContinuousClock.Instant = .now, _ isUnwanted: () -> Bool) -> Bool {
        if hasGivenUp { return true }
        let last = state.withLock { $0.lastBytes }
        guard now - last > Self.limit, isUnwanted() else { return false }
        givenUp.store(true, ordering: .relaxed)
        return true
    }

    /// Whether little has come for as long as there is patience.
    func isSlow(at now: ContinuousClock.Instant = .now) -> Bool { state.withLock { now - $0.since > patience } }

    /// Whether little comes, if that has changed since it was asked the last time.
    func newPace(at now: ContinuousClock.Instant = .now) -> Bool? {
        let isSlow = isSlow(at: now)
        return wasSlow.exchange(isSlow, ordering: .relaxed) == isSlow ? nil : isSlow
    }

    /// Asked again and again, too.
    ///
    /// - Parameter isPressed: whether others wait for what the read holds; may take a lock.
    func shouldMakeRoom(at now: ContinuousClock.Instant = .now, _ isPressed: () -> Bool) -> Bool {
        if hasMadeRoom { return true }
        guard isSlow(at: now), isPressed() else { return false }
        madeRoom.store(true, ordering: .relaxed)
        return true
    }
}
