import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// The result of examining a content's file.
public struct Examination: Sendable {
    /// The content when the file was examined.
    public var content: ContentRecord
    /// The first thing that was found wrong.
    public var health = ContentHealth.sound
    /// The chunks that should have landed and have not, in file order.
    public var damaged: [Range<Int64>] = []
    /// How many bytes were read for it.
    public var bytesRead: Int64 = 0

    /// For a content with nothing wrong.
    public init(content: ContentRecord) { self.content = content }
}

extension Store {
    /// Compares a content's file with the index: it must be there, have its size, and no hole where the index says that bytes
    /// have landed; on demand these must have their digests.
    ///
    /// Takes no lock: if a content is merged or given up meanwhile, the result may be out of date.
    ///
    /// - Parameters:
    ///   - readsData: whether the bytes are read and hashed, as they are on disk.
    ///   - shouldStop: asked every few MiB.
    /// - Throws: `StoreError`; `SystemError` if the file cannot be read (EINTR: `shouldStop` said so).
    public func examine(
        _ content: ContentRecord, readsData: Bool, shouldStop: () -> Bool = { false }
    ) throws -> Examination {
        var result = Examination(content: content)
        let chunks = try index.landedRanges(of: content)
        guard !chunks.isEmpty else { return result }
        do {
            return try files.reading(content.name) { try examine(&result, chunks, $0, readsData, shouldStop) }
        } catch let error as SystemError where error.code == ENOENT {
            result.health = .absent
            result.damaged = chunks.map(\.range)
            return result
        }
    }

    private func examine(
        _ result: inout Examination, _ chunks: [LandedRange], _ file: File, _ readsData: Bool, _ shouldStop: () -> Bool
    ) throws -> Examination {
        let content = result.content
        let status = try file.status()
        guard status.st_mode & S_IFMT == S_IFREG else {
            result.health = .absent
            result.damaged = chunks.map(\.range)
            return result
        }
        let size = Int64(status.st_size)
        if size != content.size { result.health = .short(size: size) }
        let suspects = try suspects(chunks, of: content, in: file)
        for (number, chunk) in chunks.enumerated() {
            let isSuspect = suspects.contains(number)
            guard isSuspect || readsData || chunk.range.upperBound > size else { continue }
            result.bytesRead += Int64(chunk.range.count)
            if try file.digest(of: chunk.range, shouldStop: shouldStop) == chunk.digest { continue }
            if !result.health.isDamage { result.health = isSuspect ? .holed : .wrong }
            result.damaged.append(chunk.range)
        }
        // Copied zeros are a hole too: verified now, they need not be verified again.
        if !suspects.isEmpty, !result.health.isDamage { try recordVerifiedHoles(of: content) }
        return try acquitted(result, file, shouldStop)
    }

    /// The chunks that lie in holes that were not recorded as zeros.
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

    /// A file that was proven as a whole is right, whatever a layer's chunk list says: the layer may lie about the chunks, and
    /// have taken the file from an honest layer.
    private func acquitted(
        _ found: Examination, _ file: File, _ shouldStop: () -> Bool
    ) throws -> Examination {
        let content = found.content
        guard found.health == .wrong || found.health == .holed, content.name.claim != nil, content.proof == .proven
        else { return found }
        var found = found
        found.bytesRead += content.size
        if try file.digest(of: 0..<content.size, shouldStop: shouldStop) == content.name.digest {
            found.health = .sound
            found.damaged = []
        }
        return found
    }
}

/// A part of a file that the index says has landed.
struct LandedRange: Sendable {
    var range: Range<Int64>
    var digest: Digest
}

extension Index {
    /// What the index says has landed of a content, in file order.
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
