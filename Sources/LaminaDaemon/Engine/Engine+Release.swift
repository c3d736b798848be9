import Glibc
import LaminaFUSE
import LaminaFilesystem
import LaminaStore
import LaminaSystem
import Logging
import Synchronization

// When nothing is mounted any more. The table of mounts tells of this mount namespace only: what was mounted may live on in another one,
// by a bind mount, below a root that was pivoted. The kernel knows, and there is one way to ask it: without the mount at
// <root>/fs it keeps the connection for as long as anything else needs it, and not a moment longer.

extension Engine {
    /// Takes the file system out of the tree of directories, where it is there for those who mount.
    ///
    /// - Returns: whether the kernel has ended it, as nobody needs it any more. Otherwise it goes on, and is mounted again for the next
    ///   one who mounts an image.
    public func release() throws -> Bool {
        try mounting.withLock { _ in
            guard let filesystem = servingFilesystem, filesystem.isRunning else { return true }
            // Taken out already, it goes on until the kernel says otherwise.
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

    /// How long the threads may take to see the end of their connection, in seconds.
    private static let releasePatience = 0.5

    /// Mounts the file system again where it was taken out of the tree, or somebody did so by hand. Under `mounting`.
    ///
    /// - Throws: `DaemonError.noServer` when the kernel has ended it meanwhile: the next server takes over.
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

    /// Mounts a connection that is in use already, which Linux can since 5.15; false where it could not.
    func attach(_ device: File, _ connection: UInt32) throws -> Bool {
        do {
            try FUSESession.mountAgain(device, at: directory, filesystemConfiguration)
        } catch {
            log.warning("the file system cannot be mounted again", metadata: ["error": "\(error)"])
            return false
        }
        if try isMounted(connection) { return true }
        // The device was of another connection than the index says.
        try Mount.unmount(directory, detach: true)
        return false
    }

    private var filesystemConfiguration: FUSEConfiguration { FUSEConfiguration() }

    /// Says once why the server does not end, though nothing is mounted here.
    private func tellHolders(busy: Bool, _ connection: UInt32) {
        guard
            holdersTold.withLock({ told in
                defer { told = true }
                return !told
            })
        else { return }
        let mine = (try? Mount.all()) ?? []
        var holders = Mount.inAnyNamespace { mount in
            (mount.type == "overlay" && mount.source == ImageMount.source(root: root))
                || (mount.type == "fuse.lamina" && mount.minor == connection)
        }.map { "\($0.user): \($0.mount.directory)" }
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
