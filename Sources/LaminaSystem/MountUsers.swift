import Glibc

// Finds what keeps a mount from going away. It reads all of it from /proc, which asks no file system anything: the caller may
// be the process that answers for the mount.

/// A process that has to do with a mount.
public struct MountUser: Sendable, Equatable, CustomStringConvertible {
    public var process: Int32
    /// Its command line, as `ps` shows it.
    public var command: String

    public var description: String { "process \(process) (\(command))" }

    /// nil if it has ended, or has no command line: a thread of the kernel.
    init?(process: Int32, proc: String = "/proc") {
        guard let bytes = try? readFile("\(proc)/\(process)/cmdline") else { return nil }
        let words = bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        guard !words.isEmpty else { return nil }
        self.process = process
        command = String(words.joined(separator: " ").prefix(Self.commandLimit))
    }

    /// How many characters of a command line: enough to recognize it.
    private static var commandLimit: Int { 60 }

    /// The numbers of all processes.
    static func all(in proc: String = "/proc") throws(SystemError) -> [Int32] {
        try File.names(inDirectory: proc).compactMap { Int32($0) }.sorted()
    }

    /// The mount namespace of a process, as a name that is equal for equal namespaces; nil if it may not be seen.
    static func namespace(of process: String, in proc: String = "/proc") -> String? {
        File.linkTarget(of: "\(proc)/\(process)/ns/mnt")
    }
}

extension Mount {
    /// The processes of this mount namespace that keep the mount busy: by an open file, by the program that they run, or by
    /// their directory. (A mapping of an overlay's file is one of the file below, and keeps no overlay busy.)
    public func users() -> [MountUser] {
        let own = MountUser.namespace(of: "self")
        return ((try? MountUser.all()) ?? []).filter { process in
            MountUser.namespace(of: "\(process)") == own && isUsed(by: process)
        }.compactMap { MountUser(process: $0) }
    }

    private func isUsed(by process: Int32) -> Bool {
        let place = "/proc/\(process)"
        if ["cwd", "root", "exe"].contains(where: { holds(File.linkTarget(of: "\(place)/\($0)")) }) { return true }
        let descriptors = (try? File.names(inDirectory: "\(place)/fd")) ?? []
        return descriptors.contains { holds(File.linkTarget(of: "\(place)/fd/\($0)")) }
    }

    private func holds(_ path: String?) -> Bool {
        path.map { $0 == directory || $0.hasPrefix(directory + "/") } ?? false
    }

    /// The mounts for which `condition` holds, in every mount namespace including this one, each with a process that is in it.
    ///
    /// A namespace without a process, and a mount without a namespace, are not found. One table is read for each namespace.
    ///
    /// - Throws: where the processes cannot be listed, or a table of mounts cannot be read although its process is there: what was not
    ///   looked at may have any mount.
    public static func inAnyNamespace(
        proc: String = "/proc", where condition: (Mount) -> Bool
    ) throws(SystemError) -> [(user: MountUser, mount: Mount)] {
        var seen: Set<String> = []
        var found: [(user: MountUser, mount: Mount)] = []
        for process in try MountUser.all(in: proc) {
            guard let namespace = MountUser.namespace(of: "\(process)", in: proc), !seen.contains(namespace),
                let bytes = try table(of: process, in: proc)
            else { continue }
            let mounts = parse(bytes)
            let wanted = mounts.filter(condition)
            if wanted.isEmpty {
                // For a process in a chroot only what it can reach is listed: then another process is asked.
                let isWhole = !mounts.isEmpty && File.linkTarget(of: "\(proc)/\(process)/root") == "/"
                if isWhole { seen.insert(namespace) }
            } else if let user = MountUser(process: process, proc: proc) {
                seen.insert(namespace)
                for mount in wanted { found.append((user, mount)) }
            }
        }
        return found
    }

    /// The table of mounts of a process; nil for one that has ended, or that this user may not look at.
    private static func table(of process: Int32, in proc: String) throws(SystemError) -> [UInt8]? {
        do {
            return try readFile("\(proc)/\(process)/mountinfo", limit: 64 << 20)
        } catch {
            if [ENOENT, ESRCH, EINVAL, EACCES, EPERM].contains(error.code) { return nil }
            throw error
        }
    }

    /// The mount that a path leads into: if several are above each other, the topmost one; another one if something that is
    /// mounted further up hides it.
    ///
    /// - Parameter mounts: the result of `all`.
    public static func reached(by path: String, among mounts: [Mount]) -> Mount? {
        guard let place = try? File.place(path),
            let bytes = try? readFile("/proc/self/fdinfo/\(place.descriptor)")
        else { return nil }
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            let fields = line.split { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: " ") }
            guard fields.count == 2, fields[0].elementsEqual("mnt_id".utf8) else { continue }
            let id = Int32(String(decoding: fields[1], as: UTF8.self))
            return mounts.first { $0.id == id }
        }
        return nil
    }
}
