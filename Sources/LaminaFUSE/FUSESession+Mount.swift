import Glibc
public import LaminaSystem

// A mount is made before its first request can be read, and ended by ending the connection first.

extension FUSESession {
    /// Read-only; and whatever the layers hold, no device file and no set-user-ID program works in it, because nothing should
    /// run from here. An overlay above it has its own flags.
    static let mountFlags: Mount.Flags = [.readOnly, .noDevices, .noSetUserID, .noAccessTime]

    /// The data of mount(2) for a device (mount.fuse(8), fs/fuse/inode.c).
    public static func mountOptions(for device: File, _ configuration: FUSEConfiguration) -> String {
        // rootmode: the root is a directory. default_permissions: the kernel checks modes, and no ACCESS is sent.
        var options =
            "fd=\(device.descriptor),rootmode=40000,user_id=\(getuid()),group_id=\(getgid()),default_permissions"
        if configuration.allowsOtherUsers { options += ",allow_other" }
        return options
    }

    /// Mounts the file system of a connection that is already in use once more (fuse_get_tree, Linux 5.15).
    public static func mountAgain(
        _ device: File, at directory: String, _ configuration: FUSEConfiguration
    ) throws(SystemError) {
        try Mount.mount(
            type: "fuse.\(configuration.subtype)", source: configuration.source, at: directory, flags: mountFlags,
            data: mountOptions(for: device, configuration))
    }

    func makeMount(at directory: String) throws(FUSEError) -> Mount {
        do {
            try Mount.mount(
                type: "fuse.\(configuration.subtype)", source: configuration.source, at: directory,
                flags: Self.mountFlags, data: Self.mountOptions(for: device, configuration))
        } catch {
            throw FUSEError(.mountFailed, "the file system cannot be mounted", cause: error)
        }
        return try findMount(at: directory)
    }

    /// The topmost mount at `directory`, without looking into it (which would wait for the answer to INIT).
    func findMount(at directory: String) throws(FUSEError) -> Mount {
        let resolved = try Self.resolve(directory)
        do {
            if let mount = try Mount.all().last(where: { $0.directory == resolved }) { return mount }
        } catch {
            throw FUSEError(.mountFailed, "the mount at \(directory) cannot be found", cause: error)
        }
        throw FUSEError(.mountFailed, "nothing is mounted at \(directory)")
    }

    /// The path as mountinfo shows it. Only the parent is resolved: a look at the last component would ask the file system
    /// itself.
    private static func resolve(_ directory: String) throws(FUSEError) -> String {
        let parts = directory.split(separator: "/")
        guard let name = parts.last, name != ".", name != ".." else {
            throw FUSEError(.mountFailed, "\(directory) is no directory to mount at")
        }
        let above = parts.dropLast().joined(separator: "/")
        let parent = directory.hasPrefix("/") ? "/" + above : above.isEmpty ? "." : above
        guard let real = realpath(parent, nil) else {
            throw FUSEError(
                .mountFailed, "the directory above \(directory) cannot be found", cause: .last("resolve", parent))
        }
        defer { free(real) }
        let resolved = String(cString: real)
        return resolved == "/" ? "/\(name)" : "\(resolved)/\(name)"
    }

    /// The kernel takes no more from INIT's reply than it offered (128 KiB); more than that is a setting of the file system's
    /// backing device. If `/sys` is read-only, read-ahead stays short, which only costs time.
    func raiseReadAhead(of mount: Mount) {
        guard configuration.readAhead > Self.offeredReadAhead else { return }
        do {
            try Self.write(
                "\(configuration.readAhead >> 10)", to: "/sys/class/bdi/\(mount.major):\(mount.minor)/read_ahead_kb")
        } catch {
            state.withLock { state in state.readAheadFailure = error }
        }
    }

    /// VM_READAHEAD_PAGES of the kernel, in bytes.
    private static var offeredReadAhead: Int { 128 << 10 }

    /// Why the kernel's read-ahead could not be set; nil if it could.
    public var readAheadFailure: SystemError? { state.withLock { state in state.readAheadFailure } }

    /// Ends the file system: the connection first, then the mount (detached if files are open in it), and waits for the
    /// threads.
    ///
    /// Requests that are in flight or parked fail for their callers with ECONNABORTED, and so do later requests on open files;
    /// passthrough files and mappings stay readable until they are closed. Parked replies may still be answered, without
    /// effect.
    public func stop() throws(FUSEError) {
        let mount: Mount? = state.withLock { state in
            if state.phase == .created { state.phase = .ended }
            return state.phase == .running ? state.mount : nil
        }
        if let mount { try end(mount) }
        if state.wait(seconds: Self.patience, { state in state.phase == .ended ? () : nil }) == nil {
            throw FUSEError(
                .unmountFailed,
                "the FUSE connection \(mount?.minor ?? 0) is still in use, though its mount is gone from this namespace"
            )
        }
        try joinThreads()
    }

    /// How long the threads may take to notice the end of their connection, in seconds.
    private static var patience: Double { 5 }

    private func end(_ mount: Mount) throws(FUSEError) {
        do {
            // The topmost mount there: if another one is above ours, umount2 would take that one.
            let topmost = try Mount.all().last { $0.directory == mount.directory }
            guard let topmost, topmost.major == mount.major, topmost.minor == mount.minor else {
                return abortConnection(mount)
            }
            // Forced: this ends the connection even if the mount still exists in another namespace.
            do {
                try Mount.unmount(mount.directory, force: true)
            } catch  where error.code == EBUSY {
                try Mount.unmount(mount.directory, detach: true)
            }
        } catch {
            throw FUSEError(.unmountFailed, "the FUSE mount cannot be ended", cause: error)
        }
    }

    /// For a mount that cannot be reached by its path. Works if fusectl is mounted; `stop` reports it if the threads do not
    /// end.
    ///
    /// Not if the connection has ended with its mount: another connection may have its number by now.
    private func abortConnection(_ mount: Mount) {
        guard Self.isConnected(device) else { return }
        try? Self.write("1", to: "/sys/fs/fuse/connections/\(mount.minor)/abort")
    }

    /// Sets a value in sysfs.
    private static func write(_ text: String, to path: String) throws(SystemError) {
        let file = try File(path, O_WRONLY)
        let bytes = Array(text.utf8)
        guard Glibc.write(file.descriptor, bytes, bytes.count) == bytes.count else {
            throw SystemError.last("write", path)
        }
    }
}
