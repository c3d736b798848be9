import LaminaDigest
import LaminaSQLite
import LaminaSystem

// Files leave the store in one order: a removal of their names (`NameLeases`), the transaction that forgets them, on disk, and
// only then the unlinking. A kill or a power cut in between leaves files without rows, never rows without files.

extension Store {
    /// Gives up contents' bytes: they are fetched again when a reader asks for them. Files that are open or mapped keep theirs.
    ///
    /// The caller makes sure that no merge of the contents runs (`MergeEngine.evict`). Names with a lease stay, and so does
    /// what a sealed chain in use shows.
    ///
    /// - Returns: how many were given up, and how many bytes on disk have no name any more.
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
                // Their rows are deleted: no later call would find these files.
                files.leases.giveUp(forgotten)
                throw error
            }
        }
    }

    /// Unlinks the files that a collection has marked.
    ///
    /// - Returns: how many they were, and the bytes that they took on disk.
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

    /// Removes the files of names whose writers gave them up, if the index does not know what is in them.
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

    /// Unlinks files whose rows are certainly deleted, or never existed. A name with a lease is put aside: its writer records
    /// it or gives it up, and then it is looked at again.
    func removeUnlessKnown(_ names: [BackingName], counting result: inout (files: Int, bytes: Int64)) throws {
        var (count, bytes) = (0, Int64(0))
        try files.leases.removing(names) { free in
            if free.count < names.count { files.leases.giveUp(Array(Set(names).subtracting(free))) }
            // No row can appear meanwhile: that takes a lease.
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

    /// Unlinks backing files that the index does not know. They are left by a kill between the deletion of rows and the end of
    /// a merge, or between a file and its record. They only cost space.
    ///
    /// - Parameter dryRun: only counts them.
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

    /// Momentary names of files, from a process that was killed.
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

    /// Spools of layers without a stream, and of files that are not being fetched.
    private func removeSpools(dryRun: Bool, counting result: inout (files: Int, bytes: Int64)) throws {
        for spool in try files.names(in: ContentFiles.spoolDirectory) {
            let path = ContentFiles.path(ofSpool: spool)
            if let name = ContentFiles.file(ofSpool: spool) {
                files.leases.removing([name]) { free in
                    if free.isEmpty { return }
                    result.files += 1
                    result.bytes += files.allocatedSize(path)
                    if !dryRun { files.removeSpool(spool) }
                }
                continue
            }
            // With the layers held: no stream begins meanwhile.
            let isUnused = try holds.withHeld { held in
                guard let (layer, stream) = ContentFiles.stream(ofSpool: spool) else { return true }
                let hasStream = try index.read { database in
                    try database.cached("SELECT 1 FROM stream WHERE id = ? AND digest = ?").bind(1, stream)
                        .bind(2, digest: layer).first { _ in true } ?? false
                }
                return !hasStream && !held.contains(layer)
            }
            guard isUnused else { continue }
            result.files += 1
            result.bytes += files.allocatedSize(path)
            if !dryRun { files.removeSpool(spool) }
        }
    }
}

extension Index {
    /// Whether the index says that there are bytes in the file of this name.
    static func hasBytes(_ name: BackingName, _ database: Connection) throws -> Bool {
        try database.cached("SELECT 1 FROM content WHERE digest = ? AND claim = ? AND state > 0")
            .bind(1, digest: name.digest).bind(2, claim: name.claim).first { _ in true } ?? false
    }
}
