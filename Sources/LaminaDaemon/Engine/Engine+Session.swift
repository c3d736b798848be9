import Glibc
import LaminaFUSE
import LaminaFilesystem
import LaminaStore
import LaminaSystem
import Logging
import Synchronization

// How the mount goes from one process to the next: its connection and the record of its opens are held outside, and the
// kernel's first message is in the index.

extension Engine {
    var directory: String { root + "/fs" }

    /// Goes on with the mount of a dead process; nil if there is none.
    ///
    /// - Throws: the reason for a refusal; nothing was changed then.
    func takeOver(_ held: HeldDescriptors) throws -> LayerFilesystem? {
        guard let device = held[.connection] else { return nil }
        guard FUSESession.isConnected(device), let row = try store.session(), let file = held[.record],
            try isMounted(row.connection) || attach(device, row.connection)
        else {
            log.error("the held connection leads to no mount of this store any more; the file system is mounted afresh")
            return nil
        }
        let record: SessionRecord
        do throws(SystemError) {
            record = try SessionRecord(adopting: file)
        } catch {
            throw DaemonError(
                .configuration,
                "the mounts of \(root) belong to another version of lamina: start that one, or unmount them",
                cause: error)
        }
        let started = monotonicSeconds()
        let filesystem = try makeFilesystem(record)
        let found = try filesystem.resume(
            HeldSession(device: device, initRequest: row.initRequest, hasPassthrough: row.hasPassthrough),
            // Not a file of the database: closing one of its descriptors would end SQLite's locks (sqlite.org/howtocorrupt).
            probe: try File(root + "/lock", O_RDONLY))
        report(found, seconds: monotonicSeconds() - started)
        return filesystem
    }

    func isMounted(_ connection: UInt32) throws(SystemError) -> Bool {
        let topmost = try Mount.all().last { $0.directory == directory }
        return topmost?.type == "fuse.lamina" && topmost?.major == 0 && topmost?.minor == connection
    }

    private func report(_ found: TakeOver, seconds: Double) {
        var fields: Logger.Metadata = [
            "opens": "\(found.opens)", "backing files": "\(found.backingFiles)",
            "milliseconds": "\(Self.milliseconds(seconds))",
        ]
        if found.orphans > 0 { fields["orphans"] = "\(found.orphans)" }
        var times = TakeoverTimes(seconds: seconds)
        // The supervisor tells when it noticed the death of the previous process.
        if let text = getenv("LAMINA_PREDECESSOR_ENDED"), let ended = Double(String(cString: text)) {
            let gap = monotonicSeconds() - ended
            times.secondsSinceEnd = gap
            fields["since its end"] = "\(Self.milliseconds(gap)) ms"
            unsetenv("LAMINA_PREDECESSOR_ENDED")
        }
        takeover.withLock { [times] in $0 = times }
        log.notice("the mounts go on where another process left them", metadata: fields)
        if !found.canResend {
            log.warning("this kernel does not send requests again (it takes Linux 6.9): those in flight failed")
        }
    }

    private static func milliseconds(_ seconds: Double) -> String {
        let tenths = Int((seconds * 10_000).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }

    /// Mounts the file system, and has the service manager keep what the next process needs.
    func mountAfresh(_ notifier: Notifier, _ held: HeldDescriptors) throws -> LayerFilesystem {
        try clearStaleMount(at: directory)
        let filesystem = try makeFilesystem(nil)
        let session = try filesystem.start()
        do {
            guard let mount = try Mount.all().last(where: { $0.directory == directory }) else {
                throw StoreError(.conflict, "the mount at \(directory) is gone again")
            }
            // Before anything is mounted above it, so that no program can be affected.
            try store.setSession(
                SessionRow(
                    connection: mount.minor, initRequest: session.initRequest, hasPassthrough: session.hasPassthrough))
        } catch {
            try? filesystem.stop()
            throw error
        }
        if notifier.holds {
            let isHeld =
                notifier.hold(filesystem.record.file, as: .record)
                && notifier.hold(session.device, as: .connection)
            if !isHeld { log.error("the service manager does not keep the mount: it ends with this process") }
        }
        return filesystem
    }

    /// Ends the file system, and with it what is kept for a next process.
    func end(_ filesystem: LayerFilesystem, _ notifier: Notifier) {
        do {
            try filesystem.stop()
            try store.removeSession()
        } catch {
            log.error("the file system did not end cleanly", metadata: ["error": "\(error)"])
        }
        for name in HeldDescriptors.Name.allCases { notifier.release(name) }
    }

    /// The images that are mounted above a file system that goes on. An image that was unmounted meanwhile is forgotten.
    func adoptMounts() throws {
        let mounts = try activeMounts()
        log.info("images stay mounted", metadata: ["count": "\(mounts.count)"])
    }
}
