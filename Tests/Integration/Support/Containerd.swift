import Glibc
import LaminaSystem
import Testing

/// A containerd with its own root, state and socket in a sandbox, and with nothing of the machine's: it unpacks images in the
/// ordinary way, and runs them. It ends with its sandbox.
struct Containerd {
    /// What its tests need, with Debian's packages.
    static var isInstalled: ConditionTrait {
        Requirements.tools("containerd", "ctr:containerd", "runc", "ctr-remote:stargz-snapshotter", "go:golang-go")
    }

    let socket: String
    private let sandbox: Sandbox
    private let running: Running

    private final class Running {
        var server: Child
        init(_ server: Child) { self.server = server }
    }
    /// Where its programs are, with a trailing slash; empty: found by `PATH`.
    private let prefix: String

    /// The socket of the one in a sandbox.
    static func socket(in sandbox: Sandbox) -> String { sandbox.directory + "/containerd/socket" }

    /// Starts one and waits until it answers.
    ///
    /// - Parameters:
    ///   - proxies: snapshotters that are programs of their own, by name: their sockets.
    ///   - cri: the configuration of the plugin that kubelet speaks to; without it the plugin is off.
    ///   - programs: the directory of another version's programs.
    init(
        in sandbox: Sandbox, proxies: [String: String] = [:], cri: String? = nil, programs: String? = nil
    ) throws {
        self.sandbox = sandbox
        prefix = programs.map { $0 + "/" } ?? ""
        let directory = sandbox.directory + "/containerd"
        socket = Self.socket(in: sandbox)
        // That of containerd 2 is in three parts.
        let all = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
        let disabled = (cri == nil ? all : []) + ["io.containerd.internal.v1.opt"]
        try createDirectories(directory)
        var configuration = """
            version = 2
            root = "\(directory)/root"
            state = "\(directory)/state"
            disabled_plugins = \(disabled)
            [grpc]
              address = "\(socket)"
            [ttrpc]
              address = "\(directory)/ttrpc"

            """
        for (name, address) in proxies.sorted(by: { $0.key < $1.key }) {
            configuration += "[proxy_plugins.\(name)]\n  type = \"snapshot\"\n  address = \"\(address)\"\n"
        }
        configuration += cri ?? ""
        try write(configuration.utf8, to: directory + "/config.toml")
        running = Running(try Self.start(in: sandbox, prefix))
    }

    private static func start(in sandbox: Sandbox, _ prefix: String) throws -> Child {
        let server = try sandbox.startProgram([
            prefix + "containerd", "--config", sandbox.directory + "/containerd/config.toml", "--log-level", "warn",
        ])
        let isReady = eventually(seconds: 60) {
            !server.isRunning
                || (try? run([prefix + "ctr", "-a", socket(in: sandbox), "version"], seconds: 5))?.exitCode == 0
        }
        guard isReady, server.isRunning else {
            server.send(SIGKILL)
            throw Outcome.Failed(description: "containerd is not ready\n\(server.wait())")
        }
        return server
    }

    /// What it has logged since it was started last.
    var log: String { running.server.errorsSoFar }

    /// Ends it before its sandbox is removed.
    func stop() {
        running.server.send(SIGTERM)
        running.server.wait(seconds: 30)
    }

    /// Kills it, and starts it again when its clients have heard of it.
    func kill() throws {
        running.server.send(SIGKILL)
        running.server.wait(seconds: 30)
        running.server = try Self.start(in: sandbox, prefix)
    }

    /// Runs `ctr`, which must succeed.
    @discardableResult
    func ctr(_ arguments: String..., seconds: Double = 120) throws -> Outcome {
        try run([prefix + "ctr", "-a", socket] + arguments, seconds: seconds).orThrow()
    }

    /// Runs `ctr-remote`, which must succeed.
    @discardableResult
    func remote(_ arguments: String..., seconds: Double = 120) throws -> Outcome {
        try run([prefix + "ctr-remote", "-a", socket] + arguments, seconds: seconds).orThrow()
    }

    /// Pulls an image of a registry on this machine; returns where its files are, as containerd has unpacked them.
    func unpack(_ reference: String, _ name: String = "unpacked") throws -> String {
        try ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference)
        let path = try sandbox.mountPoint(name)
        try ctr("images", "mount", "--snapshotter", "overlayfs", reference, path)
        return path
    }
}
