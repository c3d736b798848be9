import Glibc
import LaminaFilesystem
import LaminaSystem

// A command and its server may be in different mount namespaces (systemd's PrivateMounts=, a step of a CI, a container with the
// store in it) or below different roots. If mounts propagate from one to the other all is well. So the code looks at the
// result, not at the names of the namespaces.

enum MountNamespaces {
    /// Device and inode number of what a path leads to; nil if it leads nowhere.
    static func identity(of path: String) -> String? {
        var status = stat()
        return stat(path, &status) == 0 ? "\(status.st_dev):\(status.st_ino)" : nil
    }

    /// At the server, refuses directories that differ from those that the client means.
    static func requireSamePlaces(_ request: MountRequest) throws(DaemonError) {
        let places = [(request.target, request.targetIdentity), (request.upper, request.upperIdentity)]
        for case (let path?, let expected?) in places where identity(of: path) != expected {
            throw DaemonError(
                .serverFailed,
                "\(path) is another directory for the lamina server (process \(getpid())), as that runs in another mount namespace "
                    + "or below another root: \(wayOut(getpid()))")
        }
    }

    /// Whether this process sees an image of a store at a place.
    static func isSeen(_ target: String, root: String) -> Bool {
        (try? Mount.all())?.contains { $0.directory == target && ImageMount.isOwn($0, root: root) } ?? true
    }

    /// The message for an image that was mounted where this process does not see it.
    static func unseen(_ target: String, server: Int32?) -> DaemonError {
        DaemonError(
            .serverFailed,
            "the lamina server\(server.map { " (process \($0))" } ?? "") runs in another mount namespace, and what it mounts at \(target) "
                + "is not seen here: \(wayOut(server))")
    }

    private static func wayOut(_ server: Int32?) -> String {
        let there = server.map { "'nsenter --target \($0) --mount' goes there, " } ?? ""
        return there
            + "'lamina shutdown' ends that server with all its mounts, so that the next one is started here, and "
            + "--root takes another store"
    }

    /// Removes what is left, in this process's namespace, of a mount that the server has ended: a copy from the time when the
    /// namespace was made.
    static func endCopy(at target: String, root: String) throws {
        let mounts = try Mount.all()
        guard let copy = mounts.last(where: { $0.directory == target && ImageMount.isOwn($0, root: root) }),
            Mount.reached(by: target, among: mounts)?.id == copy.id
        else { return }
        do throws(SystemError) {
            try Mount.unmount(target)
        } catch {
            throw DaemonError(
                .serverFailed,
                "the lamina server has ended its mount at \(target); the one of this mount namespace cannot be unmounted",
                cause: error)
        }
    }
}
