import Glibc
import LaminaStore
import LaminaSystem

/// Compares the snapshots of the index with their directories and with what is mounted.
struct SnapshotPlaces {
    private let root: String
    private let index: Index
    private let records: [SnapshotRecord]
    private let ids: Set<SnapshotID>
    private let mounts: [Mount]
    /// The mount of lamina's own file system.
    private let own: [Mount]
    /// Where the store is within its file system, as the kernel names the root of a bind mount.
    private let inner: (path: String, major: UInt32, minor: UInt32)?
    private(set) var differences: [SnapshotDifference] = []
    /// Mounts that are made of snapshots.
    private(set) var mountCount = 0

    /// Looks once.
    ///
    /// - Parameter isServed: whether a server answers; only then can the views of layers be looked at.
    init(root: String, index: Index, records: [SnapshotRecord], mounts: [Mount], isServed: Bool) throws {
        self.root = root
        self.index = index
        self.records = records
        self.mounts = mounts
        ids = Set(records.map(\.id))
        own = mounts.filter { $0.directory == root + "/fs" && $0.type == "fuse.lamina" }
        inner = Self.place(of: root, in: mounts)
        lookAtDirectories(isServed)
        lookAtStrays()
        try lookAtMounts()
    }

    // MARK: Directories

    private mutating func lookAtDirectories(_ isServed: Bool) {
        let hasLayers = records.contains { $0.view != nil }
        if own.count > 1 || hasLayers && own.isEmpty {
            differences.append(
                SnapshotDifference(
                    .mount, name: root + "/fs",
                    reason: own.isEmpty
                        ? "the file system that layers are in is not mounted: start 'lamina serve'"
                        : "the file system is mounted \(own.count) times"))
        } else if hasLayers, !isServed {
            differences.append(
                SnapshotDifference(
                    .mount, name: root + "/fs", reason: "no server answers for the file system: start 'lamina serve'"))
        }
        for record in records {
            guard let view = record.view else {
                expectDirectory("\(root)/snapshots/\(record.id)/fs", of: record)
                if record.kind == .active { expectDirectory("\(root)/snapshots/\(record.id)/work", of: record) }
                continue
            }
            if isServed, own.count == 1 { expectDirectory("\(root)/fs/\(view)", of: record) }
        }
    }

    private mutating func expectDirectory(_ path: String, of record: SnapshotRecord) {
        var status = stat()
        let problem: String? =
            if lstat(path, &status) != 0 {
                String(cString: strerror(errno))
            } else {
                status.st_mode & S_IFMT == S_IFDIR ? nil : "it is no directory"
            }
        guard let problem else { return }
        differences.append(
            SnapshotDifference(.directory, name: path, reason: "the snapshot \(record.key) has it: \(problem)"))
    }

    /// Directories that belong to no snapshot.
    private mutating func lookAtStrays() {
        // Without a snapshot there is no such directory.
        for name in (try? File.names(inDirectory: root + "/snapshots")) ?? []
        where !(Int64(name).map { ids.contains(SnapshotID($0)) } ?? false) {
            differences.append(
                SnapshotDifference(
                    .directory, name: "\(root)/snapshots/\(name)",
                    reason: "no snapshot has it"))
        }
    }

    // MARK: Mounts

    private mutating func lookAtMounts() throws {
        for mount in mounts where !own.contains(mount) {
            let used = places(of: mount)
            guard !used.isEmpty else { continue }
            mountCount += 1
            for place in used {
                let isThere =
                    switch place {
                    case .directory(let id): ids.contains(id)
                    case .layer(let view): try index.owner(of: view) != nil
                    }
                guard !isThere else { continue }
                let path =
                    switch place {
                    case .directory(let id): "snapshots/\(id)"
                    case .layer(let view): "fs/\(view)"
                    }
                differences.append(
                    SnapshotDifference(
                        .mount, name: mount.directory,
                        reason: "it is made of \(root)/\(path), which is no snapshot any more"))
                break
            }
        }
    }

    /// Which parts of the store a mount is made of. For an overlay with relative paths, which containerd uses if there are many
    /// layers, only the directory that takes the writes is known.
    private func places(of mount: Mount) -> [SnapshotPlace] {
        if mount.type == "overlay" {
            return mount.filesystemOptions.split(separator: ",").flatMap { option -> [SnapshotPlace] in
                let parts = option.split(separator: "=", maxSplits: 1)
                guard parts.count == 2, ["lowerdir", "lowerdir+", "upperdir"].contains(parts[0]) else { return [] }
                return parts[1].split(separator: ":").compactMap { place(atPath: String($0)) }
            }
        }
        // A bind mount of a view, or of a snapshot's directory.
        if let own = own.first, (mount.major, mount.minor) == (own.major, own.minor) {
            return number(after: "/", in: mount.root).map { [.layer(ViewID($0))] } ?? []
        }
        guard let inner, (mount.major, mount.minor) == (inner.major, inner.minor) else { return [] }
        return number(after: inner.path + "/snapshots/", in: mount.root).map { [.directory(SnapshotID($0))] } ?? []
    }

    private func place(atPath path: String) -> SnapshotPlace? {
        if let id = number(after: root + "/snapshots/", in: path) { return .directory(SnapshotID(id)) }
        return number(after: root + "/fs/", in: path).map { .layer(ViewID($0)) }
    }

    /// The number in the name of a directory of the store; also of one that is being removed, `removed-NUMBER-TIME`.
    private func number(after prefix: String, in path: String) -> Int64? {
        guard path.hasPrefix(prefix) else { return nil }
        let name = path.dropFirst(prefix.count).prefix { $0 != "/" }
        guard name.hasPrefix(SnapshotDirectories.removed) else { return Int64(name) }
        return Int64(name.dropFirst(SnapshotDirectories.removed.count).prefix { $0 != "-" })
    }

    private static func place(of root: String, in mounts: [Mount]) -> (path: String, major: UInt32, minor: UInt32)? {
        let holding = mounts.filter {
            root == $0.directory || root.hasPrefix($0.directory == "/" ? "/" : $0.directory + "/")
        }
        // If several are at one directory, the last is on top.
        guard
            let mount = holding.enumerated().max(by: {
                ($0.element.directory.utf8.count, $0.offset) < ($1.element.directory.utf8.count, $1.offset)
            })?.element
        else { return nil }
        let below = mount.directory == "/" ? root[...] : root.dropFirst(mount.directory.count)
        return ((mount.root == "/" ? "" : mount.root) + below, mount.major, mount.minor)
    }
}
