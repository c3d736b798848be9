import LaminaStore

/// Compressed members of one job, whole, ready to be decoded.
struct Piece: @unchecked Sendable {
    // The piece's owner has the buffer: the cutter, then the queue, then one decoder.
    var layer: LayerID
    /// Where its bytes come from.
    var source: SourceKey
    var members: [Member]
    var buffer: UnsafeMutableRawBufferPointer
    /// How much was reserved in the pool.
    var reserved: Int
    /// How much was reserved below the store's limit.
    var diskBytes: Int64
    var isUrgent: Bool
}

/// Cuts the bytes of a job, as they arrive, into pieces: one large member, or small ones together.
final class PieceCutter {
    /// How many compressed bytes of small members are decoded as one piece: one lock and one wake-up for all of them.
    private static let pieceSize = 512 << 10

    private let job: FetchJob
    private let source: SourceKey
    private let pool: BufferPool
    private let space: SpaceKeeper?
    private let deliver: (Piece) -> Void
    private var nextMember = 0
    private var piece: Piece?
    private var wanted = 0
    private var filled = 0
    private(set) var isClosed = false

    init(
        _ job: FetchJob, from source: SourceKey, pool: BufferPool, space: SpaceKeeper?,
        deliver: @escaping (Piece) -> Void
    ) {
        self.job = job
        self.source = source
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

    /// Gives up: returns the members that were not delivered.
    func abandon() -> [Member] {
        var members = Array(job.members[nextMember...])
        if let piece {
            members = piece.members + members
            pool.give(piece.buffer)
            pool.release(piece.reserved, urgent: piece.isUrgent, for: source)
            space?.giveBack(piece.diskBytes)
        }
        piece = nil
        nextMember = job.members.count
        return members
    }

    /// Whether a small member goes into a piece with others: if the pool is small, only as far as it takes them together.
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
            // Room comes first: a thread that waits for room must not hold memory that others wait for.
            try space?.reserve(diskBytes)
            do throws(MergeError) {
                try pool.reserve(size + needed, urgent: job.isUrgent, for: source)
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
            layer: job.layer, source: source, members: members, buffer: pool.take(size), reserved: size + needed,
            diskBytes: diskBytes, isUrgent: job.isUrgent)
    }
}
