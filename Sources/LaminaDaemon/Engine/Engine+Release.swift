import Glibc
import LaminaFUSE
import LaminaFilesystem
import LaminaStore
import LaminaSystem
import Logging
import Synchronization

// What happens when nothing is mounted any more. The table of mounts shows only this mount namespace: an image may still be
// mounted in another one, by a bind mount, or below a root that was pivoted. The kernel knows, and there is one way to ask it:
// without the mount at <root>/fs it keeps the connection exactly as long as anything else needs it.

extension Engine {
    /// Takes the file system out of the tree of directories, where it is needed only to mount images.
    ///
    /// - Returns: whether the kernel has ended it because nothing needs it any more. Otherwise it goes on, and is mounted again
    ///   for the next mount of an image.
    public func release() throws -> Bool {
        try mounting.withLock { _ in
            guard let filesystem = servingFilesystem, filesystem.isRunning else { return true }
            // It was taken out already, and goes on until the kernel says otherwise.
            guard let connection = filesystem.connection, try isMounted(connection) else { return false }
            do throws(SystemError) {
                try Mount.unmount(directory)
            } catch {
                tellHolders(busy: true, connection)
                return false
            }
            if filesystem.waitForEnd(seconds: Self.releasePatience) { return true }
            tellHolders(busy: false, connection)
            return false
        }
    }

    /// How long the threads may take to notice the end of their connection, in seconds.
    private static let releasePatience = 0.5

    /// Mounts the file system again if it was taken out of the tree, by lamina or by hand. Call it under `mounting`.
    ///
    /// - Throws: `DaemonError.noServer` if the kernel has ended it meanwhile: the next server takes over.
    func attachFilesystem() throws {
        guard let filesystem = servingFilesystem, filesystem.isRunning, let connection = filesystem.connection,
            let device = filesystem.device
        else {
            throw DaemonError(.noServer, "the file system \(root)/fs has ended, and this server with it")
        }
        if try isMounted(connection) { return }
        guard try attach(device, connection) else {
            throw StoreError(
                .conflict,
                "the file system \(directory) was unmounted, and is in use elsewhere still: images can be mounted again when that has ended"
            )
        }
        holdersTold.withLock { $0 = false }
    }

    /// Mounts a connection that is already in use once more, which Linux can since 5.15; false if it could not.
    func attach(_ device: File, _ connection: UInt32) throws -> Bool {
        do {
            try FUSESession.mountAgain(device, at: directory, filesystemConfiguration)
        } catch {
            log.warning("the file system cannot be mounted again", metadata: ["error": "\(error)"])
            return false
        }
        if try isMounted(connection) { return true }
        // The device belongs to another connection than the index says.
        try Mount.unmount(directory, detach: true)
        return false
    }

    private var filesystemConfiguration: FUSEConfiguration { FUSEConfiguration() }

    /// Logs once why the server does not end, although nothing is mounted here.
    private func tellHolders(busy: Bool, _ connection: UInt32) {
        guard
            holdersTold.withLock({ told in
                defer { told = true }
                return !told
            })
        else { return }
        let mine = (try? Mount.all()) ?? []
        let found = try? Mount.inAnyNamespace { mount in
            (mount.type == "overlay" && mount.source == ImageMount.source(root: root))
                || (mount.type == "fuse.lamina" && mount.minor == connection)
        }
        var holders = (found ?? []).map { "\($0.user): \($0.mount.directory)" }
        if busy, let own = mine.last(where: { $0.directory == directory }) {
            holders += own.users().map(\.description)
        }
        log.notice(
            "no image is mounted here, but the kernel needs the file system still; the server ends with the last that holds it",
            metadata: [
                "held by": "\(holders.isEmpty ? "nobody that can be seen" : holders.prefix(5).joined(separator: ", "))"
            ])
    }
}
