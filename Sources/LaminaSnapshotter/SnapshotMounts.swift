import LaminaStore

/// The mounts of a snapshot, in the form of containerd's own overlayfs snapshotter.
enum SnapshotMounts {
    /// - Parameter sealed: the value of `lowerdir` for the sealed chain that stands for all parents.
    static func make(_ chain: SnapshotChain, root: String, sealed: String? = nil) -> [SnapshotMount] {
        func path(_ place: SnapshotPlace) -> String {
            switch place {
            case .directory(let id): "\(root)/snapshots/\(id)/fs"
            case .layer(let view): "\(root)/fs/\(view)"
            }
        }
        let own = "\(root)/snapshots/\(chain.id)"
        // If an image has a layer twice, only the upper one is listed: it adds and hides what the lower one did, and overlayfs
        // refuses one directory at two places (ELOOP).
        var seen: Set<SnapshotPlace> = []
        let lower = sealed.map { [$0] } ?? chain.parents.filter { seen.insert($0).inserted }.map(path)
        guard let nearest = lower.first else {
            return [bind(own + "/fs", chain.kind == .view ? "ro" : "rw")]
        }
        let directories = "lowerdir=" + lower.joined(separator: ":")
        if chain.kind == .view {
            // overlayfs wants two lower directories where there is no upper one; the contents of a sealed chain count as one.
            if lower.count == 1, sealed?.contains("::") != true {
                // A lazy layer has its whiteouts as devices, also where nothing is below it: overlayfs hides them.
                guard case .layer? = chain.parents.first else { return [bind(nearest, "ro")] }
                return [
                    SnapshotMount(
                        type: "overlay", source: "overlay", options: ["index=off", directories + ":\(root)/empty"])
                ]
            }
            return [SnapshotMount(type: "overlay", source: "overlay", options: ["index=off", directories])]
        }
        return [
            SnapshotMount(
                type: "overlay", source: "overlay",
                options: ["index=off", "workdir=\(own)/work", "upperdir=\(own)/fs", directories])
        ]
    }

    private static func bind(_ source: String, _ access: String) -> SnapshotMount {
        SnapshotMount(type: "bind", source: source, options: [access, "rbind"])
    }
}
