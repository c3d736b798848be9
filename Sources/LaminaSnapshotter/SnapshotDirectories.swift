import Glibc
import LaminaStore
import LaminaSystem
import Logging

/// The directories of snapshots that are written to: `<root>/snapshots/<id>/{fs,work}`.
struct SnapshotDirectories: Sendable {
    private let store: Store
    private var base: String { store.root + "/snapshots" }

    /// The prefix of directories that are being removed.
    static let removed = "removed-"

    init(store: Store) throws {
        self.store = store
        do {
            try createDirectories(store.root + "/snapshots", mode: 0o700)
        } catch {
            throw StoreError(.system(error.code), "cannot make a directory for snapshots", cause: error)
        }
    }

    /// Makes the directory of a snapshot. Its owner is that of the one below, because a merged directory shows the topmost
    /// owner.
    ///
    /// Called within the transaction that makes the snapshot. The directory is on disk when this returns: after a power cut, a
    /// snapshot that a client knows must not be a row without a directory.
    func make(_ id: SnapshotID, kind: SnapshotKind, below: SnapshotPlace?) throws {
        let path = "\(base)/\(id)"
        try makeDirectories(path, kind: kind, below: below)
        do throws(SystemError) {
            // From below. The first sync commits the file system's journal with all of it, so the others cost little.
            for directory in [path + "/fs", path + "/work", path, base] {
                if kind != .active, directory.hasSuffix("/work") { continue }
                try File(directory, O_RDONLY | O_DIRECTORY).synchronize()
            }
        } catch {
            throw StoreError(.system(error.code), "cannot bring a snapshot's directory to the disk", cause: error)
        }
    }

    private func makeDirectories(_ path: String, kind: SnapshotKind, below: SnapshotPlace?) throws {
        do throws(SystemError) {
            // A killed process may have made it without a record: then the number is free, and its directory too.
            try DirectoryTree.remove(path)
            try makeDirectory(path, 0o700)
            try makeDirectory(path + "/fs", 0o755)
            if kind == .active { try makeDirectory(path + "/work", 0o711) }
        } catch {
            throw StoreError(.system(error.code), "cannot make a directory for a snapshot", cause: error)
        }
        guard let below, let owner = try owner(of: below) else { return }
        guard chown(path + "/fs", owner.user, owner.group) == 0 else {
            let error = SystemError.last("chown", path + "/fs")
            throw StoreError(.system(error.code), "cannot give a snapshot its owner", cause: error)
        }
    }

    /// How much the files of an active snapshot take.
    func usage(of id: SnapshotID) throws -> SnapshotUsage {
        do {
            let usage = try DirectoryTree.usage(of: "\(base)/\(id)/fs")
            return SnapshotUsage(bytes: usage.bytes, inodes: usage.inodes)
        } catch {
            // It was removed or committed meanwhile.
            if error.code == ENOENT { throw SnapshotError(.notFound, "the snapshot is gone") }
            throw StoreError(.system(error.code), "cannot measure a snapshot", cause: error)
        }
    }

    /// Removes the directories that no snapshot has.
    func removeAbandoned(_ log: Logger?) throws {
        // Renamed while no snapshot can be made, so that a number that is used again finds its place free; removed afterwards.
        let abandoned = try store.withSnapshotDirectories { known in
            try names().compactMap { name -> String? in
                if name.hasPrefix(Self.removed) { return name }
                guard let row = Int64(name), !known.contains(SnapshotID(row)) else { return nil }
                let new = "\(Self.removed)\(name)-\(monotonicNanoseconds())"
                guard rename("\(base)/\(name)", "\(base)/\(new)") == 0 else {
                    let error = SystemError.last("rename", "\(base)/\(name)")
                    throw StoreError(.system(error.code), "cannot put a snapshot's directory away", cause: error)
                }
                return new
            }
        }
        var failure: SystemError?
        for name in abandoned {
            do throws(SystemError) {
                try DirectoryTree.remove("\(base)/\(name)")
            } catch {
                // The others are still removed; this one is tried again next time.
                failure = error
                log?.warning("a snapshot's directory cannot be removed", metadata: ["error": "\(error)"])
            }
        }
        if let failure {
            throw StoreError(.system(failure.code), "cannot remove the directories of snapshots", cause: failure)
        }
    }

    private func makeDirectory(_ path: String, _ mode: mode_t) throws(SystemError) {
        // The umask must not change the mode.
        guard mkdir(path, mode) == 0, chmod(path, mode) == 0 else { throw SystemError.last("make directory", path) }
    }

    private func owner(of place: SnapshotPlace) throws -> SnapshotOwner? {
        switch place {
        // Not by stat(2), because this process answers for that mount.
        case .layer(let view): return try store.index.owner(of: view)
        case .directory(let id):
            var status = stat()
            let path = "\(base)/\(id)/fs"
            guard lstat(path, &status) == 0 else {
                let error = SystemError.last("look at", path)
                throw StoreError(.system(error.code), "the directory of the parent snapshot is missing", cause: error)
            }
            return SnapshotOwner(user: status.st_uid, group: status.st_gid)
        }
    }

    private func names() throws -> [String] {
        do {
            return try File.names(inDirectory: base)
        } catch {
            throw StoreError(.system(error.code), "cannot list the snapshots' directories", cause: error)
        }
    }

    private func monotonicNanoseconds() -> Int64 {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
    }
}
