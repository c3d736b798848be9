import Foundation

/// A store with its server and one mounted image.
final class Server {
    let root: String
    /// Where the image is mounted: an overlay of its one layer.
    let mount: String
    /// The layer's own directory in lamina's file system, below the overlay.
    var view: String { root + "/fs/" + layerName }

    private let space: Workspace
    private let reference: String
    private(set) var process: Child
    private var layerName = ""

    /// Starts a server for a store (which may be empty) and mounts an image.
    init(_ space: Workspace, store: String, reference: String) throws {
        self.space = space
        self.reference = reference
        root = store
        mount = try space.fresh("mnt-" + (store as NSString).lastPathComponent)
        process = try Self.serve(space, store)
        do {
            try run(space.lamina, "mount", "--root", store, reference, mount)
        } catch {
            process.end()
            throw error
        }
        Cleanup.hold(mount: root + "/fs")
        Cleanup.hold(mount: mount)
        layerName =
            try FileManager.default.contentsOfDirectory(atPath: root + "/fs").filter { Int($0) != nil }.sorted().last
            ?? ""
    }

    /// Starts the server and waits until it listens.
    private static func serve(_ space: Workspace, _ store: String) throws -> Child {
        let process = try Child(
            [space.lamina, "serve", "--root", store],
            output: "\(space.run)/serve-\((store as NSString).lastPathComponent).log")
        for _ in 0..<20_000 {
            if access(store + "/control.sock", F_OK) == 0, Self.isMounted(store + "/fs") { return process }
            usleep(1000)
        }
        process.end()
        throw Failure("lamina serve does not become ready for \(store)")
    }

    private static func isMounted(_ path: String) -> Bool {
        let table = (try? String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)) ?? ""
        return table.contains(" \(path) ")
    }

    /// How much the server used since a moment.
    func used(since cpu: Double) -> Double { process.cpu - cpu }

    /// Waits until it has nothing to do: background work that a read started counts too.
    func settle() {
        var last = process.cpu
        for _ in 0..<100 {
            usleep(100_000)
            let current = process.cpu
            if current - last < 0.001 { return }
            last = current
        }
    }

    /// Ends the server in order and starts it again, which mounts the image again.
    ///
    /// - Parameter path: below the mount, and never looked up: the kernel cannot answer for the server.
    /// - Returns: seconds from the start of the new process until `path` was looked up.
    func restart(untilFound path: String) throws -> Double {
        process.end()
        let wanted = mount + "/" + path
        var status = stat()
        let begin = now()
        process = try Child(
            [space.lamina, "serve", "--root", root], output: "\(space.run)/serve-again.log")
        while lstat(wanted, &status) != 0 {
            guard now() - begin < 60 else { throw Failure("\(wanted) does not come back") }
            usleep(200)
        }
        let seconds = now() - begin
        // It answers look-ups before it listens to signals.
        for _ in 0..<200 where access(root + "/control.sock", F_OK) != 0 { usleep(10_000) }
        usleep(300_000)
        return seconds
    }

    /// Unmounts, and ends the server.
    func end() {
        _ = try? run(space.lamina, "umount", "--root", root, mount)
        process.end()
        umount2(mount, Int32(MNT_DETACH))
        umount2(root + "/fs", Int32(MNT_DETACH))
        Cleanup.release(mount: mount)
        Cleanup.release(mount: root + "/fs")
    }
}
