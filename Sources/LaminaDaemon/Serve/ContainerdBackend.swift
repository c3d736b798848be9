import LaminaOCI
import LaminaSnapshotter

/// What containerd is answered with.
struct ContainerdBackend: Sendable {
    var snapshotter: Snapshotter
    /// Where the credentials stay that kubelet sends along with pulls; nil where CRI's image service is not to be offered.
    var credentials: KeptCredentials?
    /// containerd's own socket.
    var imageServicePath: String
}

extension Engine {
    /// What containerd is answered with; ends with the engine. Needs the file system.
    func makeContainerdBackend() throws -> ContainerdBackend {
        ContainerdBackend(
            snapshotter: try makeSnapshotter(), credentials: keptCredentials,
            imageServicePath: configuration.criKeychain.imageServicePath)
    }
}
