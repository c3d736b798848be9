public import LaminaDigest
public import LaminaOCI
import LaminaSystem

/// A source of blobs in place of another one, that records requests and misbehaves as told.
public final class ControlledSource: BlobSource {
    /// What it does. May be changed while reads are running.
    public struct Behaviour: Sendable {
        /// How many more bytes may go out; reads wait for more. nil: all.
        public var allowance: Int?
        /// Reads of these bytes of a blob wait while they are held.
        public var held: Range<Int64>?
        /// Reads fail at once.
        public var isDown = false
        /// Bytes that arrive inverted: offset in the blob, and how many more reads of it get them.
        public var corruptions: [Int64: Int] = [:]
        /// The bytes of another blob of the same size, which go out instead.
        public var substitute: [UInt8]?
        /// How long each piece takes, in seconds.
        public var pace = 0.0
        /// The most bytes of a piece.
        public var pieceSize = 16 << 10

        public init() {}
    }

    /// A read that was asked for.
    public struct Read: Sendable {
        public var digest: Digest
        public var range: Range<Int64>
        /// How much of it went out.
        public var sent = 0
    }

    private struct State {
        var behaviour = Behaviour()
        var reads: [Read] = []
        var waiting = 0
        var running = 0
        var peak = 0
    }

    private let upstream: any BlobSource
    private let state = Monitor(State())
    public let location: String

    public init(_ upstream: any BlobSource, location: String? = nil) {
        self.upstream = upstream
        self.location = location ?? upstream.location
    }

    public var behaviour: Behaviour {
        get { state.withLock { $0.behaviour } }
        set { state.withLock(notify: true) { $0.behaviour = newValue } }
    }

    /// Every read so far.
    public var reads: [Read] { state.withLock { $0.reads } }

    /// Forgets the reads so far.
    public func reset() { state.withLock { $0.reads = [] } }

    /// The most reads that ever ran at the same time.
    public var peakReadCount: Int { state.withLock { $0.peak } }

    /// How many bytes went out.
    public var sentByteCount: Int { reads.reduce(0) { $0 + $1.sent } }

    /// How many bytes went out more than once, all blobs together.
    public var repeatedByteCount: Int64 {
        Dictionary(grouping: reads.filter { $0.sent > 0 }, by: \.digest).values.reduce(0) { sum, reads in
            var covered: Int64 = 0
            var repeated: Int64 = 0
            for read in reads.sorted(by: { $0.range.lowerBound < $1.range.lowerBound }) {
                let end = read.range.lowerBound + Int64(read.sent)
                repeated += max(0, min(end, covered) - read.range.lowerBound)
                covered = max(covered, end)
            }
            return sum + repeated
        }
    }

    /// Waits until `count` reads wait for an allowance or for held bytes; returns whether that happened in time.
    public func waits(for count: Int = 1) -> Bool {
        state.wait(seconds: 30) { $0.waiting >= count ? true : nil } ?? false
    }

    public func manifest(_ target: ManifestTarget, shouldStop: @Sendable () -> Bool) throws -> ManifestBytes {
        try upstream.manifest(target, shouldStop: shouldStop)
    }

    public func read(
        _ digest: Digest, size: Int64, range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        let number = state.withLock(notify: true) { state in
            state.reads.append(Read(digest: digest, range: range))
            state.running += 1
            state.peak = max(state.peak, state.running)
            return state.reads.count - 1
        }
        defer { state.withLock { $0.running -= 1 } }
        var position = range.lowerBound
        while position < range.upperBound {
            let (count, pace, corrupted) = try next(range, position, number, shouldStop)
            if pace > 0 { _ = state.wait(seconds: pace) { _ in Bool?.none } }
            var piece: [UInt8] = []
            try upstream.read(
                digest, size: size, range: position..<(position + Int64(count)), shouldStop: shouldStop
            ) { piece += $0 }
            if let other = behaviour.substitute { piece = Array(other[Int(position)..<(Int(position) + count)]) }
            for offset in corrupted { piece[Int(offset - position)] ^= 0xFF }
            position += Int64(count)
            try piece.withUnsafeBytes { try sink($0) }
        }
    }

    /// Waits until the next piece may go out: returns its size, and which of its bytes should be wrong.
    private func next(
        _ range: Range<Int64>, _ position: Int64, _ number: Int, _ shouldStop: () -> Bool
    ) throws -> (count: Int, pace: Double, corrupted: [Int64]) {
        // If one test's reader waited for ever, it would hold up all other tests.
        let deadline = ContinuousClock.now + .seconds(60)
        var isWaiting = false
        defer { if isWaiting { state.withLock { $0.waiting -= 1 } } }
        while true {
            if shouldStop() { throw OCIError(.interrupted, "told to stop") }
            if ContinuousClock.now > deadline { throw OCIError(.unavailable, "a test held bytes back for a minute") }
            let found = try state.withLock(notify: true) { state -> (Int, Double, [Int64])? in
                if state.behaviour.isDown { throw OCIError(.unavailable, "the source is down") }
                let isHeld = state.behaviour.held.map { $0.overlaps(range) } ?? false
                if isHeld || state.behaviour.allowance == 0 {
                    if !isWaiting { state.waiting += 1 }
                    isWaiting = true
                    return nil
                }
                let left = Int(range.upperBound - position)
                let count = min(left, state.behaviour.pieceSize, state.behaviour.allowance ?? .max)
                state.behaviour.allowance = state.behaviour.allowance.map { $0 - count }
                if state.reads.indices.contains(number) { state.reads[number].sent += count }
                var corrupted: [Int64] = []
                for (offset, times) in state.behaviour.corruptions
                where times > 0 && offset >= position && offset < position + Int64(count) {
                    state.behaviour.corruptions[offset] = times - 1
                    corrupted.append(offset)
                }
                return (count, state.behaviour.pace, corrupted)
            }
            if let found { return found }
            _ = state.wait(seconds: 0.01) { _ in Bool?.none }
        }
    }
}
