import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem

/// A file below `content/` that the index does not know, or says nothing about.
public struct UnknownFile: Sendable {
    /// Relative to `content/`.
    public var path: String
    /// What its name says; nil if it is not a backing file's name.
    public var name: BackingName?
    /// The content that has this name and of which nothing has landed.
    public var content: ContentRecord?
    /// In bytes.
    public var size: Int64
    /// Seconds since 1970.
    public var changedAt: Int64
}

extension Store {
    /// Goes through the files below `content/` and calls `body` with those that are not in the index; one of the 256
    /// directories at a time.
    ///
    /// Files that are being merged may be among them.
    public func forEachUnknownFile(_ body: (UnknownFile) throws -> Void) throws {
        for parent in ContentFiles.parts {
            for name in try files.names(in: parent) {
                let path = "\(parent)/\(name)"
                let status: stat
                do {
                    status = try File(path, O_RDONLY | O_NOFOLLOW, in: files.directory).status()
                } catch {
                    // It is gone again.
                    if error.code == ENOENT { continue }
                    throw error
                }
                var found = UnknownFile(
                    path: path, name: BackingName(file: name), size: Int64(status.st_size),
                    changedAt: Int64(status.st_mtim.tv_sec))
                if let backing = found.name, backing.path == path {
                    found.content = try index.content(named: backing)
                    if let content = found.content, content.state != .absent || content.proof == .disproven { continue }
                }
                try body(found)
            }
        }
    }

    /// Takes a file whose bytes have the digest of its name into the index: as a content that is whole and proven, known by the
    /// digest alone. A layer that lists it, in any chunks, then has it without fetching.
    ///
    /// - Returns: false: the bytes have another digest, or the name is in use.
    public func adopt(_ unknown: UnknownFile, shouldStop: () -> Bool) throws -> Bool {
        guard let name = unknown.name, unknown.size > 0 else { return false }
        let plain = BackingName(digest: name.digest, claim: nil)
        let names = Set([name, plain])
        return try files.leases.removing(Array(names)) { free in
            guard free.count == names.count,
                try (index.content(named: name)?.state ?? .absent) == .absent || name == plain
            else { return false }
            let file = try File(unknown.path, O_RDONLY | O_NOFOLLOW, in: files.directory)
            guard try file.digest(of: 0..<unknown.size, shouldStop: shouldStop) == name.digest else { return false }
            let holes = try file.holeBytes()
            let known = try index.content(named: plain)
            // Its size was counted now, whatever a layer says.
            if let known, known.size != unknown.size { return true }
            if let known, known.state == .merged, files.isThere(plain, size: known.size) {
                if plain.path != unknown.path { _ = try files.removePath(unknown.path) }
                return true
            }
            if plain.path != unknown.path { try files.rename(unknown.path, to: plain.path) }
            _ = try write { writer in
                try writer.counting(named: plain) {
                    try writer.connection.cached(
                        """
                        INSERT INTO content (id, digest, size, state, proof, holes, sync)
                        VALUES (\(Writer.nextContent), ?1, ?2, 2, 1, ?3, ?4)
                        ON CONFLICT (digest, claim) DO UPDATE SET state = 2, proof = 1, sync = ?4, holes = max(holes, ?3)
                        RETURNING id
                        """
                    ).bind(1, digest: name.digest).bind(2, unknown.size).bind(3, holes)
                        .bind(4, try writer.noteLanding()).first { ContentID($0.integer(0)) }
                }
            }
            return true
        }
    }

    /// Records those chunks of an absent content that are in its file already: each is hashed.
    ///
    /// The caller makes sure that no merge of the content runs.
    ///
    /// - Returns: how many bytes were found.
    public func salvage(_ content: ContentRecord, shouldStop: () -> Bool) throws -> Int64 {
        var lease = files.lease(writing: content.name)
        // However it ends, the file keeps its name: the caller decides what to do with it.
        defer { lease.recorded() }
        let chunks = try index.chunks(of: content, preferring: nil)
        let file = try files.open(content.name)
        guard try file.size() == content.size, chunks.reduce(0, { $0 + $1.size }) == content.size else { return 0 }
        var landing = Landing()
        var bytes: Int64 = 0
        for chunk in chunks {
            let range = chunk.offset..<(chunk.offset + chunk.size)
            guard try !file.isHole(range), try file.digest(of: range, shouldStop: shouldStop) == chunk.digest else {
                continue
            }
            if content.name.claim != nil { landing.chunks.append((content.id, chunk.offset)) }
            bytes += chunk.size
        }
        if bytes == content.size {
            try recordHoles(file.holeBytes(), of: content.id)
            landing.merged.append((content.id, content.name.claim == nil ? .proven : .claimed))
        }
        try record(landing)
        return bytes
    }

    /// Removes a file without a meaning, unless the index knows it by now.
    public func remove(_ unknown: UnknownFile) throws {
        var result = (files: 0, bytes: Int64(0))
        if let name = unknown.name, name.path == unknown.path {
            return try removeUnlessKnown([name], counting: &result)
        }
        guard
            let base = unknown.name
                ?? unknown.path.split(separator: "/").last.flatMap({ BackingName(momentary: String($0)) })
        else {
            // No code here gives a file such a name.
            _ = try files.removePath(unknown.path)
            return
        }
        try files.leases.removing([base]) { free in
            // A file that was put aside is served until it is replaced.
            if !free.isEmpty, !files.isAside(base) { _ = try files.removePath(unknown.path) }
        }
    }
}

extension Index {
    /// The content that has a backing file of this name.
    func content(named name: BackingName) throws -> ContentRecord? {
        try read { database in
            let statement = try database.cached(
                "SELECT \(Self.contentColumns) FROM content c WHERE c.digest = ? AND c.claim = ?"
            ).bind(1, digest: name.digest)
            statement.bind(2, claim: name.claim)
            return try statement.first { try Self.content($0) }
        }
    }
}
