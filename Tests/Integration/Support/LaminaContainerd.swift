import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// A containerd of its own with lamina as a proxy plugin, in a sandbox.
final class LaminaContainerd {
    let sandbox: Sandbox
    let lamina: Supervised
    private let containerd: Containerd
    /// Lamina's socket for containerd.
    let address: String
    /// containerd's name for lamina.
    private let snapshotter = "lamina"
    var socket: String { containerd.socket }

    /// What containerd has logged.
    var log: String { containerd.log }

    /// Starts lamina under its supervisor, then containerd.
    ///
    /// - Parameters:
    ///   - laminaConfiguration: lines of TOML.
    ///   - cri: the configuration of containerd's plugin for kubelet; without it the plugin is off.
    ///   - witness: where lamina asks what is in a manifest; without it containerd's own socket.
    init(
        _ sandbox: Sandbox, laminaConfiguration: String = "", cri: String? = nil, witness: String? = nil
    ) throws {
        self.sandbox = sandbox
        // The path of a unix socket has 107 bytes at most.
        address = sandbox.directory + "/l.sock"
        let configuration = sandbox.directory + "/lamina.toml"
        try write(laminaConfiguration.utf8, to: configuration)
        lamina = try sandbox.supervise(
            "--address", address, "--config", configuration, "--set",
            "snapshotter.containerd_address=\(witness ?? Containerd.socket(in: sandbox))")
        containerd = try Containerd(in: sandbox, proxies: [snapshotter: address], cri: cri)
    }

    // MARK: Commands

    /// Runs `ctr` to its end, successful or not.
    @discardableResult
    func ctr(_ arguments: String..., namespace: String = "default", seconds: Double = 120) throws -> Outcome {
        try sandbox.startProgram(["ctr", "-a", socket, "-n", namespace] + arguments).wait(seconds: seconds)
    }

    /// Starts `ctr`.
    func startCtr(_ arguments: [String]) throws -> Child {
        try sandbox.startProgram(["ctr", "-a", socket, "-n", "default"] + arguments)
    }

    /// Pulls an image lazily, as stargz-snapshotter's users do.
    func pullLazily(_ reference: String, namespace: String = "default") throws {
        try startLazyPull(reference, namespace: namespace).wait(seconds: 240).orThrow()
    }

    func startLazyPull(_ reference: String, namespace: String = "default") throws -> Child {
        try sandbox.startProgram([
            "ctr-remote", "-a", socket, "-n", namespace, "images", "rpull", "--plain-http", "--snapshotter",
            snapshotter,
            reference,
        ])
    }

    /// Pulls an image the ordinary way.
    func pull(_ reference: String) throws { try startPull(reference).wait(seconds: 240).orThrow() }

    func startPull(_ reference: String) throws -> Child {
        try startCtr(["images", "pull", "--plain-http", "--snapshotter", snapshotter, reference])
    }

    /// Runs a program in a container of an image, to its end.
    func run(_ reference: String, _ name: String, _ words: [String], seconds: Double = 240) throws -> Outcome {
        try startRun(reference, name, words).wait(seconds: seconds)
    }

    func startRun(_ reference: String, _ name: String, _ words: [String]) throws -> Child {
        try startCtr(["run", "--rm", "--snapshotter", snapshotter, reference, name] + words)
    }

    // MARK: Facts

    /// The digests of the blobs that containerd has downloaded.
    func blobs(namespace: String = "default") throws -> Set<String> {
        Set(
            try ctr("content", "ls", "-q", namespace: namespace).orThrow().output.split(separator: "\n").map(
                String.init))
    }

    /// What `lamina check --containerd` finds.
    func check() throws -> SnapshotCheckReport {
        let outcome = try sandbox.attempt("check", "--containerd", socket, "--snapshotter", snapshotter, "--json")
        guard outcome.exitCode == 0 || outcome.exitCode == 2 else { throw Outcome.Failed(description: "\(outcome)") }
        let report: SnapshotCheckReport = try decoded(outcome.output)
        #expect(outcome.exitCode == (report.differences.isEmpty ? 0 : 2))
        return report
    }

    /// Mounts an image read-only, by `ctr images mount`.
    func mountImage(_ reference: String, at mount: String, namespace: String = "default") throws {
        try images(["mount", reference, mount], namespace: namespace)
    }

    /// Unmounts it, and takes away the snapshot that it was mounted from.
    func unmountImage(_ mount: String, namespace: String = "default") throws {
        try images(["unmount", "--rm", "--snapshotter", snapshotter, mount], namespace: namespace)
    }

    /// By a ctr whose `images mount` knows other snapshotters than overlayfs (`Tests/Containerd/ctr`).
    private func images(_ words: [String], namespace: String) throws {
        let program = try GoProgram.ctr.get()
        try sandbox.startProgram(
            [program, "-a", socket, "-n", namespace, "--snapshotter", snapshotter, "images"] + words
        ).wait(seconds: 120).orThrow()
    }

    /// Removes all images and what is left of containers, and waits until containerd has collected its garbage.
    func removeAll(namespaces: [String] = ["default"]) throws {
        for namespace in namespaces {
            let images = try ctr("images", "ls", "-q", namespace: namespace).orThrow().output.split(separator: "\n")
            for image in images {
                try ctr("images", "rm", "--sync", String(image), namespace: namespace).orThrow()
            }
        }
    }

    /// Removes the tasks, containers and writable snapshots that failed clients have left, and waits until containerd has
    /// collected its garbage. By itself containerd spends 2 % of its time on that: after a collection of two seconds, as with a
    /// server that was killed during it, the next one is minutes away, and only then does a snapshotter hear of a removal.
    func removeContainers() throws {
        func lines(_ words: String...) throws -> [String] {
            try startCtr(words).wait().orThrow().output.split(separator: "\n").map(String.init)
        }
        for task in try lines("tasks", "ls", "-q") { try ctr("tasks", "rm", "-f", task).orThrow() }
        for container in try lines("containers", "ls", "-q") { try ctr("containers", "rm", container).orThrow() }
        // A key may contain spaces: it ends where the heading of the next column begins.
        let listing = try lines("snapshots", "--snapshotter", snapshotter, "ls")
        guard let heading = listing.first, let parent = heading.firstRange(of: "PARENT") else {
            throw Outcome.Failed(description: "a list of snapshots without a heading: \(listing)")
        }
        let width = heading.distance(from: heading.startIndex, to: parent.lowerBound)
        for line in listing.dropFirst() where line.split(separator: " ").last == "Active" {
            var key = line.prefix(width)
            while key.last == " " { key.removeLast() }
            try ctr("snapshots", "--snapshotter", snapshotter, "rm", String(key)).orThrow()
        }
        let lease = try lines("leases", "create").first ?? ""
        try ctr("leases", "rm", "--sync", lease).orThrow()
    }

    /// Kills containerd and starts it again.
    func killContainerd() throws { try containerd.kill() }

    /// The end: containerd first, then what its shims left.
    func stop() { containerd.stop() }
}
