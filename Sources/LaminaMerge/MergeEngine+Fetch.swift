import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import Synchronization

// Fetch: few, long, disjoint ranges of blobs, cut into members on the way.

extension MergeEngine {
    func fetchLoop() {
        while true {
            switch state.wait({ $0.nextWork() }) {
            case .end: return
            case .fetch(let job): run(job)
            case .prepare(let content): if let job = prepare(content, preferring: nil) { run(job) }
            case .assign(let content): if let job = assign(content) { run(job) }
            case .readAhead(let layer): if let job = readAhead(layer) { run(job) }
            case .produce(let producer): produce(producer)
            }
        }
    }

    private func produce(_ producer: any Producer) {
        var job: FetchJob?
        var failure: MergeError?
        do {
            job = try producer.next(self)
        } catch {
            failure = MergeError.wrapping(error, "the index cannot be read")
        }
        let hasEnded = job == nil
        let withdrawn = state.withLock(notify: true) { state -> [MergeCompletion] in
            producer.isProducing = false
            guard hasEnded else { return [] }
            state.producers.removeAll { $0 === producer }
            return producer.withdraw(&state)
        }
        if hasEnded {
            // The reason first: it is what the pull is told.
            producer.ended(failure)
            for completion in withdrawn { completion(.failure(failure ?? .stopped)) }
        }
        if let job, !job.members.isEmpty { run(job) }
        state.withLock(notify: true) { $0.backgroundRunning -= 1 }
    }

    private func run(_ job: FetchJob) {
        jobPeak.max(jobCount.add(1, ordering: .relaxed).newValue, ordering: .relaxed)
        defer { jobCount.subtract(1, ordering: .relaxed) }
        if job.isUrgent { state.withLock { $0.urgentRunning += 1 } }
        defer {
            if job.isUrgent {
                state.withLock { state in
                    state.urgentRunning -= 1
                    state.lastUrgent = ContinuousClock().now
                }
            }
        }
        if let format = sources.format(of: job.layer), !format.hasTOC { return restream(job, format) }
        let cutter = PieceCutter(job, pool: pool, space: space) { piece in
            self.decodeQueue.withLockWakingOne { $0.append(piece) }
        }
        let watch = ReadWatch()
        do {
            var (blob, sources) = try sources.sources(of: job.layer)
            if job.isRetry {
                // Another server of the same source, if there is one, and another source, if there is one.
                _ = sources.first?.distrust(blob.digest)
                if sources.count > 1 { sources.append(sources.removeFirst()) }
            }
            guard job.range.upperBound <= blob.size else {
                throw MergeError(.badImage, "layer \(blob.digest) ends before the bytes that its TOC lists")
            }
            let shouldStop = { @Sendable in
                self.isStopping.load(ordering: .relaxed) || job.isUrgent && watch.shouldGiveUp { self.isUnwanted(job) }
            }
            try read(
                blob, from: sources, job.range, shouldStop: shouldStop,
                isClosed: { cutter.isClosed || watch.hasGivenUp }
            ) {
                // Behind it: what waits for memory is no server that hangs.
                defer { watch.progressed() }
                try cutter.feed($0)
            }
            let missing = cutter.abandon()
            guard missing.isEmpty else {
                return fail(
                    missing, MergeError(.fetch, "layer \(blob.digest): a source gave fewer bytes than asked for"))
            }
        } catch {
            if watch.hasGivenUp, !isStopping.load(ordering: .relaxed) { return withdraw(cutter.abandon(), of: job) }
            fail(cutter.abandon(), MergeError.fetching(error))
        }
    }

    /// Reads a range from the first source that gives it; where one fails, the next goes on behind the last byte.
    func read(
        _ blob: LayerBlob, from sources: [any BlobSource], _ range: Range<Int64>, shouldStop: @Sendable () -> Bool,
        isClosed: () -> Bool, _ sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var position = range.lowerBound
        var failure: any Error = MergeError(.fetch, "the index knows no place to get layer \(blob.digest) from")
        for source in sources {
            do {
                return try paces.measure(source.location) { watch in
                    try source.read(
                        blob.digest, size: blob.size, range: position..<range.upperBound, shouldStop: shouldStop
                    ) { bytes in
                        watch.arrived(bytes.count)
                        defer { watch.goesOn() }
                        position += Int64(bytes.count)
                        countFetched(Int64(bytes.count))
                        try sink(bytes)
                    }
                }
            } catch {
                failure = error
                // A reader of the bytes that has enough of them ends this too, and is no failure of the source.
                if error is OCIError { countFailure(error) }
                if isStopping.load(ordering: .relaxed) || isClosed() { break }
            }
        }
        throw failure
    }
}

extension MergeError {
    static func fetching(_ error: any Error) -> MergeError {
        if let error = error as? MergeError { return error }
        if let error = error as? OCIError, error.code == .interrupted { return .stopped }
        return MergeError(.fetch, "the bytes cannot be had", cause: error)
    }
}

/// Compressed members of one job, whole, ready to be decoded.
struct Piece: @unchecked Sendable {
    // The buffer is owned by whoever has the piece: the cutter, then the queue, then one decoder.
    var layer: LayerID
    var members: [Member]
    var buffer: UnsafeMutableRawBufferPointer
    /// What the pool was asked for.
    var reserved: Int
    /// What the store's limit was asked for.
    var diskBytes: Int64
    var isUrgent: Bool
}

/// Cuts the bytes of a job, as they arrive, into pieces: one large member, or small ones together.
final class PieceCutter {
    /// Compressed bytes of small members that are decoded as one piece: a lock and a wake-up for all of them.
    private static let pieceSize = 512 << 10

    private let job: FetchJob
    private let pool: BufferPool
    private let space: SpaceKeeper?
    private let deliver: (Piece) -> Void
    private var nextMember = 0
    private var piece: Piece?
    private var wanted = 0
    private var filled = 0
    private(set) var isClosed = false

    init(_ job: FetchJob, pool: BufferPool, space: SpaceKeeper?, deliver: @escaping (Piece) -> Void) {
        self.job = job
        self.pool = pool
        self.space = space
        self.deliver = deliver
    }

    func feed(_ bytes: UnsafeRawBufferPointer) throws {
        var rest = bytes
        while !rest.isEmpty {
            if piece == nil { try begin() }
            guard let current = piece else { return }
            let count = min(rest.count, wanted - filled)
            UnsafeMutableRawBufferPointer(rebasing: current.buffer[filled..<(filled + count)])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: rest[..<count]))
            filled += count
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            if filled == wanted {
                piece = nil
                deliver(current)
            }
        }
    }

    /// Gives up: the members that were not delivered.
    func abandon() -> [Member] {
        var members = Array(job.members[nextMember...])
        if let piece {
            members = piece.members + members
            pool.give(piece.buffer)
            pool.release(piece.reserved, urgent: piece.isUrgent)
            space?.giveBack(piece.diskBytes)
        }
        piece = nil
        nextMember = job.members.count
        return members
    }

    /// Whether a small member goes into a piece with others: where the pool is small, only as far as it takes them together.
    private func fits(_ member: Member, beside size: Int, _ needed: Int) -> Bool {
        let sum = size + member.blobSize
        return sum <= Self.pieceSize && sum + max(needed, member.neededBytes) <= pool.backgroundLimit
    }

    private func begin() throws {
        guard nextMember < job.members.count else { return }
        let start = nextMember
        var size = 0
        var needed = 0
        repeat {
            size += job.members[nextMember].blobSize
            needed = max(needed, job.members[nextMember].neededBytes)
            nextMember += 1
            // The member that a reader waits for is decoded before its neighbours arrive.
            if job.isUrgent, start == 0 { break }
        } while nextMember < job.members.count && fits(job.members[nextMember], beside: size, needed)
        let members = Array(job.members[start..<nextMember])
        let diskBytes = members.reduce(0) { $0 + $1.diskBytes }
        do throws(MergeError) {
            // Room comes first: whoever waits for it must not hold memory that others wait for.
            try space?.reserve(diskBytes)
            do throws(MergeError) {
                try pool.reserve(size + needed, urgent: job.isUrgent)
            } catch {
                space?.giveBack(diskBytes)
                throw error
            }
        } catch {
            nextMember = start
            isClosed = true
            throw error
        }
        wanted = size
        filled = 0
        piece = Piece(
            layer: job.layer, members: members, buffer: pool.take(size), reserved: size + needed, diskBytes: diskBytes,
            isUrgent: job.isUrgent)
    }
}
