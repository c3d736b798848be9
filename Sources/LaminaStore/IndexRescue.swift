import Glibc
import LaminaSQLite
import LaminaSystem

/// The state of the index of a store that no process has open.
public enum IndexState: Sendable, Equatable {
    /// There is no store.
    case noStore
    /// There are backing files and no index.
    case missing(files: Int)
    /// What SQLite says, sentence by sentence.
    case damaged([String])
    case sound
}

/// What was done with a damaged index.
public enum IndexRescue: Sendable, Equatable {
    /// Only SQLite's own indexes were wrong; they were rebuilt, and nothing is lost.
    case reindexed
    /// It was set aside under this name; the images that could still be read from it.
    case setAside(path: String, images: [String])
}

extension Store {
    /// Examines the index of a store as a whole. Reads all of it.
    ///
    /// - Throws: `StoreError.incompatible` for one that this program cannot judge.
    public static func indexState(root: String) throws -> IndexState {
        try StoreDirectory.check(root)
        let path = Index.path(root: root)
        guard try Index.isThere(path) else {
            let files = backingFileCount(root: root)
            return files == 0 ? .noStore : .missing(files: files)
        }
        try Index.requireReadable(path)
        do {
            return try Index.connect(path).withLock { holder in
                // If it was truncated to nothing, it is a database without tables.
                if try Index.usable(holder.database, path: path) == 0 {
                    let files = backingFileCount(root: root)
                    if files > 0 { return .missing(files: files) }
                }
                let problems = try Index.problems(of: holder.database)
                return problems.isEmpty ? .sound : .damaged(problems)
            }
        } catch let error as StoreError where error.code == .damaged {
            return .damaged(["\(error.cause ?? error)"])
        } catch let error as SQLiteError where error.isCorruption {
            return .damaged(["\(error)"])
        }
    }

    /// Makes a damaged index usable, or sets it aside for a new one: the next `Store` then begins with an empty index, and
    /// `adopt` takes the files into it.
    ///
    /// - Throws: `StoreError.locked` while a process has the store.
    public static func rescueIndex(root: String) throws -> IndexRescue {
        let lock = try StoreLock(root: root)
        defer { withExtendedLifetime(lock) {} }
        let path = Index.path(root: root)
        if (try? reindex(path)) == true { return .reindexed }
        // Whatever was found before: an index that cannot be read now may be whole.
        try Index.requireReadable(path)
        let images = (try? readableImages(path)) ?? []
        let saved = "\(path).damaged-\(time(nil))"
        // The log first: without it the database is an older state of itself, which must not be used as the index.
        for suffix in ["-wal", "-shm", ""] {
            guard rename(path + suffix, saved + suffix) == 0 || errno == ENOENT else {
                let error = SystemError.last("rename", path + suffix)
                throw StoreError(.system(error.code), "the damaged index cannot be set aside", cause: error)
            }
        }
        return .setAside(path: saved, images: images)
    }

    /// Rebuilds SQLite's indexes of an index; true if nothing is wrong with it afterwards.
    private static func reindex(_ path: String) throws -> Bool {
        let connection = try Connection(path: path, access: .readWrite)
        guard try Index.usable(connection, path: path) > 0 else { return false }
        try connection.execute("REINDEX")
        return try Index.problems(of: connection).isEmpty
    }

    private static func readableImages(_ path: String) throws -> [String] {
        let connection = try Connection(path: path, access: .readOnly)
        return try connection.prepare("SELECT DISTINCT reference FROM image ORDER BY reference").map { $0.text(0) }
    }

    /// How many files are below `content/`; counted up to a limit.
    static func backingFileCount(root: String, upTo limit: Int = 1_000_000) -> Int {
        var count = 0
        for name in ContentFiles.parts where count < limit {
            guard let listing = opendir("\(root)/content/\(name)") else { continue }
            defer { closedir(listing) }
            while let entry = readdir(listing), count < limit {
                // Not "." and "..".
                if entry.pointee.d_name.0 != 0x2e { count += 1 }
            }
        }
        return count
    }
}
