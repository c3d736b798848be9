import Glibc
import LaminaPodman
import LaminaStore
import LaminaSystem

/// `lamina setup podman`: has podman, buildah, skopeo and CRI-O see the images of the store; or takes that back.
public struct SetupPodmanCommand: Sendable {
    public var undoes: Bool
    /// Says what would be changed, and changes nothing.
    public var dryRun: Bool
    /// The directory of the image store; by default `podman` in the store.
    public var images: String?
    /// podman's file, which is changed or made.
    public var storageFile: String
    /// lamina's own, which is made.
    public var settingsFile: String

    public init(
        undoes: Bool, dryRun: Bool, images: String? = nil, storageFile: String? = nil, settingsFile: String? = nil
    ) {
        self.undoes = undoes
        self.dryRun = dryRun
        self.images = images
        self.storageFile = storageFile ?? StorageConfiguration.places[0]
        self.settingsFile = settingsFile ?? Configuration.defaultDirectory + "/conf.d/podman.toml"
    }

    /// What was done, or would be.
    public struct Report: Sendable, Codable, Equatable {
        public var images: String
        public var changes: [String]
        public var next: [String]
    }

    public func run(_ context: CommandContext) throws {
        if !dryRun { try context.requireRoot(for: undoes ? "undoing the set-up" : "setting up podman") }
        let directory = absolutePath(images ?? context.configuration.podman.images ?? context.root + "/podman")
        let report = undoes ? try undo(directory, context) : try set(directory, context)
        try context.output.show(report) {
            let did = report.changes.isEmpty ? ["nothing is to be changed"] : report.changes
            return (did + report.next.map { "→ \($0)" }).joined(separator: "\n")
        }
    }

    private func set(_ directory: String, _ context: CommandContext) throws -> Report {
        var report = Report(images: directory, changes: [], next: [])
        // Where podman reads its own copy of what the distribution brings, that is the beginning.
        let old = try text(storageFile)
        var start = old
        for path in StorageConfiguration.places.dropFirst() where start == nil { start = try text(path) }
        let new = try changing { try StorageConfiguration.adding(directory, to: start, path: storageFile) }
        // First what podman would fail without.
        if context.configuration.podman.images != directory {
            let settings =
                "# Made by 'lamina setup podman'; 'lamina setup podman --undo' takes it away.\n[podman]\nimages = "
                + "\(ConfigurationValue.quoted(directory))\n"
            try write(settings, settingsFile, "[podman] images = \"\(directory)\"", &report)
        }
        if access(directory + "/lamina-image-store", F_OK) != 0 {
            report.changes.append("\(directory): made")
            if !dryRun {
                try StoreDirectory.prepare(context.root)
                do { try PodmanImageStore.prepare(directory) } catch let error as PodmanError {
                    throw DaemonError(.configuration, "\(error)")
                }
            }
        }
        if let new { try write(new, storageFile, "additionalimagestores has \(directory)", &report) }
        report.next = report.changes.isEmpty ? [] : ["restart the server, as by 'systemctl restart lamina'"]
        report.next.append(
            "'lamina doctor podman' looks whether all of it fits; 'lamina pull IMAGE', then 'podman run IMAGE'")
        return report
    }

    private func undo(_ directory: String, _ context: CommandContext) throws -> Report {
        var report = Report(images: directory, changes: [], next: [])
        if let old = try text(storageFile),
            let new = try changing({ try StorageConfiguration.removing(directory, from: old, path: storageFile) })
        {
            if new.isEmpty {
                report.changes.append("\(storageFile): removed")
                if !dryRun, unlink(storageFile) != 0 { throw SystemError.last("remove", storageFile) }
            } else {
                try write(new, storageFile, "additionalimagestores has \(directory) no more", &report)
            }
        }
        if try text(settingsFile) != nil {
            report.changes.append("\(settingsFile): removed")
            if !dryRun, unlink(settingsFile) != 0 { throw SystemError.last("remove", settingsFile) }
        }
        if !report.changes.isEmpty {
            report.next = [
                "restart the server; containers of lamina's images do not start any more: 'podman pull' their images, or set it up again",
                "\(directory) stays: it is made of the store, and can be removed",
            ]
        }
        return report
    }

    private func changing(_ body: () throws -> String?) throws -> String? {
        do { return try body() } catch let error as PodmanError { throw DaemonError(.configuration, "\(error)") }
    }

    private func text(_ path: String) throws -> String? {
        do throws(SystemError) {
            return String(decoding: try readFile(path, limit: 1 << 20), as: UTF8.self)
        } catch {
            if error.code == ENOENT { return nil }
            throw error
        }
    }

    private func write(_ text: String, _ path: String, _ what: String, _ report: inout Report) throws {
        report.changes.append("\(path): \(what)")
        if dryRun { return }
        try createDirectories(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
        try replaceFile(path, with: Array(text.utf8), mode: 0o644)
    }
}
