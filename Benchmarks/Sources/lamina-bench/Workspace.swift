import Foundation

/// Where everything of the benchmark is: inputs, which stay, and what a run makes, which does not stay.
struct Workspace {
    let root: String
    let lamina: String

    var inputs: String { root + "/inputs" }
    var run: String { root + "/run" }
    /// The registry's directory, filled with links to the inputs.
    var registry: String { root + "/run/registry" }

    init(root: String, lamina: String) throws {
        self.root = root
        self.lamina = lamina
        try makeDirectory(inputs)
        // One run at a time. The descriptor stays open as long as this process.
        let lock = open(root + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0, flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            throw Failure("another benchmark runs in \(root)")
        }
        Cleanup.sweep(run)
        try removeTree(run)
        try makeDirectory(run)
        Cleanup.hold(directory: run)
    }

    /// A new directory of this run. What was there is put aside until the end: for minutes after files are deleted, ext4 passes
    /// over their inodes one by one when it needs new ones, and a measurement would pay for that.
    func fresh(_ name: String) throws -> String {
        let path = run + "/" + name
        try putAside(path)
        try makeDirectory(path)
        return path
    }

    /// Moves a tree away as `fresh` does; the space of its large files is given back.
    func putAside(_ path: String) throws {
        guard access(path, F_OK) == 0 else { return }
        try makeDirectory(run + "/aside")
        let place = run + "/aside/" + UUID().uuidString
        guard rename(path, place) == 0 else { throw Failure.system(path) }
        let large = ["-xdev", "-type", "f", "-size", "+1M"]
        try lamina_bench.run(["find", place] + large + ["-exec", "truncate", "-s", "0", "{}", "+"])
    }
}

func makeDirectory(_ path: String) throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
}

/// Removes a tree of this benchmark, never into a mount.
func removeTree(_ path: String) throws {
    guard access(path, F_OK) == 0 else { return }
    try lamina_bench.run("rm", "-rf", "--one-file-system", path)
}

/// How many bytes a file has.
func fileSize(_ path: String) -> Int {
    var status = stat()
    return stat(path, &status) == 0 ? Int(status.st_size) : 0
}

/// What the kernel keeps and could read again: 1 is pages, 2 names and inodes, 3 both.
func dropCaches(_ what: Int) throws {
    sync()
    let file = open("/proc/sys/vm/drop_caches", O_WRONLY)
    guard file >= 0, write(file, "\(what)\n", 2) == 2 else { throw Failure.system("/proc/sys/vm/drop_caches") }
    close(file)
}
