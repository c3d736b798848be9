import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// What is wrong with a content's backing file.
public enum Damage: String, Sendable, Codable {
    /// There is no file.
    case missing
    /// The file is shorter or longer than the content.
    case size
    /// Nothing stands where bytes are said to have landed, and they are no zeros.
    case hole
    /// The bytes have another digest.
    case digest
}

/// What a look at a content's file has shown.
public struct Examination: Sendable {
    /// As it was when the file was looked at.
    public var content: ContentRecord
    /// The first thing that is wrong; nil: nothing that was looked at.
    public var damage: Damage?
    /// The chunks that are said to have landed and have not, in file order.
    public var damaged: [Range<Int64>] = []
    /// How many bytes were read for it.
    public var bytesRead: Int64 = 0

    /// Of a content with which nothing is wrong.
    public init(content: ContentRecord) { self.content = content }
}

extension Store {
    /// Holds a content's file against what the index says of it: that it is there, has its size, and no hole where bytes are
    /// said to have landed; on demand that these have their digests.
    ///
    /// Takes no lock: of a content that is merged or given up meanwhile it may say what is not so any more.
    ///
    /// - Parameters:
    ///   - readsData: whether the bytes are read and hashed, as they are on disk.
    ///   - shouldStop: asked every few MiB.
    /// - Throws: `StoreError`; `SystemError` where the file cannot be read (EINTR: `shouldStop` said so).
    public func examine(
        _ content: ContentRecord, readsData: Bool, shouldStop: () -> Bool = { false }
    ) throws -> Examination {
        var result = Examination(content: content)
        let chunks = try index.landedRanges(of: content)
        guard !chunks.isEmpty else { return result }
        let file: File
        do throws(SystemError) {
            file = try files.open(content.name)
        } catch {
            guard error.code == ENOENT else { throw error }
            result.damage = .missing
            result.damaged = chunks.map(\.range)
            return result
        }
        let size = try file.size()
        if size != content.size { result.damage = .size }
        let suspects = try suspects(chunks, of: content, in: file)
        for (number, chunk) in chunks.enumerated() {
            let isSuspect = suspects.contains(number)
            guard isSuspect || readsData || chunk.range.upperBound > size else { continue }
            result.bytesRead += Int64(chunk.range.count)
            if try file.readableDigest(of: chunk.range, shouldStop) == chunk.digest { continue }
            result.damage = result.damage ?? (isSuspect ? .hole : .digest)
            result.damaged.append(chunk.range)
        }
        if !suspects.isEmpty, result.damaged.isEmpty, result.damage == nil {
            // Zeros that were copied are a hole, too: verified now, they need not be again.
            try recordHoles(file.holeBytes(), of: content.id)
        }
        return try acquitted(result, file, shouldStop)
    }

    /// The chunks that lie in holes of which nobody has said that they are zeros.
    private func suspects(
        _ chunks: [LandedRange], of content: ContentRecord, in file: File
    ) throws -> Set<Int> {
        guard try file.firstHole() < file.size() else { return [] }
        var hollow: Set<Int> = []
        var bytes: Int64 = 0
        for (number, chunk) in chunks.enumerated() {
            let holes = try file.holes(in: chunk.range)
            if holes.isEmpty { continue }
            hollow.insert(number)
            bytes += holes.reduce(0) { $0 + Int64($1.count) }
        }
        return try bytes <= index.holes(of: content.id) ? [] : hollow
    }

    /// A file that has been proven as a whole is right, whatever a layer's list of its chunks says: the layer may lie about
    /// them, and took the file over from an honest one.
    private func acquitted(
        _ found: Examination, _ file: File, _ shouldStop: () -> Bool
    ) throws -> Examination {
        let content = found.content
        guard found.damage == .digest || found.damage == .hole, content.name.claim != nil, content.proof == .proven
        else { return found }
        var found = found
        found.bytesRead += content.size
        if try file.readableDigest(of: 0..<content.size, shouldStop) == content.name.digest {
            found.damage = nil
            found.damaged = []
        }
        return found
    }

    /// Takes back what was said of chunks whose bytes are not there: they are fetched again when somebody asks for them.
    /// The content is whole no more; the others of its chunks stay.
    public func takeBack(_ damaged: [Range<Int64>], of content: ContentID) throws {
        try write { writer in
            let database = writer.connection
            let landed = try database.cached("UPDATE chunk SET landed = 0 WHERE content = ? AND offset = ?")
            for range in damaged { try landed.bind(1, content.row).bind(2, range.lowerBound).run() }
            try database.cached(
                """
                UPDATE content SET proof = 0,
                    state = EXISTS (SELECT 1 FROM chunk WHERE content = ?1 AND landed = 1)
                WHERE id = ?1
                """
            ).bind(1, content.row).run()
        }
    }
}

extension File {
    /// As `digest(of:)`; nil also where the disk does not give the bytes.
    fileprivate func readableDigest(of range: Range<Int64>, _ shouldStop: () -> Bool) throws -> Digest? {
        do {
            return try digest(of: range, shouldStop: shouldStop)
        } catch let error as SystemError where error.code == EIO {
            return nil
        }
    }
}

/// A part of a file that is said to have landed.
struct LandedRange: Sendable {
    var range: Range<Int64>
    var digest: Digest
}

extension Index {
    /// What is said to have landed of a content, in file order.
    func landedRanges(of content: ContentRecord) throws -> [LandedRange] {
        if content.name.claim == nil {
            return content.state == .merged
                ? [LandedRange(range: 0..<content.size, digest: content.name.digest)] : []
        }
        return try read { database in
            try database.cached(
                "SELECT offset, size, digest FROM chunk WHERE content = ? AND landed = 1 ORDER BY offset"
            )
            .bind(1, content.id.row).map { row in
                guard let digest = row.digest(2), row.integer(0) >= 0, row.integer(1) > 0,
                    row.integer(1) <= content.size, row.integer(0) <= content.size - row.integer(1)
                else { throw StoreError(.damaged, "the chunks of \(content.id) in the index make no sense") }
                return LandedRange(range: row.integer(0)..<(row.integer(0) + row.integer(1)), digest: digest)
            }
        }
    }
}
