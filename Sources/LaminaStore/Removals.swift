import LaminaDigest
import LaminaSQLite
import LaminaSystem

// Files leave the store in one order: a removal of their names (`NameLeases`), the transaction that forgets them, on disk, and only
// then the unlinking. A kill or a power cut in between leaves files that nobody knows of, never rows without files.

extension Store {
    /// Gives up contents' bytes: they are fetched again when they are asked for. Files that are open or mapped keep theirs.
    ///
    /// Whoever calls this sees to it that nobody merges the contents just now (`MergeEngine.evict`). What somebody reads or writes
    /// just now stays, and so does what a sealed chain shows that is used.
    ///
    /// - Returns: how many were given up, and the bytes on disk that nobody has a name for any more.
    @discardableResult
    public func evict(_ contents: [ContentRecord]) throws -> (contents: Int, bytes: Int64) {
        let byName = Dictionary(contents.map { ($0.name, $0.id) }, uniquingKeysWith: { first, _ in first })
        return try files.leases.removing(Array(byName.keys)) { names in
            guard !names.isEmpty else { return (0, 0) }
            let forgotten = try reserve.lending {
                try writeDurably { writer in
                    try names.filter { name in
                        guard let content = byName[name], try !writer.connection.isSealed(content) else { return false }
                        try writer.unseal(content)
                        try writer.forget(content)
                        return true
                    }
                }
            }
            reserve.refill()
            do {
                return (forgotten.count, try forgotten.reduce(0) { try $0 + files.remove($1).bytes })
            } catch {
                // Their rows are gone: nobody else would ever try again.
                files.leases.giveUp(forgotten)
                throw error
            }
        }
    }

    /// Unlinks the files that a collection has marked.
    ///
    /// - Returns: how many there were, and the bytes that they took on disk.
    @discardableResult
    public func sweep(shouldStop: () -> Bool = { false }) throws -> (files: Int, bytes: Int64) {
        var result = (files: 0, bytes: Int64(0))
        while !shouldStop() {
            let marked = try index.read { database in try Writer.garbageNames(limit: 256, database) }
            if marked.isEmpty { break }
            try removeUnlessKnown(marked, counting: &result)
            try reserve.lending {
                try write { writer in
                    let done = try writer.connection.cached("DELETE FROM garbage WHERE digest = ? AND claim = ?")
                    for name in marked { try done.bind(1, digest: name.digest).bind(2, claim: name.claim).run() }
                }
            }
        }
        reserve.refill()
        return result
    }

    /// Takes away the files of names that somebody began to write and gave up, where the index knows nothing of what is in them.
    public func settleGivenUp() throws {
        var result = (files: 0, bytes: Int64(0))
        let names = files.leases.takeGivenUp()
        var start = 0
        do {
            while start < names.count {
                try removeUnlessKnown(Array(names[start...].prefix(256)), counting: &result)
                start += 256
            }
        } catch {
            files.leases.giveUp(Array(names[min(start, names.count)...]))
            throw error
        }
    }

    /// Unlinks files whose rows are gone for certain, or were never there. One that somebody has a lease of is put aside: whoever
    /// writes it records it or gives it up, and then it is looked at again.
    func removeUnlessKnown(_ names: [BackingName], counting result: inout (files: Int, bytes: Int64)) throws {
        var (count, bytes) = (0, Int64(0))
        try files.leases.removing(names) { free in
            if free.count < names.count { files.leases.giveUp(Array(Set(names).subtracting(free))) }
            // Nobody can come to know one meanwhile: that takes a lease.
            let unknown = try index.read { database in try free.filter { try !Index.hasBytes($0, database) } }
            for name in unknown {
                let removed = try files.remove(name)
                count += removed.isThere ? 1 : 0
                bytes += removed.bytes
            }
        }
        result.files += count
        result.bytes += bytes
    }

    /// Unlinks backing files of which the index knows nothing: a kill between the deletion of rows and the end of a merge, or
    /// between a file and its record, leaves them. They cost space, no more.
    ///
    /// - Parameter dryRun: counts them only.
    public func removeUnknownFiles(
        dryRun: Bool, shouldStop: () -> Bool = { false }
    ) throws -> (files: Int, bytes: Int64) {
        if !dryRun { try settleGivenUp() }
        var result = (files: 0, bytes: Int64(0))
        for part in ContentFiles.parts {
            if shouldStop() { break }
            let found = try files.names(in: part)
            let names = found.compactMap { BackingName(file: $0) }.filter { $0.path.hasPrefix(part) }
            let unknown = try index.read { database in try names.filter { try !Index.hasBytes($0, database) } }
            if dryRun {
                for name in unknown where files.leases.isFree(name) {
                    result.files += 1
                    result.bytes += files.allocatedSize(name.path)
                }
            } else if !unknown.isEmpty {
                try removeUnlessKnown(unknown, counting: &result)
            }
            try removeMomentary(found, in: part, dryRun: dryRun, counting: &result)
        }
        try removeSpools(dryRun: dryRun, counting: &result)
        return result
    }

    /// Names that a file had for a moment, of a process that was killed in it.
    private func removeMomentary(
        _ found: [String], in part: String, dryRun: Bool, counting result: inout (files: Int, bytes: Int64)
    ) throws {
        for file in found {
            guard let base = BackingName(momentary: file) else { continue }
            var (count, bytes) = (0, Int64(0))
            try files.leases.removing([base]) { free in
                guard !free.isEmpty, !files.isAside(base) else { return }
                count = 1
                bytes = files.allocatedSize("\(part)/\(file)")
                if !dryRun { _ = try files.removePath("\(part)/\(file)") }
            }
            result.files += count
            result.bytes += bytes
        }
    }

    /// Spools of layers that no stream is of, and of files that nobody fetches.
    private func removeSpools(dryRun: Bool, counting result: inout (files: Int, bytes: Int64)) throws {
        for spool in try files.names(in: ContentFiles.spoolDirectory) {
            let path = ContentFiles.path(ofSpool: spool)
            if let name = Digest(hex: spool.dropFirst("restream-".count)), spool.hasPrefix("restream-") {
                files.leases.removing([BackingName(digest: name, claim: nil)]) { free in
                    if free.isEmpty { return }
                    result.files += 1
                    result.bytes += files.allocatedSize(path)
                    if !dryRun { files.removeSpool(spool) }
                }
                continue
            }
            // With the layers held: no stream begins meanwhile.
            let isUnused = try holds.withHeld { held in
                if let layer = Digest(hex: spool.prefix { $0 != "-" }) {
                    let hasStream = try index.read { database in
                        try database.cached("SELECT 1 FROM stream WHERE digest = ?").bind(1, digest: layer)
                            .first { _ in true } ?? false
                    }
                    return !hasStream && !held.contains(layer)
                }
                return true
            }
            guard isUnused else { continue }
            result.files += 1
            result.bytes += files.allocatedSize(path)
            if !dryRun { files.removeSpool(spool) }
        }
    }
}

extension Index {
    /// Whether the index says that bytes stand in the file of this name.
    static func hasBytes(_ name: BackingName, _ database: Connection) throws -> Bool {
        try database.cached("SELECT 1 FROM content WHERE digest = ? AND claim = ? AND state > 0")
            .bind(1, digest: name.digest).bind(2, claim: name.claim).first { _ in true } ?? false
    }
}
