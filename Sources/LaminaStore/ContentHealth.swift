import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// What is wrong with a content's backing file. Opens use the same rule for size and holes (`LayerFilesystem+Open.swift`).
///
/// Temporary errors are none of these: EMFILE, ENOMEM, EINTR, or EIO, from which a disk may recover, say nothing about the
/// file. They are thrown, with the file's path, and nothing is forgotten because of them.
public enum ContentHealth: Sendable, Equatable {
    /// Nothing that was examined is wrong.
    case sound
    /// There is no file, or something else has its name.
    case absent
    /// It has another size than the content.
    case short(size: Int64)
    /// More of the landed bytes are holes than were verified to be zeros.
    case holed
    /// Bytes have another digest.
    case wrong

    var isDamage: Bool { self != .sound }
}

extension Store {
    /// Examines a content's file without reading it: it must be there, have its size, and no hole where the index says that
    /// bytes have landed. Takes some microseconds, and some more for each chunk of a content that is not whole.
    ///
    /// - Throws: `StoreError`; `SystemError` if the file cannot be examined now.
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

    /// Examines a content's file and takes back what is damaged; holes in it are hashed.
    ///
    /// Call it while no merge of the content runs.
    ///
    /// - Parameter shouldStop: asked every few MiB while it hashes; true ends it with EINTR, and nothing is taken back.
    /// - Returns: what was found; after anything but `.sound` the content's row says what is left, and the rest is fetched when
    ///   a reader asks for it.
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
            // A longer file has all of its bytes: the next writer gives it its size.
            if lost.isEmpty { try withWritable(content) { try $0.truncate(to: content.size) } }
            if !lost.isEmpty { try putAsideIfSealed(content, health) }
            try takeBack(lost, of: content.id)
        case .holed, .wrong:
            // Copied zeros are a hole too: now that they are verified, the next look does not suspect it.
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

    /// Records how many of the landed bytes are holes, for a content whose landed bytes have just been hashed.
    func recordVerifiedHoles(of content: ContentRecord) throws {
        guard let record = try index.content(content.id), record.state != .absent else { return }
        let file = try files.open(record.name)
        // Only of chunks that have landed: nothing of the others was verified.
        let holes = try index.landedRanges(of: record).reduce(Int64(0)) { sum, chunk in
            try file.holes(in: chunk.range).reduce(sum) { $0 + Int64($1.count) }
        }
        try recordHoles(holes, of: record.id)
    }

    /// Hashes what the index says of a content has landed, and takes back what differs.
    ///
    /// - Returns: whether everything was as recorded.
    /// - Throws: `SystemError` if the file cannot be read now: nothing is taken back then.
    public func recheck(_ content: ContentRecord, shouldStop: () -> Bool = { false }) throws -> Bool {
        let found = try examine(content, readsData: true, shouldStop: shouldStop)
        try takeBack(found.damaged, of: content.id)
        return found.damaged.isEmpty
    }

    /// Takes back the record of chunks whose bytes are not there: they are fetched again when a reader asks for them. The
    /// content is no longer whole; its other chunks stay. It is on disk when this returns, because new bytes may be written
    /// over the old ones.
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
