public import LaminaDigest
import LaminaOCI
import LaminaSystem

/// How far the stream of a plain layer is.
public struct StreamProgress: Sendable, Codable, Equatable {
    /// The layer's blob.
    public var layer: Digest
    /// Where it comes from, as the index stores it.
    public var location: String
    /// Of the blob, in bytes.
    public var size: Int64
    /// Up to where the blob is in the store, that of earlier processes included.
    public var placed: Int64 = 0
    /// What this stream has fetched.
    public var fetched: Int64 = 0
}

/// Which plain layers are being streamed, and which is next. It has no clock: the time is given to it.
///
/// One stream of a blob runs at a time, because the second one finds the layer in the index. An origin may have all streams while no other
/// one waits, and gives one back at once when another does: what a stream has read is on record, so that costs a checkpoint at most.
/// A stream waits for one of another origin only while that one brings something. So a registry that stalls holds up its own images
/// alone.
struct StreamTurns {
    private struct Run {
        var number: UInt64
        var origin: Substring
        var progress: StreamProgress
        var lastProgress: ContinuousClock.Instant
        /// How long it may bring nothing while another origin waits.
        var patience: Duration
        /// Where it was when it was first noted.
        var start: Int64?
        /// Whether it is to stop for another one.
        var isToEnd = false
    }

    private struct Waiter {
        var number: UInt64
        var blob: Descriptor
        var location: String
        var origin: Substring
    }

    /// How many run at once.
    let limit: Int
    /// How many of them may be of one origin while another one waits.
    let perOrigin: Int
    /// How long a stream may bring nothing while another origin's stream waits for it.
    let patience: Duration
    private var running: [Digest: Run] = [:]
    /// In the order in which they came.
    private var waiting: [Waiter] = []
    private var lastNumber: UInt64 = 0
    /// How often streams of an origin were stopped because they brought nothing, since one of them has come further by a checkpoint. Each
    /// time there is twice the patience: a line that is slow, and no worse, has its turn.
    private var stalls: [Substring: Int] = [:]

    init(limit: Int, patience: Duration) {
        self.limit = max(1, limit)
        perOrigin = max(1, self.limit - 1)
        self.patience = patience
    }

    /// Whose streams share what one origin may have: those of a repository, or of a server that has single blobs.
    static func origin(_ location: String) -> Substring {
        location.hasPrefix("url:") ? ConnectionPaces.serverName(location) : location[...]
    }

    /// - Returns: the number of the turn that is waited for.
    mutating func wait(for blob: Descriptor, from location: String) -> UInt64 {
        lastNumber += 1
        waiting.append(
            Waiter(number: lastNumber, blob: blob, location: location, origin: Self.origin(location)))
        return lastNumber
    }

    /// Begins a stream that waits, if it may. It is asked again and again: what stands in its way and brings nothing is told to end.
    mutating func begin(_ number: UInt64, at now: ContinuousClock.Instant) -> Bool {
        guard let index = waiting.firstIndex(where: { $0.number == number }) else { return false }
        let waiter = waiting[index]
        guard next?.number == number else {
            makeRoom(for: waiter, at: now)
            return false
        }
        waiting.remove(at: index)
        running[waiter.blob.digest] = Run(
            number: number, origin: waiter.origin,
            progress: StreamProgress(layer: waiter.blob.digest, location: waiter.location, size: waiter.blob.size),
            lastProgress: now, patience: patience * (1 << min(stalls[waiter.origin] ?? 0, 8)))
        return true
    }

    /// Of those that may run, one of the origin that has the fewest; of these the one that has waited longest.
    private var next: Waiter? {
        waiting.filter { mayRun($0) }.min { (count(of: $0.origin), $0.number) < (count(of: $1.origin), $1.number) }
    }

    private func count(of origin: Substring) -> Int { running.values.count { $0.origin == origin } }

    private func mayRun(_ waiter: Waiter) -> Bool {
        guard running[waiter.blob.digest] == nil, running.count < limit else { return false }
        return count(of: waiter.origin) < perOrigin
            || !waiting.contains { $0.origin != waiter.origin && running[$0.blob.digest] == nil }
    }

    /// Whether a stream of another origin has brought nothing for a while.
    private func isInTheWay(_ run: Run, of waiter: Waiter, at now: ContinuousClock.Instant) -> Bool {
        run.origin != waiter.origin && now - run.lastProgress > run.patience
    }

    private mutating func makeRoom(for waiter: Waiter, at now: ContinuousClock.Instant) {
        if let other = running[waiter.blob.digest] {
            if isInTheWay(other, of: waiter, at: now) { stop(other) }
            return
        }
        guard running.count >= limit, count(of: waiter.origin) < perOrigin,
            !running.values.contains(where: { $0.isToEnd })
        else { return }
        if let crowd = running.values.first(where: { count(of: $0.origin) > perOrigin })?.origin {
            let newest = running.values.filter { $0.origin == crowd }.max { $0.number < $1.number }
            if let newest { running[newest.progress.layer]?.isToEnd = true }
            return
        }
        let stalled = running.values.filter { isInTheWay($0, of: waiter, at: now) }
        guard let longest = stalled.min(by: { $0.lastProgress < $1.lastProgress }) else { return }
        stop(longest)
    }

    /// Tells a stream to end because it brings nothing.
    private mutating func stop(_ run: Run) {
        guard !run.isToEnd else { return }
        running[run.progress.layer]?.isToEnd = true
        // Few origins stall at one time; forgotten ones begin with the least patience.
        if stalls.count > 1000 { stalls = [:] }
        stalls[run.origin, default: 0] += 1
    }

    /// Whoever waited has left.
    mutating func leave(_ number: UInt64) { waiting.removeAll { $0.number == number } }

    mutating func end(_ blob: Digest) { running[blob] = nil }

    mutating func note(_ blob: Digest, fetched: Int64, placed: Int64, at now: ContinuousClock.Instant) {
        guard let run = running[blob] else { return }
        let start = run.start ?? placed
        running[blob]?.start = start
        if placed - start >= StreamReader.spacing { stalls[run.origin] = nil }
        running[blob]?.progress.fetched = fetched
        running[blob]?.progress.placed = placed
        running[blob]?.lastProgress = now
    }

    /// Whether a stream is to stop, because another one waits for it and it brings nothing.
    func isToEnd(_ number: UInt64) -> Bool { running.values.contains { $0.number == number && $0.isToEnd } }

    /// All that run, the largest first.
    var all: [StreamProgress] {
        running.values.map(\.progress).sorted {
            ($0.size, $0.layer.description) > ($1.size, $1.layer.description)
        }
    }
}

/// The plain layers that are being streamed, and how many may be: each takes memory of its own.
final class RunningStreams: Sendable {
    /// What one stream holds at most, in bytes: what is fetched and not decompressed, what is decompressed and not placed, the
    /// buffers that are being filled, and a small file.
    static let memory = StreamReader.memory + (1 << 20)
    /// How long a stream may bring nothing while another origin's stream waits for it. It is noted in pieces of 256 KiB.
    static let patience: Duration = .seconds(10)

    let turns: Monitor<StreamTurns>

    /// - Parameter memory: what all of them may take, in bytes; one is always allowed.
    init(memory: Int, patience: Duration = RunningStreams.patience) {
        turns = Monitor(StreamTurns(limit: memory / Self.memory, patience: patience))
    }

    /// Runs `body` when no other stream of the blob runs and there is room for one. If it has to stop for another origin's stream, it
    /// waits for its next turn, and goes on from what is on record then.
    ///
    /// - Parameter body: gets what says whether it should stop.
    /// - Throws: `MergeError.stopped`, and what `body` throws.
    func run<Result>(
        _ descriptor: Descriptor, from location: String, _ shouldStop: @escaping @Sendable () -> Bool,
        _ body: (_ shouldStop: @escaping @Sendable () -> Bool) throws -> Result
    ) throws -> Result {
        while true {
            let number = try begin(descriptor, from: location, shouldStop)
            defer { turns.withLock(notify: true) { $0.end(descriptor.digest) } }
            let isToEnd: @Sendable () -> Bool = { [turns] in turns.withLock { $0.isToEnd(number) } }
            do {
                return try body { isToEnd() || shouldStop() }
            } catch {
                guard Self.isStop(error), isToEnd(), !shouldStop() else { throw error }
            }
        }
    }

    private func begin(
        _ descriptor: Descriptor, from location: String, _ shouldStop: () -> Bool
    ) throws(MergeError) -> UInt64 {
        let number = turns.withLock { $0.wait(for: descriptor, from: location) }
        while true {
            let isOurs = turns.wait(seconds: 0.2) { $0.begin(number, at: .now) ? true : nil }
            if isOurs == true { return number }
            if shouldStop() {
                turns.withLock(notify: true) { $0.leave(number) }
                throw .stopped
            }
        }
    }

    private static func isStop(_ error: any Error) -> Bool {
        (error as? MergeError)?.code == .interrupted || (error as? OCIError)?.code == .interrupted
    }

    func note(_ descriptor: Descriptor, fetched: Int64, placed: Int64) {
        turns.withLock { $0.note(descriptor.digest, fetched: fetched, placed: placed, at: .now) }
    }

    /// All that run, the largest first.
    var all: [StreamProgress] { turns.withLock { $0.all } }
}

extension MergeEngine {
    /// The plain layers that are being streamed now, the largest first.
    public var streams: [StreamProgress] { streaming.all }
}
