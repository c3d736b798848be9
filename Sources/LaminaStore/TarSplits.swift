import Glibc
public import LaminaDigest
import LaminaSQLite
public import LaminaSystem
import Synchronization

// Tar-splits: how a layer's tar is put together from its files, for those who want the tar again. One is told by the tar alone, so its
// name is the diff ID. The file comes before its row, and goes after it.

/// A tar-split that is being written, below a name of its own.
public struct MomentaryTarSplit: Sendable {
    public let file: File
    let path: String
}

extension Store {
    /// Where tar-splits are, relative to the root.
    public static let tarSplitPath = "tar-split"

    private static let momentaryNames = Atomic<Int>(0)

    /// Where the tar-split of a tar is, compressed by gzip.
    public func tarSplitPath(of diffID: Digest) -> String { "\(root)/\(Self.tarSplitPath)/\(diffID.hex).gz" }

    /// Begins a tar-split; `placeTarSplit` or `removeTarSplit` has to follow.
    public func beginTarSplit() throws -> MomentaryTarSplit {
        let directory = "\(root)/\(Self.tarSplitPath)"
        let number = Self.momentaryNames.add(1, ordering: .relaxed).newValue
        let path = "\(directory)/new-\(number)-\(getpid())"
        do {
            try createDirectories(directory, mode: 0o700)
            return MomentaryTarSplit(
                file: try File(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: 0o600), path: path)
        } catch {
            throw StoreError(.system(error.code), "cannot write a tar-split", cause: error)
        }
    }

    /// Removes it, and at once what it takes on disk.
    public func removeTarSplit(_ momentary: MomentaryTarSplit) {
        // Not of one that has its name by now.
        if unlink(momentary.path) == 0 { try? momentary.file.truncate(to: 0) }
    }

    /// What all tar-splits take on disk, in bytes.
    func tarSplitSpace() -> Int64 {
        let directory = "\(root)/\(Self.tarSplitPath)"
        return ((try? File.names(inDirectory: directory)) ?? []).reduce(0) { sum, name in
            var status = stat()
            return lstat("\(directory)/\(name)", &status) == 0 ? sum + Int64(status.st_blocks) * 512 : sum
        }
    }

    /// Puts a tar-split in its place. On disk when it returns, and its row is known.
    ///
    /// - Parameter size: of the tar, in bytes.
    public func placeTarSplit(_ momentary: MomentaryTarSplit, of diffID: Digest, size: Int64) throws {
        do throws(SystemError) {
            try momentary.file.synchronize()
            // As of now, for the grace time.
            futimens(momentary.file.descriptor, nil)
            guard rename(momentary.path, tarSplitPath(of: diffID)) == 0 else {
                throw SystemError.last("rename", momentary.path)
            }
            try File("\(root)/\(Self.tarSplitPath)", O_RDONLY | O_DIRECTORY).synchronize()
        } catch {
            throw StoreError(.system(error.code), "cannot put a tar-split in its place", cause: error)
        }
        try write { writer in
            try writer.connection.cached("INSERT OR REPLACE INTO tar_split (diff_id, tar_size) VALUES (?, ?)")
                .bind(1, digest: diffID).bind(2, size).run()
        }
    }

    /// Whether there is a tar-split of a tar.
    public func hasTarSplit(of diffID: Digest) throws -> Bool {
        let isKnown = try index.read { database in
            try database.cached("SELECT 1 FROM tar_split WHERE diff_id = ?").bind(1, digest: diffID).first { _ in true }
        }
        return isKnown != nil && access(tarSplitPath(of: diffID), F_OK) == 0
    }

    /// How old a tar-split of no layer is before it is removed, in seconds: the layer that is being read has no row yet.
    private static let graceTime = 3600

    /// Removes the tar-splits of layers that are gone, and what a killed process has left.
    public func removeUnheldTarSplits() throws {
        let directory = "\(root)/\(Self.tarSplitPath)"
        guard let names = try? File.names(inDirectory: directory), !names.isEmpty else { return }
        let held = try index.read { database in
            Set(
                try database.cached("SELECT DISTINCT diff_id FROM layer WHERE diff_id IS NOT NULL").map { $0.digest(0) }
            )
        }
        for name in names where Self.age(of: "\(directory)/\(name)") > Self.graceTime {
            if name.hasPrefix("new-") {
                // In a container a process that was killed had the same number. What this one has not begun is not its own.
                let number = name.dropFirst(4).prefix { $0 != "-" }
                let isOwn =
                    name.hasSuffix("-\(getpid())")
                    && (Int(number) ?? .max) <= Self.momentaryNames.load(ordering: .relaxed)
                if !isOwn { unlink("\(directory)/\(name)") }
            } else if let digest = Digest(hex: name.dropLast(3)), !held.contains(digest) {
                try write { writer in
                    try writer.connection.cached("DELETE FROM tar_split WHERE diff_id = ?").bind(1, digest: digest)
                        .run()
                    unlink("\(directory)/\(name)")
                }
            }
        }
    }

    private static func age(of path: String) -> Int {
        var status = stat()
        return lstat(path, &status) == 0 ? time(nil) - status.st_mtim.tv_sec : 0
    }
}
