import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// What is the matter with a content's backing file: the one place that says so.
///
/// Errors of the moment are none of these: EMFILE, ENOMEM, EINTR, or EIO, of which a disk may recover, say nothing of the
/// file. They are thrown, with the file's path, and nobody forgets anything for them.
public enum ContentHealth: Sendable, Equatable {
    /// Nothing that was looked at is wrong.
    case sound
    /// There is no file, or what has its name is none.
    case absent
    /// It has another size than the content.
    case short(size: Int64)
    /// Of bytes that are said to have landed, more take no space than were verified to be zeros.
    case holed
    /// Bytes have another digest.
    case wrong

    var isDamage: Bool { self != .sound }
}

extension Store {
    /// Looks at a content's file without reading it: that it is there, has its size, and no hole where bytes are said to have
    /// landed. Some microseconds, and some more for each chunk of a content that is not whole.
    ///
    /// - Throws: `StoreError`; `SystemError` where the file cannot be looked at just now.
    public func glance(at content: ContentRecord) throws -> ContentHealth {
        let file: File
        do {
            file = try files.open(content.name)
        } catch {
            if error.code == ENOENT { return .absent }
            throw error
        }
        return try glance(at: content, file)
    }

    func glance(at content: ContentRecord, _ file: File) throws -> ContentHealth {
        let status = try file.status()
        guard status.st_mode & S_IFMT == S_IFREG else { return .absent }
        let size = Int64(status.st_size)
        if size != content.size { return .short(size: size) }
        if try file.firstHole() >= size { return .sound }
        let verified = try index.holes(of: content.id)
        if content.state == .merged { return try file.holeBytes() <= verified ? .sound : .holed }
        var hollow: Int64 = 0
        for chunk in try index.landedRanges(of: content) {
            hollow += try file.holes(in: chunk.range).reduce(0) { $0 + Int64($1.count) }
        }
        return hollow <= verified ? .sound : .holed
    }

    /// Takes back what is damaged of a content, by a look at its file; what is a hole in it is hashed.
    ///
    /// Call it while nobody merges the content.
    ///
    /// - Parameter shouldStop: asked every few MiB of what is hashed; true ends it with EINTR, and nothing is taken back.
    /// - Returns: what was found; after anything but `.sound` the content's row says what is left, and the rest is fetched
    ///   when somebody asks for it.
    /// - Throws: as `glance`.
    public func takeBackDamage(
        of content: ContentRecord, shouldStop: () -> Bool = { false }
    ) throws -> ContentHealth {
        guard content.state != .absent else { return .sound }
        let health = try glance(at: content)
        switch health {
        case .sound: break
        case .absent:
            try putAsideIfSealed(content, health)
            try takeBack(index.landedRanges(of: content).map(\.range), of: content.id)
        case .short(let size):
            let lost = try index.landedRanges(of: content).map(\.range).filter { $0.upperBound > size }
            // A longer file has all of its bytes: whoever writes to it next gives it its size.
            if lost.isEmpty { try withWritable(content) { try $0.truncate(to: content.size) } }
            if !lost.isEmpty { try putAsideIfSealed(content, health) }
            try takeBack(lost, of: content.id)
        case .holed, .wrong:
            // A copy of zeros is a hole, too: verified now, it is none for the next look.
            if try recheck(content, shouldStop: shouldStop) {
                try recordVerifiedHoles(of: content)
                return .sound
            }
        }
        return health
    }

    private func withWritable(_ content: ContentRecord, _ body: (File) throws -> Void) throws {
        var lease = files.lease(writing: content.name)
        try body(lease.openInPlace(content.name, size: content.size))
        lease.recorded()
    }

    /// Records how many bytes of what has landed are holes, of a content whose landed bytes were hashed just now.
    func recordVerifiedHoles(of content: ContentRecord) throws {
        guard let record = try index.content(content.id), record.state != .absent else { return }
        let file = try files.open(record.name)
        // Only those of chunks that have landed: of the others nobody has verified anything.
        let holes = try index.landedRanges(of: record).reduce(Int64(0)) { sum, chunk in
            try file.holes(in: chunk.range).reduce(sum) { $0 + Int64($1.count) }
        }
        try recordHoles(holes, of: record.id)
    }

    /// Hashes what a content is said to have, and takes back what differs.
    ///
    /// - Returns: whether everything was as recorded.
    /// - Throws: `SystemError` where the file cannot be read just now: nothing is taken back then.
    public func recheck(_ content: ContentRecord, shouldStop: () -> Bool = { false }) throws -> Bool {
        let found = try examine(content, readsData: true, shouldStop: shouldStop)
        try takeBack(found.damaged, of: content.id)
        return found.damaged.isEmpty
    }

    /// Takes back what was said of chunks whose bytes are not there: they are fetched again when somebody asks for them.
    /// The content is whole no more; the others of its chunks stay. On disk when it returns, as new bytes may go over the old.
    public func takeBack(_ damaged: [Range<Int64>], of content: ContentID) throws {
        guard !damaged.isEmpty else { return }
        try writeDurably { writer in
            let database = writer.connection
            let landed = try database.cached("UPDATE chunk SET landed = 0 WHERE content = ? AND offset = ?")
            for range in damaged { try landed.bind(1, content.row).bind(2, range.lowerBound).run() }
            try writer.counting(content) {
                try database.cached(
                    """
                    UPDATE content SET proof = 0, holes = 0,
                        state = EXISTS (SELECT 1 FROM chunk WHERE content = ?1 AND landed = 1),
                        landed = (SELECT coalesce(sum(size), 0) FROM chunk WHERE content = ?1 AND landed = 1)
                    WHERE id = ?1
                    """
                ).bind(1, content.row).run()
            }
        }
    }
}
