import Glibc
public import LaminaSystem

/// Whose a store is. Its files come from images of all users, and do not have the modes that the images give them. So only its owner may
/// look into it, and only its owner may have put anything there.
///
/// Everything below the root is reached by a directory of mode 0700. A reader of a mount needs no right to it: the kernel looked up what
/// a mount is made of when its owner mounted it (docs/decisions/028-whose-a-store-is.md).
public enum StoreDirectory {
    /// Of the root and what lamina makes in it.
    static let mode: mode_t = 0o700
    /// Of files in the store.
    static let fileMode: mode_t = 0o600
    private static let rightsOfOthers: mode_t = 0o077
    private static let writingOfOthers: mode_t = 0o022

    /// Makes the root of a store where there is none, says whether it may be used, and takes away what an earlier lamina let others see.
    ///
    /// - Parameter root: absolute.
    /// - Returns: the root, open.
    /// - Throws: `StoreError.foreign` for one that others own, write to, or lead to by a link.
    @discardableResult
    public static func prepare(_ root: String) throws(StoreError) -> File {
        do {
            return try open(root)
        } catch let error as StoreError {
            throw error
        } catch {
            throw StoreError(
                .system((error as? SystemError)?.code ?? EIO), "cannot make the store \(root)", cause: error)
        }
    }

    private static func open(_ root: String) throws -> File {
        if mkdir(root, mode) != 0, errno != EEXIST {
            // What is above it is not lamina's own.
            if errno == ENOENT, let slash = root.lastIndex(of: "/"), slash != root.startIndex {
                try createDirectories(String(root[..<slash]))
            }
            guard mkdir(root, mode) == 0 || errno == EEXIST else { throw SystemError.last("make directory", root) }
        }
        let directory = try walk(to: root)
        let status = try directory.status()
        try requireOwn(root, status)
        guard status.st_mode & writingOfOthers == 0 else {
            throw StoreError(
                .foreign,
                "others than its owner may write to the store \(root) (its mode is \(octal(status.st_mode))): what is in it may be "
                    + "theirs. Where it is not, 'chmod 0700 \(root)' makes it right; else choose another by --root")
        }
        if status.st_mode & 0o7777 != mode {
            try requireStore(root, directory, status)
            guard fchmod(directory.descriptor, mode) == 0 else { throw SystemError.last("change the mode of", root) }
        }
        try tighten(directory)
        return directory
    }

    /// Refuses a store that is not this user's, for a caller that only reads.
    ///
    /// - Throws: `StoreError.foreign`; nothing where there is no store.
    static func check(_ root: String) throws(StoreError) {
        do {
            try requireOwn(root, try walk(to: root).status())
        } catch let error as StoreError {
            throw error
        } catch let error as SystemError where error.code == EACCES || error.code == EPERM {
            throw StoreError(
                .foreign, "this user may not look into the store \(root): try the same command with sudo", cause: error)
        } catch {
            // What is not there is said by who wants to have it.
        }
    }

    /// Refuses a path, as a user gave it, if a link on the way to it belongs to another user.
    ///
    /// - Throws: `StoreError.foreign`. What is not there is no reason to throw.
    public static func refuseForeignLinks(_ path: String) throws(StoreError) {
        do {
            _ = try walk(to: path)
        } catch let error as StoreError {
            throw error
        } catch {
            // The caller that opens it says what is wrong.
        }
    }

    private static func walk(to root: String) throws -> File {
        do {
            return try File.walk(toDirectory: root)
        } catch let link as ForeignLink {
            throw StoreError(
                .foreign,
                "the way to the store \(root) goes through the link \(link.path) of user \(Account.describe(user: link.owner)), "
                    + "who can have it lead elsewhere at any time: name the directory itself by --root or [store] root, "
                    + "or have the link be root's")
        }
    }

    private static func requireOwn(_ root: String, _ status: stat) throws(StoreError) {
        let user = geteuid()
        guard status.st_uid != user else { return }
        let owner = Account.describe(user: status.st_uid)
        let way =
            user == 0
            ? "who can change it under lamina. Give it to root ('chown -R root:root \(root)') if nothing in it is in doubt; else "
                + "choose another by --root"
            : "and may be looked into by nobody else: try the same command with sudo"
        throw StoreError(.foreign, "the store \(root) belongs to user \(owner), \(way)")
    }

    /// A user who names `/srv` for a store does not want `/srv` to be closed to all others.
    private static func requireStore(_ root: String, _ directory: File, _ status: stat) throws {
        let names = try File.names(inDirectory: ".", of: directory)
        // A file system of its own has this one from the start.
        if names.allSatisfy({ $0 == "lost+found" }) || names.contains(Index.name) || names.contains("content") {
            return
        }
        throw StoreError(
            .foreign,
            "\(root) has other things than a store in it, and others may look into it (its mode is \(octal(status.st_mode))): a "
                + "store is its owner's alone. Choose a directory of its own by --root, or 'chmod 0700 \(root)'")
    }

    /// The names that earlier versions made readable for others. Nothing is said of `fs`: looking at a mount asks the server, which this
    /// process may be about to become.
    private static let earlierNames = [
        "index.db", "index.db-wal", "index.db-shm", "lock", "reserve", "server.log", "content", "snapshots", "sealed",
    ]

    private static func tighten(_ directory: File) throws(SystemError) {
        for name in earlierNames {
            var status = stat()
            guard fstatat(directory.descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else { continue }
            let kind = status.st_mode & S_IFMT
            guard kind == S_IFDIR || kind == S_IFREG, status.st_mode & rightsOfOthers != 0 else { continue }
            // By name, and not by a descriptor: closing one of the index would take away the locks that SQLite has on it
            // (https://www.sqlite.org/howtocorrupt.html, 2.2). The directory is this user's alone by now.
            guard fchmodat(directory.descriptor, name, status.st_mode & 0o700, 0) == 0 else {
                throw SystemError.last("change the mode of", "\(directory.path)/\(name)")
            }
        }
    }

    /// Makes the index's file before SQLite does, which would let others read it; the log beside it gets the same mode.
    static func makeIndex(in directory: File, _ name: String) throws(SystemError) {
        do throws(SystemError) {
            _ = try File(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: fileMode, in: directory)
        } catch {
            guard error.code == EEXIST else { throw error }
        }
    }

    private static func octal(_ mode: mode_t) -> String { "0" + String(mode & 0o7777, radix: 8) }
}
