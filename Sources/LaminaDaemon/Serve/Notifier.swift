import Glibc
import LaminaSystem

/// Tells the service manager the server's state, and gives it descriptors to keep, by datagrams to `NOTIFY_SOCKET`
/// (sd_notify(3)). Without a manager it does nothing. The manager is systemd or `lamina serve --supervise`: both speak the same
/// protocol.
struct Notifier: Sendable {
    private let path: String?
    /// Whether the manager keeps descriptors for the next process.
    let holds: Bool

    init(path: String?, holds: Bool = false) {
        self.path = path.flatMap { $0.hasPrefix("/") || $0.hasPrefix("@") ? $0 : nil }
        self.holds = holds && self.path != nil
    }

    /// From the environment, which is then cleared, so that no child process speaks for this one.
    ///
    /// `FDSTORE` says how many descriptors the manager keeps. systemd sets it since version 254; lamina's unit sets it for
    /// older ones.
    static func fromEnvironment() -> Notifier {
        let path = getenv("NOTIFY_SOCKET").map { String(cString: $0) }
        let room = getenv("FDSTORE").flatMap { Int(String(cString: $0)) } ?? 0
        for name in ["NOTIFY_SOCKET", "FDSTORE"] { unsetenv(name) }
        return Notifier(path: path, holds: room >= HeldDescriptors.Name.allCases.count)
    }

    func ready(_ status: String) { send("READY=1\nSTATUS=\(status)\nMAINPID=\(getpid())") }
    func status(_ status: String) { send("STATUS=\(status)") }
    /// - Returns: false if the manager is gone: then its socket is gone too, and everything that it kept.
    @discardableResult
    func stopping() -> Bool {
        guard let path else { return true }
        do {
            try ServiceProtocol.send("STOPPING=1\nSTATUS=ending", to: path)
            return true
        } catch {
            return error.code != ECONNREFUSED && error.code != ENOENT
        }
    }
    func alive() { send("WATCHDOG=1") }

    /// Gives a descriptor to keep under a name, instead of what was kept under it, and waits until the manager has it.
    ///
    /// - Returns: whether the manager has it.
    func hold(_ file: File, as name: HeldDescriptors.Name) -> Bool {
        guard holds else { return false }
        send("FDSTOREREMOVE=1\nFDNAME=\(name.rawValue)")
        // FDPOLL=0: otherwise systemd would wait for errors on it, and be woken by each request that the kernel queues. A
        // connection that has ended is noticed at the next start.
        send("FDSTORE=1\nFDPOLL=0\nFDNAME=\(name.rawValue)", [file.descriptor])
        return barrier()
    }

    /// Has the manager close what it keeps under a name.
    func release(_ name: HeldDescriptors.Name) {
        if holds { send("FDSTOREREMOVE=1\nFDNAME=\(name.rawValue)") }
    }

    /// Waits until the manager has seen all messages: it then closes what came with BARRIER=1 (sd_notify_barrier(3)).
    func barrier() -> Bool {
        sendBarrier()?.waitForEnd(milliseconds: 5000) ?? false
    }

    /// The reading end of a pipe; only the manager has the writing end when this returns.
    private func sendBarrier() -> File? {
        guard let (reading, writing) = try? BackgroundProcess.makePipe() else { return nil }
        return withExtendedLifetime(writing) { send("BARRIER=1", [writing.descriptor]) } ? reading : nil
    }

    /// Whether it was sent: nothing more can be known.
    @discardableResult
    private func send(_ message: String, _ descriptors: [Int32] = []) -> Bool {
        guard let path else { return false }
        do {
            try ServiceProtocol.send(message, descriptors, to: path)
            return true
        } catch {
            return false
        }
    }
}

/// What the manager gave back at the start: descriptors that a previous process gave it to keep (sd_listen_fds(3)).
struct HeldDescriptors: Sendable {
    /// What lamina gives it to keep. The names are an interface between its versions.
    enum Name: String, CaseIterable, Sendable {
        /// The open `/dev/fuse` of the mount.
        case connection = "lamina-fuse"
        /// The record of what is open through it.
        case record = "lamina-opens"
        /// The listening control socket.
        case control = "lamina-control"
        /// The listening socket for containerd.
        case containerd = "lamina-containerd"
    }

    private(set) var files: [Name: File] = [:]

    static let none = HeldDescriptors()

    /// From `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, which are then cleared. Descriptors with names that are not
    /// lamina's are closed.
    static func fromEnvironment() -> HeldDescriptors {
        func variable(_ name: String) -> String? {
            defer { unsetenv(name) }
            return getenv(name).map { String(cString: $0) }
        }
        let (process, count, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"))
        guard process.flatMap({ Int32($0) }) == getpid(), let count = count.flatMap({ Int32($0) }),
            (1...1024).contains(count)
        else { return .none }
        let list = names?.split(separator: ":", omittingEmptySubsequences: false).map(String.init) ?? []
        var result = HeldDescriptors()
        for index in 0..<Int(count) {
            let descriptor = Int32(3 + index)
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else { continue }
            let text = index < list.count ? list[index] : "unknown"
            let file = File(adopting: descriptor, path: text)
            if let name = Name(rawValue: text) { result.files[name] = file }
        }
        return result
    }

    subscript(_ name: Name) -> File? { files[name] }
}
