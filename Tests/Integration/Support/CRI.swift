import LaminaSystem
import LaminaTestSupport

/// Does what kubelet does, with a client of CRI: images at lamina's socket, pods at that of a containerd with lamina as its
/// snapshotter.
struct CRI {
    let containerd: LaminaContainerd
    private let sandbox: Sandbox

    /// Starts lamina and containerd.
    ///
    /// - Parameter lamina: more of lamina's configuration.
    init(_ sandbox: Sandbox, lamina: String = "") throws {
        self.sandbox = sandbox
        let keychain = """
            [cri_keychain]
            enable_keychain = true
            image_service_path = "\(Containerd.socket(in: sandbox))"

            """
        let plugin = """
            [plugins."io.containerd.grpc.v1.cri"]
              sandbox_image = "\(try Self.pauseImage.get())"
              disable_tcp_service = true
              stream_server_port = "0"
              restrict_oom_score_adj = true
              [plugins."io.containerd.grpc.v1.cri".containerd]
                snapshotter = "lamina"
                disable_snapshot_annotations = false
                default_runtime_name = "runc"
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
                  runtime_type = "io.containerd.runc.v2"
              [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "\(sandbox.directory)/none"
                conf_dir = "\(sandbox.directory)/none"

            """
        containerd = try LaminaContainerd(sandbox, laminaConfiguration: keychain + lamina, cri: plugin)
    }

    /// Runs a test with one, and ends its pods and its containerd before the sandbox is removed.
    static func with(_ lamina: String = "", _ body: (CRI, Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let cri = try CRI(sandbox, lamina: lamina)
            defer { cri.stop() }
            do {
                try body(cri, sandbox)
            } catch {
                print("containerd:\n\(cri.containerd.log.suffix(4000))")
                throw error
            }
        }
    }

    /// Runs a command of the client (`Tests/Containerd/cri`) to its end, successful or not.
    ///
    /// - Parameter images: the socket of the image service; by default lamina's.
    func attempt(_ words: [String], images: String? = nil) throws -> Outcome {
        let sockets = [images ?? containerd.address, Containerd.socket(in: sandbox)]
        return try sandbox.startProgram([GoProgram.cri.get()] + sockets + words).wait(seconds: 120)
    }

    /// Runs a command, which must succeed; returns what it printed.
    @discardableResult
    func callAsFunction(_ words: String...) throws -> String { try attempt(words).orThrow().output }

    private func stop() {
        for pod in (try? self("pods").split(separator: "\n").map(String.init)) ?? [] {
            _ = try? attempt(["stop-pod", pod])
            _ = try? attempt(["remove-pod", pod])
        }
        containerd.stop()
    }

    // MARK: Made once

    /// The image that each pod starts with; it is lazy too.
    static let pauseImage = Result<String, any Error> {
        let directory = try Shared.directory.get() + "/pause"
        let (tree, layout, converted) = (directory + "/tree", directory + "/pause.oci", directory + "/lazy.oci")
        try createDirectories(tree)
        try run(["cp", GoProgram.cri.get(), tree + "/pause"]).orThrow()
        try run(["tar", "-C", tree, "--numeric-owner", "-cf", tree + ".tar", "."]).orThrow()
        try LayeredImages.make(layout, of: [tree + ".tar"], entrypoint: ["/pause", "pause"])
        try run([
            Requirements.lamina, "convert", "--level", "1", "oci:\(layout):latest", "oci:\(converted):latest",
        ]).orThrow()
        let registry = try Shared.registry.get()
        try registry.push(layout: converted, sourceTag: "latest", name: "pause", tag: "1")
        return "\(registry.host)/pause:1"
    }
}
