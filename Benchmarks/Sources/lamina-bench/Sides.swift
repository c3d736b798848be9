import Foundation

/// The same files on the disk, in lamina and in other file systems' images, mounted for as long as this lives.
final class Sides {
    private(set) var all: [Side] = []
    private var mounts: [String] = []
    private let bench: Bench

    /// - Parameter server: serves an image of the directory `name` of the inputs.
    init(_ bench: Bench, of name: String, server: Server) throws {
        self.bench = bench
        let files = "\(bench.space.inputs)/\(name)"
        all = [
            Side(name: "ext4", path: files), Side(name: "lamina", path: server.view),
            Side(name: "lamina-overlay", path: server.mount),
        ]
        let empty = try bench.space.fresh("empty-lower")
        try add("ext4-overlay", ["-t", "overlay", "overlay", "-o", "lowerdir=\(files):\(empty)"])
        // Those do not change from day to day.
        if bench.options.quick { return }
        for kind in Filesystem.allCases {
            guard let image = try bench.inputs.filesystem(kind, of: name) else {
                bench.absent("\(kind.rawValue): \(kind.tool) is not installed")
                continue
            }
            do {
                try add(kind.rawValue, ["-t", kind.rawValue, "-o", "loop,ro", image])
            } catch {
                bench.absent("\(kind.rawValue): \(error)")
            }
        }
    }

    /// Adds the backing file of a merged file, by the path that the file has in the other sides: the same pages, without
    /// lamina.
    func addBacking(of file: String, store: String, size: Int) throws {
        let found = try run(["find", store + "/content", "-type", "f", "-size", "\(size)c"]).output
        guard let backing = found.split(separator: "\n").first else { throw Failure("no backing file of \(file)") }
        let target = try bench.space.fresh("side-" + Side.backing)
        try run("mkdir", "-p", (target + file as NSString).deletingLastPathComponent)
        try run("ln", "-s", String(backing), target + file)
        all.append(Side(name: Side.backing, path: target))
    }

    private func add(_ name: String, _ options: [String]) throws {
        let target = try bench.space.fresh("side-" + name)
        try run(["mount"] + options + [target])
        Cleanup.hold(mount: target)
        mounts.append(target)
        all.append(Side(name: name, path: target))
    }

    func end() {
        for mount in mounts.reversed() {
            if umount2(mount, 0) != 0 { umount2(mount, Int32(MNT_DETACH)) }
            Cleanup.release(mount: mount)
        }
        mounts = []
    }
}

extension Bench {
    func absent(_ what: String) {
        if !absences.contains(what) { absences.append(what) }
    }

    /// Adds how long a pass of all sides took: each side's own value, and lamina's compared with the disk's, and with the same
    /// pages if they are a side.
    ///
    /// - Parameters:
    ///   - seconds: by side.
    ///   - value: turns seconds into what the figure shows.
    ///   - isRate: whether the ratio is one of speeds (more is better) or of times.
    func add(_ id: String, _ seconds: [String: Double], isRate: Bool, value: (Double) -> Double) {
        for (side, time) in seconds { add("\(id).\(side)", value(time)) }
        func compare(_ name: String, _ side: String, _ reference: String) {
            guard let ours = seconds[side], let theirs = seconds[reference] else { return }
            add(name, isRate ? theirs / ours : ours / theirs)
        }
        compare(id, "lamina", "ext4")
        compare(id + ".pages", "lamina", Side.backing)
        compare(id + ".overlaid", "lamina-overlay", "ext4-overlay")
    }
}
